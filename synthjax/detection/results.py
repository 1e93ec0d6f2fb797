"""Detections of trained detectors, and comparisons of their first weights."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from PIL import Image

from synthjax.detection import voc_files
from synthjax.detection.average_precision import Measured, Truth
from synthjax.detection.resize import to_original
from synthjax.detection.voc_files import Detections
from synthjax.evals import accuracy
from synthjax.runtime import artifacts, atomic
from synthjax.runtime import mesh as meshes

Rows = Sequence[Mapping[str, Any]]  # images with boxes, as of `voc.open_voc`

METRICS = ("AP50", "AP", "AP75")
REFERENCE = "random"  # the start that all others are compared with


class Run(NamedTuple):
  """One training of a detector."""

  init: str  # the name of its first weights
  seed: int

  def label(self) -> str:
    """Returns what its files are called."""
    return f"{artifacts.file_stem(self.init)}-s{self.seed}"


def truth_of(source: Rows) -> list[Truth]:
  """Returns the objects in images; decodes none."""
  rows = map(source.annotate, range(len(source)))
  return [Truth(r["boxes"], r["labels"], r["difficult"]) for r in rows]


def summarize(
  tested: Mapping[Run, Measured],
  classes: Sequence[str],
  *,
  validation: Mapping[Run, Measured] | None = None,
  compare: Sequence[Sequence[str]] = (),
) -> dict[str, list[dict]]:
  """Returns the rows, their summary, and the differences paired by seed.

  Args:
    tested: of every run, on the test images.
    classes: names of the labels.
    validation: the same on other images, if there are any.
    compare: pairs of starts to compare, after each start with REFERENCE.

  Returns:
    `rows`, dicts of init, seed, AP, AP50, AP75, per_class (name -> AP50, None
    without objects) and validation, the AP50 there; `summary`, dicts of init,
    metric, its values and `accuracy.Summary`; and `differences`, dicts of
    init, reference, metric and `accuracy.Summary`. All are shares in 0..1.
  """
  rows, groups = [], {}
  for run, measured in tested.items():
    ap50 = {
      name: float(row[0]) if n else None
      for name, row, n in zip(
        classes, measured.per_class, measured.num_objects, strict=True
      )
    }
    row = run._asdict() | {m: getattr(measured, m) for m in METRICS}
    row["per_class"] = ap50
    if validation:
      row["validation"] = validation[run].AP50
    rows.append(row)
    groups.setdefault(run.init, {})[run.seed] = measured
  pairs = [(init, REFERENCE) for init in groups if init != REFERENCE]
  pairs += [pair for pair in map(tuple, compare) if pair not in pairs]
  values = lambda init, metric: [
    getattr(measured, metric) for _, measured in sorted(groups[init].items())
  ]
  return {
    "rows": rows,
    "summary": [
      {"init": init, "metric": metric, "values": values(init, metric)}
      | accuracy.summarize(values(init, metric))._asdict()
      for init in groups
      for metric in METRICS
    ],
    "differences": [
      {"init": init, "reference": reference, "metric": metric}
      | accuracy.paired_difference(
        values(init, metric), values(reference, metric)
      )._asdict()
      for init, reference in pairs
      for metric in METRICS
      if init in groups and reference in groups
    ],
  }


def table(results: Mapping[str, Any]) -> str:
  """Returns the summary and the differences as lines for a person."""
  percent = lambda x: "   - " if x is None else f"{100 * x:5.2f}"
  width = max(12, *(len(row["init"]) + 1 for row in results["summary"]))
  lines = [
    f"  {row['init']:<{width}}{row['metric']:<5}{percent(row['mean'])} % "
    f"(std {percent(row['std'])}, {row['n']} seeds)"
    for row in results["summary"]
  ]
  lines += [
    f"  {row['init']} - {row['reference']}, {row['metric']}: "
    f"{100 * row['mean']:+.2f} points "
    f"(std. error of the paired difference {percent(row['stderr'])})"
    for row in results["differences"]
  ]
  return "\n".join(lines)


# --- files ------------------------------------------------------------------


def write_detections(
  folder: epath.Path,
  run: Run,
  source: Rows,
  detections: Sequence[Detections],
  classes: Sequence[str],
) -> dict[str, int]:
  """Writes VOC's text files, `detections/<run>/comp4_det_test_<class>.txt`.

  Args:
    folder: of the task.
    run: whose detections they are.
    source: images whose `annotate` gives their `id`.
    detections: in each image.
    classes: names of the labels, for the files.

  Returns:
    The number of lines of each file.
  """
  names = [source.annotate(i)["id"] for i in range(len(source))]
  where = f"detections/{run.label()}"
  counts = voc_files.write(
    folder / where, dict(zip(names, detections, strict=True)), classes
  )
  return {f"{where}/{name}": count for name, count in counts.items()}


def write_examples(
  folder: epath.Path,
  run: Run,
  source: Rows,
  detections: Sequence[Detections],
  classes: Sequence[str],
  indices: Iterable[int],
) -> dict[str, int]:
  """Writes images and the detections in them, for the report.

  They are `examples/<start>-<index>.png` and `.json`.

  Args:
    folder: of the task.
    run: whose detections they are.
    source: images with boxes.
    detections: in each image.
    classes: names of the labels.
    indices: of the images.

  Returns:
    The files, each with a 1.
  """
  where, rows = folder / "examples", {}
  where.mkdir(parents=True, exist_ok=True)
  for index in indices:
    row, stem = source[index], f"{run.init.replace('/', '-')}-{index}"
    content = _example(row, detections[index], classes)
    with atomic.replace(where, f"{stem}.json") as path:
      path.write_text(json.dumps(content, indent=1) + "\n")
    with atomic.replace(where, f"{stem}.png") as path, path.open("wb") as file:
      Image.fromarray(row["image"]).save(file, "PNG")
    rows |= {f"examples/{stem}.json": 1, f"examples/{stem}.png": 1}
  return rows


def _example(
  row: Mapping[str, Any], detections: Detections, classes: Sequence[str]
) -> dict[str, Any]:
  """Returns an image's size, detections and objects as plain data."""

  def boxes(values: np.ndarray, labels: np.ndarray, **more: Any) -> list[dict]:
    corners = np.asarray(values, np.float64).reshape(-1, 4).round(2).tolist()
    names = [classes[label] for label in np.asarray(labels).tolist()]
    columns = {k: np.asarray(v).tolist() for k, v in more.items()}
    return [
      {"box": box, "label": name} | {k: v[i] for k, v in columns.items()}
      for i, (box, name) in enumerate(zip(corners, names, strict=True))
    ]

  return {
    "size": [int(side) for side in row["size"]],
    "detections": boxes(
      detections.boxes, detections.labels, score=detections.scores
    ),
    "truth": boxes(row["boxes"], row["labels"], difficult=row["difficult"]),
  }


