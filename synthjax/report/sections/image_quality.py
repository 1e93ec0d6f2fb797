"""The figures of the dataset card, as a section of the page."""

from collections.abc import Mapping, Sequence
from html import escape

from synthjax.report import html_tables as tables
from synthjax.report.card.tables import (
  ONE_ENCODER,
  SET_NAMES,
  called,
  few_images,
  figures_by,
)
from synthjax.report.sections.accuracy import Section

_TITLE = "Quality of the images"


def quality(results: Mapping) -> Section:
  """Shows quality, likenesses among the images and to real ones."""
  card = results.get("card")
  if not card:
    return Section("quality", _TITLE, "")
  pairs, found = card.get("pairs", {}), card["quality"]
  figures = _figures(found, found["neighbours"])
  content = (
    _intro(card)
    + f'<div class="pair">{figures}{_classes(card)}</div>'
    + _by_encoders(card)
    + _twins(card["duplicates"], pairs.get("duplicates", []))
  )
  if card.get("leakage"):
    content += _leakage(card["leakage"], pairs.get("leakage", []))
  return Section("quality", _TITLE, content + _models(card))


def _intro(card: Mapping) -> str:
  compared, count = card["quality"]["compared"], card["num_images"]
  part = ""
  if compared < count:
    part = (
      f" Of {tables.count(count).text} images, {tables.count(compared).text} "
      "were compared, chosen by chance."
    )
  further = ""
  if names := [called(each["model"]) for each in _encoders(card)]:
    further = escape(f", and of {' and '.join(names)}")
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
    f"<h3>By {escape(called(each['model']))}</h3>"
    + _figures(each, card["quality"]["neighbours"])
    + (f"<p>{escape(note)}</p>" if (note := few_images(each)) else "")
    for each in _encoders(card)
  )


def _figures(found: Mapping, neighbours: int) -> str:
  sets, rows = found["sets"], []
  for key, name, better, source in figures_by(found):
    values = [of["figures"].get(key) for of in sets.values()]
    if any(value is not None for value in values):
      label = f"{name}, {'↓' if better == 'lower' else '↑'}"
      rows.append([label, *(tables.short(x) for x in values), source])
  heads = ["measure", *(SET_NAMES[name] for name in sets), "of"]
  caption = (
    "↓ less is better, ↑ more is better. Precision to coverage: balls to "
    f"neighbour {neighbours}"
  )
  return tables.table(heads, rows, caption=caption)


def _classes(card: Mapping) -> str:
  own = card["quality"]["sets"]["all"]["by_class"]
  rows = [
    [
      name,
      tables.count(own["images"][i]),
      tables.decimal(own["clip_score"][i], 1),
      tables.decimal(own["vendi"][i], 1),
      tables.decimal(own["distance"][i], 2),
    ]
    for i, name in enumerate(card["classes"])
  ]
  heads = ("class", "images", "CLIP score", "Vendi score", "distance")
  return tables.table(
    heads,
    rows,
    caption="All images by class; distance: mean cosine distance of two",
  )


def _twins(found: Mapping, pairs: Sequence[Mapping]) -> str:
  text = (
    f"<h3>Near duplicates</h3><p>{tables.count(found['equal_files']).text} "
    "files are equal to one before them. At a cosine of "
    f"{found['threshold']:g} or more there are "
    f"{tables.count(found['near_pairs']).text} pairs; if one of each group of "
    "such images stayed, "
    f"{tables.count(found['near_more_than_one']).text} of "
    f"{tables.count(found['compared']).text} would go.</p>"
  )
  return text + _pairs(pairs, "generated")


def _leakage(found: Mapping, pairs: Sequence[Mapping]) -> str:
  cosine, among = found["cosine"], found.get("cosine_among_real")
  text = (
    "<h3>Near the images that are measured on</h3>"
    f"<p>{tables.count(found['near']).text} of "
    f"{tables.count(found['compared']).text} generated images reach a cosine "
    f"of {found['threshold']:g} with one of "
    f"{tables.count(found['real_images']).text} real ones."
  )
  if among:
    share = tables.percent(found["nearer_than_real"]).text
    text += (
      f" {share} % are nearer to their nearest real image than any other real "
      "image is. Likeness of features is no copy: look at the nearest pairs."
    )
  names = (("median", "median"), ("p99", "99 % below"), ("max", "largest"))
  rows = [["generated to real", *(_cosine(cosine[key]) for key, _ in names)]]
  if among:
    rows.append(["real to real", *(_cosine(among[key]) for key, _ in names)])
  table = tables.table(
    ["images", *(name for _, name in names)],
    rows,
    caption="Cosine with the nearest image",
  )
  return f"{text}</p>{table}{_pairs(pairs, 'real')}"


def _cosine(x: float) -> tables.Number:
  return tables.decimal(x, 3)


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
      f"<figcaption>{escape(', '.join(notes))}</figcaption></figure>"
    )
  return f'<div class="twin-list">{"".join(figures)}</div>'


def _side(side: Mapping, kind: str) -> str:
  told = side.get("prompt") or side["id"]
  words = f"{kind}: {side['class']}"
  return (
    f'<span title="{escape(told)}"><img src="{escape(side["image"])}" '
    f'alt="{escape(words)}" width="72" height="72">'
    f"{escape(words)}</span>"
  )


def _models(card: Mapping) -> str:
  rows = [
    [
      model["field"],
      model["name"] or "not named",
      model["what"] or tables.NONE,
      model["licence"] or "not known",
      model["sha256"][:12],
    ]
    for model in card["models"]
  ]
  heads = ("field", "file", "what", "licence", "SHA-256")
  table = tables.table(heads, rows, caption="What the images were made with")
  return tables.details("Models and licences", table)
