"""What pre-training was worth to a detector, with detections drawn as SVG."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from synthjax.data.pipeline.codecs import shrink
from synthjax.detection import average_precision
from synthjax.detection.results import METRICS
from synthjax.report import charts, markup
from synthjax.report.charts import hundred
from synthjax.report.checked_files import Run, files_of, read_image, read_json
from synthjax.report.sections import Tile

PLACE, TITLE = 80, "Detection"
LEAST_SCORE = 0.3  # of a detection that is drawn
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


def headline(results: Mapping) -> list[Tile]:
  """Shows the AP50 of the last first weights of the config.

  The config fixed them before the test images were opened. Their difference is
  the first of the task's, which is that to the reference.
  """
  detect = results.get("detect", {"summary": []})
  rows = [row for row in detect["summary"] if row["metric"] == "AP50"]
  if not rows:
    return []
  last = rows[-1]
  tiles = [
    Tile(markup.percent(last["mean"]).text, "%", f"AP50 of {last['init']}")
  ]
  for gain in detect["differences"]:
    if (gain["init"], gain["metric"]) == (last["init"], "AP50"):
      error = f"± {markup.percent(gain['stderr'])} points"
      against = f"AP50 against {gain['reference']} ± standard error"
      return [*tiles, Tile(markup.points(gain["mean"]).text, error, against)]
  return tiles


def render(results: Mapping) -> str:
  """Shows average precisions in all and by class, and some detections."""
  detect = results.get("detect", {})
  if not detect.get("summary"):
    return ""
  by_init: dict = {}
  for row in detect["summary"]:
    by_init.setdefault(row["init"], {})[row["metric"]] = row
  references = [row["reference"] for row in detect["differences"]]
  reference = references[0] if references else None
  means = _chart(by_init, reference) + _table(by_init)
  content = (
    f'<p>{_HOW}</p><div class="pair lean">{means}</div>'
    + _differences(detect["differences"])
    + _classes(detect, [*by_init], reference)
    + _drawings(results.get("examples", ()), [*by_init])
  )
  return content


def _chart(by_init: Mapping, reference: str | None) -> str:
  rows = {i: metrics["AP50"] for i, metrics in by_init.items()}
  chart = charts.dots(
    [charts.dot(init, row) for init, row in rows.items()],
    xlabel="AP50 (%)",
    label="AP50 for each of the first weights, in percent",
    reference=hundred(rows[reference]["mean"]) if reference in rows else None,
  )
  dashed = f" Dashed: {reference}." if reference in rows else ""
  return charts.figure(
    chart,
    "AP50 by first weights. Dots: mean over seeds, bars ± one standard "
    f"deviation, small dots: the seeds.{dashed}",
  )


def _table(by_init: Mapping) -> str:
  def cell(metric):
    return lambda item: markup.Cell(
      markup.percent(item[1][metric]["mean"], 2),
      [markup.interval_or_seed(item[1][metric])],
    )

  return markup.table(
    {
      "first weights": lambda item: item[0],
      "seeds": lambda item: markup.count(item[1]["AP50"]["n"]),
    }
    | {metric: cell(metric) for metric in METRICS},
    by_init.items(),
    caption="Average precision (%), below it the 95 % interval of the mean "
    "over seeds (t distribution)",
  )


def _differences(differences: Sequence[Mapping]) -> str:
  if not differences:
    return ""
  return markup.table(
    {
      "difference": lambda row: f"{row['init']} − {row['reference']}",
      "metric": lambda row: row["metric"],
      "pairs": lambda row: markup.count(row["n"]),
      "mean (points)": lambda row: markup.points(row["mean"], 2),
      "± std. error": lambda row: markup.percent(row["stderr"], 2),
      "95 % interval": lambda row: markup.interval(row, markup.points),
    },
    differences,
    caption="Difference in average precision, paired by seed",
  )


def per_class(detect: Mapping, init: str) -> dict[str, float | None]:
  """Returns class -> AP50 of some first weights, the mean over their seeds.

  None stands for a class without objects.
  """
  rows = [row["per_class"] for row in detect["rows"] if row["init"] == init]
  mean = lambda values: sum(values) / len(values) if values else None
  return {
    name: mean([row[name] for row in rows if row.get(name) is not None])
    for name in detect["classes"]
  }


def _classes(
  detect: Mapping, inits: Sequence[str], reference: str | None
) -> str:
  """Shows AP50 of each class, and below it the difference to the reference."""
  ap50 = {init: per_class(detect, init) for init in inits}
  start = ap50.get(reference, dict.fromkeys(detect["classes"]))

  def cell(init):
    def write(name):
      x, below = ap50[init][name], []
      if init != reference and None not in (x, start[name]):
        below = [markup.points(x - start[name]).text]
      return markup.Cell(markup.percent(x), below)

    return write

  caption = "AP50 of each class (%), the mean over seeds"
  if reference:
    caption += f"; below it the difference to “{reference}” in points"
  empty = [
    name
    for name in detect["classes"]
    if all(of_init[name] is None for of_init in ap50.values())
  ]
  note = ""
  if empty:
    names = markup.escape(", ".join(empty))
    note = f"<p>Without objects, and left out of the means: {names}.</p>"
  rows = markup.table(
    {"class": lambda name: name} | {init: cell(init) for init in inits},
    detect["classes"],
    caption=caption,
  )
  last = inits[-1]
  gains = [
    (name, 100 * (x - start[name]))
    for name, x in ap50[last].items()
    if last != reference and None not in (x, start[name])
  ]
  chart = charts.bars(
    sorted(gains, key=lambda gain: -gain[1]),
    xlabel="difference in AP50 (points)",
    label=f"Difference of each class in AP50: {last} against {reference}",
  )
  figure = charts.figure(
    chart, f"AP50 of {last} less {reference}, class by class."
  )
  return f'{note}<div class="pair lean">{figure}{rows}</div>'


# --- examples ---------------------------------------------------------------

_MAX_IMAGES = 4
_MAX_DRAWN = 20  # detections of an image
_SIDE = 480  # px, of the images in the page
_PIXELS = 128  # px; images up to here are enlarged without smoothing
_FILE = re.compile(r"examples/(.+)-(\d+)\.json")
_LETTER, _LINE = 6.6, 15  # px, of a name beside a box
_MARKS = {"right": "✓", "wrong": "✗", "ignored": "○"}
_KINDS = {"right": "c0", "wrong": "c1", "ignored": "c2"}  # of the page's style


class Box(NamedTuple):
  """A detection, or an object where there is no score."""

  box: tuple[float, float, float, float]  # px, (left, top, right, bottom)
  label: str
  score: float | None
  verdict: str  # of _KINDS; of an object "difficult" or ""


class Example(NamedTuple):
  """A test image and what a detector found in it."""

  init: str  # the detector's first weights
  index: int  # of the image
  size: tuple[float, float]  # px, height and width that the boxes are of
  mime: str
  data: bytes
  pixels: bool  # small: shown as squares
  detections: Sequence[Box]  # the highest score first
  truth: Sequence[Box]


def pictures(run: Run, samples_per_class: int) -> dict[str, list[Example]]:
  """Reads `examples` of `detect`: the first images that most detectors have.

  Raises:
    UserError: naming a file that is not what the task wrote.
  """
  del samples_per_class
  inits: dict[int, list[str]] = {}
  for match in filter(None, map(_FILE.fullmatch, files_of(run, "detect"))):
    inits.setdefault(int(match[2]), []).append(match[1])
  order = sorted(inits, key=lambda index: (-len(inits[index]), index))
  examples = [
    _read(run, init, index)
    for index in sorted(order[:_MAX_IMAGES])
    for init in inits[index]
  ]
  return {"examples": examples}


def _read(run: Run, init: str, index: int) -> Example:
  name = f"examples/{init}-{index}"
  content = read_json(run, "detect", f"{name}.json")
  image = read_image(run, "detect", f"{name}.png")
  detections = sorted(
    _boxes(content["detections"]), key=lambda box: -(box.score or 0)
  )
  truth = _boxes(content["truth"])
  return Example(
    init,
    index,
    tuple(content["size"]),
    *shrink(image, _SIDE),
    max(image.shape[:2]) <= _PIXELS,
    _judge(detections, truth),
    truth,
  )


def _boxes(rows: Iterable[Mapping]) -> list[Box]:
  return [
    Box(
      tuple(row["box"]),
      row["label"],
      row.get("score"),
      "difficult" if row.get("difficult") else "",
    )
    for row in rows
  ]


def _judge(detections: Sequence[Box], truth: Sequence[Box]) -> list[Box]:
  """Returns the detections with their verdicts."""
  names = sorted({box.label for box in [*detections, *truth]})
  labels = lambda boxes: np.array([names.index(b.label) for b in boxes], int)
  corners = lambda boxes: np.array([b.box for b in boxes]).reshape(-1, 4)
  scores = np.array([b.score or 0.0 for b in detections])
  difficult = np.array([b.verdict == "difficult" for b in truth], bool)
  verdicts = average_precision.verdicts(
    average_precision.Detections(
      corners(detections), scores, labels(detections)
    ),
    average_precision.Truth(corners(truth), labels(truth), difficult),
  )
  pairs = zip(detections, verdicts, strict=True)
  return [box._replace(verdict=verdict) for box, verdict in pairs]


def _shown(example: Example) -> list[Box]:
  """Returns the detections that are drawn: those of high scores."""
  sure = [b for b in example.detections if (b.score or 0) >= LEAST_SCORE]
  return sure[:_MAX_DRAWN]


def _drawings(examples: Sequence[Example], inits: Sequence[str]) -> str:
  """Draws what each detector found, side by side on the same images."""
  if not examples:
    return ""
  place = {init: i for i, init in enumerate(inits)}
  groups: dict[int, list[Example]] = {}
  for example in examples:
    groups.setdefault(example.index, []).append(example)
  parts = []
  for index, group in groups.items():
    group.sort(key=lambda example: place.get(example.init, len(place)))
    figures, ids = [], {}
    for number, example in enumerate(group):
      # The same image is in the page once.
      key, name = (example.data, example.size), f"detected-{index}-{number}"
      image = _image(example, name)
      if key in ids:
        image = f'<use href="#{ids[key]}"/>'
      ids.setdefault(key, name)
      figures.append(_figure(example, image))
    parts.append(
      f'<section class="drawn"><h4>Image {index}</h4>'
      f'<div class="charts">{"".join(figures)}</div></section>'
    )
  boxes = [
    (index, example.init, box)
    for index, group in groups.items()
    for example in group
    for box in _shown(example)
  ]
  rows = markup.table(
    {
      "image": lambda row: str(row[0]),
      "first weights": lambda row: row[1],
      "class": lambda row: row[2].label,
      "score": lambda row: markup.decimal(row[2].score, 3),
      "verdict": lambda row: row[2].verdict,
      "box (px)": lambda row: ", ".join(f"{x:.0f}" for x in row[2].box),
    },
    boxes,
    caption="Detections: left, top, right, bottom",
  )
  return (
    f"<h3>Detections in test images</h3><p>{_DRAWN}</p>{''.join(parts)}"
    + markup.details("Drawn detections as a table", rows)
  )


def _figure(example: Example, image: str) -> str:
  verdicts = [box.verdict for box in _shown(example)]
  objects = sum(not box.verdict for box in example.truth)
  hidden = len(example.detections) - len(verdicts)
  caption = (
    f"{example.init}: {verdicts.count('right')} of {objects} objects found, "
    f"{verdicts.count('wrong')} wrong"
  )
  caption += f"; {hidden} more below {LEAST_SCORE}" if hidden else ""
  return (
    f'<figure><button type="button" class="zoom">{_draw(example, image)}'
    f"</button><figcaption>{markup.escape(caption)}</figcaption></figure>"
  )


def _draw(example: Example, image: str) -> str:
  """Draws an example; `image` is the SVG of its image, or a link to it."""
  high, wide = example.size
  scale = charts.WIDTH / max(wide, high)
  width, height = scale * wide, scale * high
  shown = _shown(example)
  parts = [f'<g transform="scale({scale:.6g})">{image}</g>']
  for box in example.truth:
    path = _outline(box, scale)
    parts.append(f'<path class="halo" d="{path}"/>')
    parts.append(f'<path class="truth" d="{path}"/>')
  # The surest lies on top.
  for box in reversed(shown):
    path, kind = _outline(box, scale), _KINDS[box.verdict]
    parts.append(f'<path class="halo" d="{path}"/>')
    parts.append(
      f'<path class="{kind} line" d="{path}">'
      f"<title>{markup.escape(_words(box))}</title></path>"
    )
  parts += [_truth_name(box, scale, width, height) for box in example.truth]
  parts += _tags(shown, scale, width, height)
  listed = "; ".join(_words(box) for box in shown) or "nothing"
  objects = ", ".join(_words(box) for box in example.truth) or "none"
  label = f"{example.init} found {listed}. Objects: {objects}."
  kind = "boxes pixels" if example.pixels else "boxes"
  return (
    f'<svg class="{kind}" viewBox="0 0 {width:.1f} {height:.1f}" '
    'preserveAspectRatio="xMinYMin" role="img" '
    f'aria-label="{markup.escape(label)}">{"".join(parts)}</svg>'
  )


def _image(example: Example, name: str) -> str:
  """Returns the image as SVG; `name` is an id for links to it."""
  high, wide = example.size
  code = base64.b64encode(example.data).decode()
  return (
    f'<image id="{name}" width="{wide:g}" height="{high:g}" '
    f'preserveAspectRatio="none" href="data:{example.mime};base64,{code}"/>'
  )


def _words(box: Box) -> str:
  """Writes a detection or an object as a few words."""
  score = "" if box.score is None else f" {box.score:.2f}"
  return f"{box.label}{score}" + (f" ({box.verdict})" if box.verdict else "")


def _outline(box: Box, scale: float) -> str:
  left, top, right, low = (scale * x for x in box.box)
  return f"M{left:.1f} {top:.1f}H{right:.1f}V{low:.1f}H{left:.1f}Z"


def _truth_name(box: Box, scale: float, width: float, height: float) -> str:
  """Writes the class of an object into its lower right corner."""
  x = min(scale * box.box[2], width) - 4
  y = min(scale * box.box[3], height) - 4
  text = box.label + (", difficult" if box.verdict else "")
  return (
    f'<text class="named" x="{x:.1f}" y="{y:.1f}" text-anchor="end">'
    f"{markup.escape(charts.cut(text, 22))}</text>"
  )


def _tags(
  boxes: Sequence[Box], scale: float, width: float, height: float
) -> list[str]:
  """Writes class and score above each box, where no other is written."""
  parts, taken = [], []
  for box in boxes:
    text = f"{_MARKS[box.verdict]} {charts.cut(box.label, 18)} {box.score:.2f}"
    size = _LETTER * len(text) + 6
    x = min(max(scale * box.box[0] - 1, 0), max(width - size, 0))
    y = scale * box.box[1] - _LINE
    y = start = min(max(y, 0), height - _LINE)
    beside = [at for at, a, b in taken if a < x + size and x < b]
    while any(abs(y - other) < _LINE for other in beside):
      y += 1
      if y > height - _LINE:  # no room: it lies on another one
        y = start
        break
    taken.append((y, x, x + size))
    parts.append(
      f'<rect class="{_KINDS[box.verdict]} fill" x="{x:.1f}" y="{y:.1f}" '
      f'width="{size:.1f}" height="{_LINE}"/>'
      f'<text class="on" x="{x + 3:.1f}" y="{y + 11:.1f}" '
      f'textLength="{size - 6:.1f}" lengthAdjust="spacingAndGlyphs">'
      f"{markup.escape(text)}</text>"
    )
  return parts
