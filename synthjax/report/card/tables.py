"""Figures and tables of a dataset card, in Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Figure(NamedTuple):
  """A figure of image sets."""

  key: str  # in `card.json`
  name: str
  better: str  # "lower" or "higher"
  source: str
  values: tuple = ()  # of each set, None where it was not measured


FIGURES = (
  Figure("frechet", "Fréchet distance", "lower", "Heusel et al. 2017"),
  Figure("kernel", "kernel distance", "lower", "Bińkowski et al. 2018"),
  Figure("precision", "precision", "higher", "Kynkäänniemi et al. 2019"),
  Figure("recall", "recall", "higher", "Kynkäänniemi et al. 2019"),
  Figure("density", "density", "higher", "Naeem et al. 2020"),
  Figure("coverage", "coverage", "higher", "Naeem et al. 2020"),
  Figure("vendi", "Vendi score", "higher", "Friedman & Dieng 2023"),
  Figure(
    "class_vendi", "Vendi score in a class", "higher", "mean over classes"
  ),
  Figure(
    "class_distance", "cosine distance in a class", "higher", "mean of pairs"
  ),
  Figure("clip_score", "CLIP score, class", "higher", "100 x mean cosine"),
  Figure(
    "prompt_clip_score", "CLIP score, prompt", "higher", "100 x mean cosine"
  ),
)
# Names of two of them by the features of Inception alone.
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


def figures_by(quality: Mapping[str, Any]) -> list[Figure]:
  """Returns the FIGURES that were measured, with their values.

  Args:
    quality: the `quality` of a card, or one of its `encoders`, whose features
      decide about names.
  """
  names = _INCEPTION if _is_inception(quality) else {}
  figures = [
    figure._replace(
      name=names.get(figure.key, figure.name),
      values=tuple(
        one_set["figures"].get(figure.key)
        for one_set in quality["sets"].values()
      ),
    )
    for figure in FIGURES
  ]
  return [f for f in figures if any(x is not None for x in f.values)]


def few_images(quality: Mapping[str, Any]) -> str:
  """Warns of an FID of few images; returns "" if there is nothing to say."""
  counts = {
    name: one_set["figures"]["images"]
    for name, one_set in quality["sets"].items()
  }
  drawn, real = counts["all"], counts.get("real")
  if not _is_inception(quality) or not real:
    return ""
  if min(counts.values()) >= _PUBLISHED:
    return ""
  return (
    "A Fréchet distance comes out larger of fewer images (Chong & Forsyth "
    f"2020), and published FIDs are of {_PUBLISHED:,} as a rule: this one, of "
    f"{drawn:,} generated and {real:,} real images, compares only with those "
    "of as many. The kernel distance has no such bias."
  )


def _is_inception(quality: Mapping[str, Any]) -> bool:
  return quality.get("identity", {}).get("encoder") == "inception"


def quality(card: Mapping[str, Any]) -> str:
  """Shows the figures of all sets, by each encoder."""
  measured = card["quality"]
  text = (
    f"By the features of {_encoder(card)}. Balls reach to neighbour "
    f"{measured['neighbours']}; {measured['compared']:,} of "
    f"{card['num_images']:,} images were compared. {ONE_ENCODER}\n\n"
    f"{_figures(measured)}"
  )
  for further in measured.get("encoders", []):
    model = further["model"]
    text += (
      f"\nBy the features of {called(model)} (licence "
      f"{model['licence'] or 'not known'}, SHA-256 `{model['sha256'][:16]}`):"
      f"\n\n{_figures(further)}"
    )
    if note := few_images(further):
      text += f"\n{note}\n"
  return text


def _figures(quality: Mapping[str, Any]) -> str:
  rows = [
    [
      f"{figure.name} ({figure.better} is better)",
      *("–" if x is None else f"{x:.4g}" for x in figure.values),
      figure.source,
    ]
    for figure in figures_by(quality)
  ]
  return table(["", *(SET_NAMES[name] for name in quality["sets"]), ""], rows)


def _encoder(card: Mapping[str, Any]) -> str:
  """Names the encoder of the features."""
  models = [m for m in card["models"] if m["field"] == "encoder.weights"]
  return f"the encoder {called(models[0])}" if models else "one encoder"


def plain(text: str) -> str:
  """Returns a text that Markdown shows as it is, such as a class's name."""
  line = " ".join(text.split())  # as a break would end a heading or a cell
  return re.sub(r"[\\`*_{}\[\]<>#+!~$&@:^=\"]", r"\\\g<0>", line)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a Markdown table."""
  escape = lambda cell: str(cell).replace("|", "\\|").replace("\n", " ")
  lines = [heads, ["---"] * len(heads), *rows]
  return "".join(f"| {' | '.join(map(escape, line))} |\n" for line in lines)
