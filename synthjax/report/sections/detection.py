"""What pre-training was worth to a detector, as a section of the page."""

from collections.abc import Mapping, Sequence
from html import escape

from synthjax.report import charts, html_tables
from synthjax.report.sections import detection_drawings
from synthjax.report.sections.accuracy import Section, hundred
from synthjax.report.sections.detection_drawings import LEAST_SCORE, Example
from synthjax.report.sections.few_shot import interval_words
from synthjax.report.summaries import PRECISIONS

_HOW = (
  "Average precision in %, the mean over seeds. For AP50 a box is right if its "
  "overlap with the object (IoU) is above 50 %, for AP75 above 75 %; AP is the "
  "mean over ten thresholds from 50 % to 95 %."
)
_DRAWN = (
  "Dashed: the objects. Blue with ✓: the surest box on one of them, of its "
  "class and with an IoU above 50 %. Orange with ✗: on no object, or one more "
  "box on the same. Green with ○: on a difficult object, which does not count. "
  f"Boxes of a score below {LEAST_SCORE} are left out. Press a drawing to "
  "enlarge it; the arrow keys go on from there."
)


def headline(results: Mapping) -> dict | None:
  """Returns the AP50 that stands for a run of detectors alone.

  It is that of the last first weights of the config, fixed before the test
  images were opened: an entry of the summary with `difference`, to the
  reference, or None.
  """
  found = results.get("detected") or {"summary": []}
  rows = [row for row in found["summary"] if row["metric"] == "AP50"]
  if not rows:
    return None
  same = lambda row: (row.get("init"), row.get("metric"))
  # Those to the reference come before those of other pairs.
  gains = {same(row): row for row in reversed(found["differences"])}
  return rows[-1] | {"difference": gains.get(same(rows[-1]))}


def detect(results: Mapping, examples: Sequence[Example]) -> Section:
  """Shows average precisions in all and by class, and some detections."""
  found = results.get("detected")
  if not found or not found["summary"]:
    return Section("detection", "Detection", "")
  by_init: dict = {}
  for row in found["summary"]:
    by_init.setdefault(row["init"], {})[row["metric"]] = row
  references = [row.get("reference") for row in found["differences"]]
  reference = references[0] if references else None
  means = _chart(by_init, reference) + _table(by_init)
  content = (
    f'<p>{_HOW}</p><div class="pair lean">{means}</div>'
    + _differences(found["differences"])
    + _classes(found["per_class"], list(by_init), reference, headline(results))
    + _drawings(examples, list(by_init))
  )
  return Section("detection", "Detection", content)


def _chart(by_init: Mapping, reference: str | None) -> str:
  rows = {i: of["AP50"] for i, of in by_init.items() if "AP50" in of}
  chart = charts.dots(
    [
      charts.Dot(
        init,
        hundred(row["mean"]),
        hundred(row["std"]),
        [100 * x for x in row["values"]],
      )
      for init, row in rows.items()
    ],
    xlabel="AP50 (%)",
    label="AP50 for each of the first weights, in percent",
    reference=hundred(rows.get(reference, {}).get("mean")),
  )
  dashed = f" Dashed: {reference}." if reference in rows else ""
  return charts.figure(
    chart,
    "AP50 by first weights. Dots: mean over seeds, bars ± one standard "
    f"deviation, small dots: the seeds.{dashed}",
  )


def _table(by_init: Mapping) -> str:
  rows = [
    [
      init,
      html_tables.count(max(row["n"] for row in of.values())),
      *(_cell(of.get(metric)) for metric in PRECISIONS),
    ]
    for init, of in by_init.items()
  ]
  return html_tables.table(
    ("first weights", "seeds", *PRECISIONS),
    rows,
    caption="Average precision (%), below it the 95 % interval of the mean "
    "over seeds (t distribution)",
  )


def _cell(row: Mapping | None) -> html_tables.Cell:
  if row is None:
    return html_tables.Cell(html_tables.percent(None))
  return html_tables.Cell(
    html_tables.percent(row["mean"], 2), [interval_words(row)]
  )


def _differences(differences: Sequence[Mapping]) -> str:
  rows = [
    [
      f"{row.get('init')} − {row.get('reference')}",
      str(row.get("metric", html_tables.NONE)),
      html_tables.count(row.get("n")),
      html_tables.points(row["mean"], 2),
      html_tables.percent(row.get("stderr"), 2),
      html_tables.span(row.get("low"), row.get("high"), html_tables.points)
      or html_tables.NONE,
    ]
    for row in differences
  ]
  if not rows:
    return ""
  head = (
    "difference",
    "metric",
    "pairs",
    "mean (points)",
    "± std. error",
    "95 % interval",
  )
  return html_tables.table(
    head, rows, caption="Difference in average precision, paired by seed"
  )


