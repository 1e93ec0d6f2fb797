"""The figures of the dataset card, near duplicates and neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.report import markup
from synthjax.report.card.readme import (
  ONE_ENCODER,
  SET_NAMES,
  called,
  few_images,
  figures_by,
  which_compared,
)
from synthjax.report.checked_files import Run, files_of, read_json

PLACE, TITLE = 110, "Quality of the images"


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Adds `card`, with its `pairs`."""
  del results
  if not files_of(run, "card"):
    return {}
  pairs = read_json(run, "card", "pairs.json")
  return {"card": read_json(run, "card", "card.json") | {"pairs": pairs}}


def render(results: Mapping) -> str:
  """Shows quality, near duplicates, and the nearest real images."""
  card = results.get("card")
  if not card:
    return ""
  pairs, quality = card.get("pairs", {}), card["quality"]
  figures = _figures(quality, quality["neighbours"])
  content = (
    _intro(card)
    + f'<div class="pair">{figures}{_classes(card)}</div>'
    + _by_encoders(card)
    + _twins(card, pairs.get("duplicates", []))
  )
  if card.get("leakage"):
    content += _leakage(card["leakage"], pairs.get("leakage", []))
  return content + _models(card)


def _intro(card: Mapping) -> str:
  compared, drawn = card["quality"]["compared"], card["num_images"]
  part = further = ""
  if compared < drawn:
    part = (
      f" Of {markup.count(drawn)} images, {markup.count(compared)} were "
      "compared, chosen at random."
    )
  if names := [called(encoder["model"]) for encoder in _encoders(card)]:
    further = markup.escape(f", and of {' and '.join(names)}")
  return (
    "<p>All drawn images are the output of a model, and none is a photograph "
    "or the work of a person; <code>card/README.md</code> and "
    "<code>card/croissant.json</code> say so to others. The figures below "
    "compare features of the encoder of this run"
    f"{further}. {ONE_ENCODER}{part}</p>"
  )


def _encoders(card: Mapping) -> Sequence[Mapping]:
  """Returns the further encoders that the images were compared by."""
  return card["quality"].get("encoders", [])


def _by_encoders(card: Mapping) -> str:
  """Shows the figures of each further encoder."""
  return "".join(
    f"<h3>By {markup.escape(called(encoder['model']))}</h3>"
    + _figures(encoder, card["quality"]["neighbours"])
    + (f"<p>{markup.escape(note)}</p>" if (note := few_images(encoder)) else "")
    for encoder in _encoders(card)
  )


def _figures(quality: Mapping, neighbours: int) -> str:
  sets, rows = quality["sets"], []
  for figure in figures_by(quality):
    arrow = "↓" if figure.better == "lower" else "↑"
    cells = [markup.short(value) for value in figure.values]
    rows.append([f"{figure.name}, {arrow}", *cells, figure.source])
  heads = ["measure", *(SET_NAMES[name] for name in sets), "of"]
  caption = (
    "↓ less is better, ↑ more is better. Precision to coverage: balls to "
    f"neighbour {neighbours}"
  )
  return markup.grid(heads, rows, caption=caption)


def _classes(card: Mapping) -> str:
  by_class = card["quality"]["sets"]["all"]["by_class"]
  columns = {"class": lambda i: card["classes"][i]}
  columns |= {
    "images": lambda i: markup.count(by_class["images"][i]),
    "CLIP score": lambda i: markup.decimal(by_class["clip_score"][i], 1),
    "Vendi score": lambda i: markup.decimal(by_class["vendi"][i], 1),
    "distance": lambda i: markup.decimal(by_class["distance"][i], 2),
  }
  return markup.table(
    columns,
    range(len(card["classes"])),
    caption="All images by class; distance: mean cosine distance of two",
  )


def _twins(card: Mapping, pairs: Sequence[Mapping]) -> str:
  counts = card["duplicates"]
  among = f" {words}" if (words := which_compared(card)) else ""
  text = (
    f"<h3>Near duplicates</h3><p>{markup.count(counts['equal_files'])} "
    "files are equal to one before them. At a cosine of "
    f"{counts['threshold']:g} or more there are "
    f"{markup.count(counts['near_pairs'])} pairs; if one of each group of "
    "such images stayed, "
    f"{markup.count(counts['near_more_than_one'])} of "
    f"{markup.count(counts['compared'])}{among} would go.</p>"
  )
  return text + _pairs(pairs, "generated")


def _leakage(figures: Mapping, pairs: Sequence[Mapping]) -> str:
  cosine, among = figures["cosine"], figures.get("cosine_among_real")
  text = (
    "<h3>Near the images that are measured on</h3>"
    f"<p>{markup.count(figures['near'])} of "
    f"{markup.count(figures['compared'])} generated images reach a cosine "
    f"of {figures['threshold']:g} with one of "
    f"{markup.count(figures['real_images'])} real ones."
  )
  if among:
    share = markup.percent(figures["nearer_than_real"]).text
    text += (
      f" {share} % are nearer to their nearest real image than any other real "
      "image is. Likeness of features is no copy: look at the nearest pairs."
    )
  keys = {"median": "median", "p99": "99 % below", "max": "largest"}
  sets = {"generated to real": cosine}
  sets |= {"real to real": among} if among else {}
  rows = [
    [name, *(markup.decimal(values[key], 3) for key in keys)]
    for name, values in sets.items()
  ]
  table = markup.grid(
    ["images", *keys.values()], rows, caption="Cosine with the nearest image"
  )
  return f"{text}</p>{table}{_pairs(pairs, 'real')}"


def _pairs(pairs: Sequence[Mapping], other: str) -> str:
  """Shows generated images beside others, the nearest first."""
  if not pairs:
    return ""
  figures = []
  for pair in pairs:
    notes = [f"cosine {pair['cosine']:.3f}"]
    if pair.get("nearest_real") is not None:
      notes.append(f"real to real {pair['nearest_real']:.3f}")
    if pair.get("same_file") or pair.get("same_pixels"):
      notes.append("the same pixels")
    sides = _side(pair["a"], "generated") + _side(pair["b"], other)
    figures.append(
      f'<figure class="twins"><div>{sides}</div>'
      f"<figcaption>{markup.escape(', '.join(notes))}</figcaption></figure>"
    )
  return f'<div class="twin-list">{"".join(figures)}</div>'


def _side(side: Mapping, kind: str) -> str:
  hover = side.get("prompt") or side["id"]
  caption = markup.escape(f"{kind}: {side['class']}")
  return (
    f'<span title="{markup.escape(hover)}"><img '
    f'src="{markup.escape(side["image"])}" alt="{caption}" '
    'width="72" height="72">'
    f"{caption}</span>"
  )


def _models(card: Mapping) -> str:
  models = markup.table(
    {
      "field": lambda model: model["field"],
      "file": lambda model: model["name"] or "not named",
      "what": lambda model: model["what"] or markup.NONE,
      "licence": lambda model: model["licence"] or "not known",
      "SHA-256": lambda model: model["sha256"][:12],
    },
    card["models"],
    caption="What the images were made with",
  )
  return markup.details("Models and licences", models)