# --- detecting --------------------------------------------------------------

_ABOUT = ("index", "size", "original_size")


def detect_all(
  predict: Callable[[Any, Mapping], Mapping[str, jax.Array]],
  variables: Mapping[str, Any],
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  count: Callable[[int], Any] = lambda num_images: None,
) -> list[Detections]:
  """Returns the detections in each image of a source, over all devices.

  Args:
    predict: of `objective.predictor`.
    variables: of its model.
    batches: of `loader.eval_batches`: this process's share of each global one.
    count: called with the number of images of each batch.

  Returns:
    Detections in pixels of the original images, best first.
  """
  mesh, detections = meshes.make_mesh(), {}
  variables = jax.device_put(dict(variables), meshes.copied(mesh))

  def outputs():
    for batch in batches:
      batch = meshes.to_global(mesh, dict(batch))
      inputs = {name: batch[name] for name in ("image", "size")}
      detections = dict(predict(variables, inputs))
      yield detections | {name: batch[name] for name in _ABOUT}

  for rows in meshes.fetch_ahead(outputs()):
    count(int((rows["index"] >= 0).sum()))
    for i, number in enumerate(rows["index"].tolist()):
      if number < 0:  # it fills the batch up
        continue
      row = {name: column[i] for name, column in rows.items()}
      valid = row["valid"]
      detections[number] = Detections(
        to_original(row["boxes"][valid], row["size"], row["original_size"]),
        row["scores"][valid],
        row["labels"][valid],
      )
  return [detections[number] for number in sorted(detections)]
