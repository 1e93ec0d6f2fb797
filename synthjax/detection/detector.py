"""The detector of a run, for any images."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from synthjax.data.pipeline.rows import Detection
from synthjax.detection import loader, objective, results
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
  if "roi_size" not in about:  # older versions say it in the manifest alone
    about = artifacts.load(chosen.path.parent)["spec"] | about
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

  return Detector(tuple(about["classes"]), detect, chosen)
