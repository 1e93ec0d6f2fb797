"""Figures and tables of a dataset card, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.report.checked_files import number

# The figures of a set: key, name, which way is better, and what it is.
FIGURES = (
  ("frechet", "Fréchet distance", "lower", "Heusel et al. 2017"),
  ("kernel", "kernel distance", "lower", "Bińkowski et al. 2018"),
  ("precision", "precision", "higher", "Kynkäänniemi et al. 2019"),
  ("recall", "recall", "higher", "Kynkäänniemi et al. 2019"),
  ("density", "density", "higher", "Naeem et al. 2020"),
  ("coverage", "coverage", "higher", "Naeem et al. 2020"),
  ("vendi", "Vendi score", "higher", "Friedman & Dieng 2023"),
  ("class_vendi", "Vendi score in a class", "higher", "mean over classes"),
  ("class_distance", "cosine distance in a class", "higher", "mean of pairs"),
  ("clip_score", "CLIP score, class", "higher", "100 x mean cosine"),
  ("prompt_clip_score", "CLIP score, prompt", "higher", "100 x mean cosine"),
)
# What two of them are called by Inception's features, and by no others.
_INCEPTION = {
  "frechet": "Fréchet inception distance (FID)",
  "kernel": "kernel inception distance (KID)",
}
_PUBLISHED = 50_000  # images that published FIDs are of, as a rule
SET_NAMES = {"all": "all images", "kept": "kept", "real": "real images"}
# What is said of figures wherever they are shown.
ONE_ENCODER = (
  "Figures compare with those of other image sets only by the same encoder, "
  "the same pixels and the same real images."
)


def called(model: Mapping[str, Any]) -> str:
  """Names a model in one line."""
  name = model["name"] or "not named"
  return f"{name}, {model['what']}" if model["what"] else name


def figures_by(found: Mapping[str, Any]) -> list[tuple]:
  """Returns FIGURES, by the names that they have by an encoder's features.

  Args:
    found: the `quality` of a card, or one of its `encoders`.
  """
  own = _INCEPTION if _is_inception(found) else {}
  return [(key, own.get(key, name), *rest) for key, name, *rest in FIGURES]


def few_images(found: Mapping[str, Any]) -> str:
  """Returns what limits an FID, "" where there is none or nothing does."""
  counts = {k: of["figures"]["images"] for k, of in found["sets"].items()}
  drawn, real = counts["all"], counts.get("real")
  if not _is_inception(found) or not real:
    return ""
  if min(counts.values()) >= _PUBLISHED:
    return ""
  return (
    "A Fréchet distance comes out larger of fewer images (Chong & Forsyth "
    f"2020), and published FIDs are of {_PUBLISHED:,} as a rule: this one, of "
    f"{drawn:,} generated and {real:,} real images, compares only with those "
    "of as many. The kernel distance has no such bias."
  )


def _is_inception(found: Mapping[str, Any]) -> bool:
  return found.get("identity", {}).get("encoder") == "inception"


def digits(value: Any) -> str:
  """Writes a figure in four digits."""
  return "–" if number(value) is None else f"{value:.4g}"


def quality(card: Mapping[str, Any]) -> str:
  """Shows the figures of all sets, by each encoder."""
  found = card["quality"]
  own = _figures(found)
  text = (
    f"By the features of {_encoder(card)}. Balls reach to neighbour "
    f"{found['neighbours']}; {found['compared']:,} of "
    f"{card['num_images']:,} images were compared. {ONE_ENCODER}\n\n{own}"
  )
  for further in found.get("encoders", []):
    model = further["model"]
    text += (
      f"\nBy the features of {called(model)} (licence "
      f"{model['licence'] or 'not known'}, SHA-256 `{model['sha256'][:16]}`):"
      f"\n\n{_figures(further)}"
    )
    if note := few_images(further):
      text += f"\n{note}\n"
  return text


def _figures(found: Mapping[str, Any]) -> str:
  sets = found["sets"]
  rows = [
    [f"{name} ({better} is better)"]
    + [digits(of["figures"].get(key)) for of in sets.values()]
    + [source]
    for key, name, better, source in figures_by(found)
    if any(of["figures"].get(key) is not None for of in sets.values())
  ]
  return table(["", *(SET_NAMES[name] for name in sets), ""], rows)


def _encoder(card: Mapping[str, Any]) -> str:
  """Names the encoder of the features."""
  found = [m for m in card["models"] if m["field"] == "encoder.weights"]
  return f"the encoder {called(found[0])}" if found else "one encoder"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a Markdown table."""
  escape = lambda cell: str(cell).replace("|", "\\|").replace("\n", " ")
  lines = [heads, ["---"] * len(heads), *rows]
  return "".join(f"| {' | '.join(map(escape, line))} |\n" for line in lines)
