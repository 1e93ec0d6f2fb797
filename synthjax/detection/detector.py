"""The detector of a run, for any images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.pipeline.rows import Detection, Source
from synthjax.detection import average_precision, loader, objective, results
from synthjax.detection.faster_rcnn import FasterRCNN, make_detector
from synthjax.detection.regions import Options
from synthjax.detection.voc_files import Detections
from synthjax.runtime import artifacts
from synthjax.weights import files, learned

KIND = "detector"  # of its files


class Detector(NamedTuple):
  """A detector of a run.

  `detect` maps images, a sequence of uint8 [h, w, 3] of any sizes that is read
  lazily, and their sizes int32 [n, 2], to the detections in each: boxes x0, y0,
  x1, y1 in its pixels, best first.
  """

  classes: tuple[str, ...]
  detect: Callable[[Sequence[np.ndarray], np.ndarray], list[Detections]]
  arm: learned.Arm
  interpolation: str = "11-point"  # of the precisions that the run reports


def load(workdir: epath.PathLike, *, arm: str | None = None) -> Detector:
  """Loads a detector that the task `detect` of a run has trained.

  Args:
    workdir: of the run.
    arm: a start and a seed, such as "random-s0"; the first by default.

  Raises:
    UserError: if the run has no detector or no such arm.
  """
  chosen = learned.choose(workdir, [KIND], tasks=learned.DETECTING, arm=arm)
  variables, about = files.load_params(chosen.path)
  folder = chosen.path.parent
  # It says how precisions are measured; and older versions have more there.
  if "roi_size" not in about or (folder / artifacts.MANIFEST).exists():
    about = artifacts.load(folder)["spec"] | about
  plain = lambda fields: {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in fields.items()
  }
  options, images = Options(**plain(about["options"])), plain(about["images"])
  model = make_detector(
    num_classes=len(about["classes"]),
    num_anchors=len(options.sizes) * len(options.ratios),
    roi_size=about.get("roi_size", FasterRCNN.roi_size),
    sampling=about.get("sampling") or 0,
    **about["model"],
  )
  predict = objective.predictor(model, options)

  def detect(pixels: Sequence[Any], sizes: np.ndarray) -> list[Detections]:
    nothing = {
      "boxes": np.zeros((0, 4), np.float32),
      "labels": np.zeros(0, np.int32),
    }
    source = Detection(
      size=len(sizes),
      read=lambda i: nothing | {"image": pixels[i]},
      annotate=lambda i: nothing,
      sizes=np.asarray(sizes, np.int32),
      max_objects=1,
    )
    batches = loader.eval_batches(source, loader.Images(**images))
    return results.detect_all(predict, variables, batches)

  known = {k: about[k] for k in ("interpolation",) if k in about}
  return Detector(tuple(about["classes"]), detect, chosen, **known)


def evaluate(detector: Detector, source: Detection) -> dict[str, Any]:
  """Measures a detector on images with boxes, as its run measured it.

  Args:
    detector: of a run.
    source: as of `sources.open_detection`, by the classes of the detector.

  Returns:
    The number of `images`; `AP50`, `AP` and `AP75`, means over the classes; for
    each of the `classes` that have objects, its `class`, `objects` and `AP50`;
    and the names of classes that are `missing`, as no object is of them.
  """
  names, truth = detector.classes, results.truth_of(source)
  pixels = Source(len(source), lambda i: source[i]["image"])
  measured = average_precision.average_precision(
    detector.detect(pixels, source.sizes),
    truth,
    len(names),
    interpolation=detector.interpolation,
  )
  counts = measured.num_objects.tolist()
  return {
    "images": len(source),
    **{metric: float(getattr(measured, metric)) for metric in results.METRICS},
    "classes": [
      {"class": name, "objects": count, "AP50": float(row[0])}
      for name, count, row in zip(
        names, counts, measured.per_class, strict=True
      )
      if count
    ],
    "missing": [n for n, count in zip(names, counts, strict=True) if not count],
  }


def table(found: dict[str, Any]) -> str:
  """Lays out the results of `evaluate` as lines for a person."""
  names = [row["class"] for row in found["classes"]]
  width = max(map(len, ["mean over classes", *names]))
  lines = [f"{'':<{width}}{'objects':>9}{'AP50':>8}{'AP':>8}{'AP75':>8}"]
  means = "".join(f"{found[metric]:>8.1%}" for metric in results.METRICS)
  count = sum(row["objects"] for row in found["classes"])
  lines.append(f"{'mean over classes':<{width}}{count:>9,}{means}")
  for row in sorted(found["classes"], key=lambda row: row["AP50"]):
    line = f"{row['class']:<{width}}{row['objects']:>9,}{row['AP50']:>8.1%}"
    lines.append(line)
  if missing := found["missing"]:
    lines.append(
      f"No object is of {len(missing)} of the run's classes: "
      f"{', '.join(missing)}."
    )
  return "\n".join(lines)