def _classes(
  per_class: Sequence[Mapping],
  inits: Sequence[str],
  reference: str | None,
  head: Mapping | None,
) -> str:
  """Shows AP50 of each class, and below it the difference to the reference."""
  if not per_class:
    return ""

  def cell(row, init):
    x, start = row["ap50"].get(init), row["ap50"].get(reference)
    below = []
    if init != reference and None not in (x, start):
      below = [html_tables.points(x - start).text]
    return html_tables.Cell(html_tables.percent(x), below)

  caption = "AP50 of each class (%), the mean over seeds"
  if reference:
    caption += f"; below it the difference to “{reference}” in points"
  absent = [
    row["class"]
    for row in per_class
    if all(x is None for x in row["ap50"].values())
  ]
  note = ""
  if absent:
    names = escape(", ".join(absent))
    note = f"<p>Without objects, and left out of the means: {names}.</p>"
  table = html_tables.table(
    ("class", *inits),
    [[row["class"], *(cell(row, i) for i in inits)] for row in per_class],
    caption=caption,
  )
  chart = _gains(per_class, head["init"], reference) if head else ""
  return f'{note}<div class="pair lean">{chart}{table}</div>'


def _gains(
  per_class: Sequence[Mapping], init: str, reference: str | None
) -> str:
  pairs = [
    (row["class"], row["ap50"].get(init), row["ap50"].get(reference))
    for row in per_class
  ]
  gains = [
    (name, 100 * (x - start))
    for name, x, start in pairs
    if None not in (x, start)
  ]
  chart = charts.bars(
    sorted(gains, key=lambda gain: -gain[1]) if init != reference else [],
    xlabel="difference in AP50 (points)",
    label=f"Difference of each class in AP50: {init} against {reference}",
  )
  return charts.figure(
    chart, f"AP50 of {init} less {reference}, class by class."
  )


# --- drawings ---------------------------------------------------------------


def _drawings(examples: Sequence[Example], inits: Sequence[str]) -> str:
  """Draws what each detector found, side by side on the same images."""
  if not examples:
    return ""
  place = {init: i for i, init in enumerate(inits)}
  groups: dict = {}
  for example in examples:
    groups.setdefault(example.index, []).append(example)
  parts = []
  for index, group in groups.items():
    group.sort(key=lambda example: place.get(example.init, len(place)))
    figures, images = [], {}
    for number, example in enumerate(group):
      # The same image is in the page once.
      key, name = (example.data, example.size), f"detected-{index}-{number}"
      image = detection_drawings.image_of(example, name)
      if key in images:
        image = f'<use href="#{images[key]}"/>'
      images.setdefault(key, name)
      figures.append(_figure(example, image))
    parts.append(
      f'<section class="drawn"><h4>Image {index}</h4>'
      f'<div class="charts">{"".join(figures)}</div></section>'
    )
  table = html_tables.details("Drawn detections as a table", _listed(groups))
  return (
    f"<h3>Detections in test images</h3><p>{_DRAWN}</p>{''.join(parts)}{table}"
  )


def _figure(example: Example, image: str) -> str:
  shown = detection_drawings.drawn(example)
  count = lambda verdict: sum(box.verdict == verdict for box in shown)
  objects = sum(not box.verdict for box in example.truth)
  hidden = len(example.found) - len(shown)
  words = (
    f"{example.init}: {count('right')} of {objects} objects found, "
    f"{count('wrong')} wrong"
  )
  words += f"; {hidden} more below {LEAST_SCORE}" if hidden else ""
  return (
    f'<figure><button type="button" class="zoom">'
    f"{detection_drawings.draw(example, image)}</button>"
    f"<figcaption>{escape(words)}</figcaption></figure>"
  )


def _listed(groups: Mapping[int, Sequence[Example]]) -> str:
  rows = [
    [
      str(index),
      example.init,
      box.label,
      html_tables.decimal(box.score, 3),
      box.verdict,
      ", ".join(f"{x:.0f}" for x in box.box),
    ]
    for index, group in groups.items()
    for example in group
    for box in detection_drawings.drawn(example)
  ]
  head = ("image", "first weights", "class", "score", "verdict", "box (px)")
  return html_tables.table(
    head, rows, caption="Detections: left, top, right, bottom"
  )
