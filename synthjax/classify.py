r"""Classifies images by a classifier of the task `tune`.

  python -m synthjax.classify WORKDIR IMAGE_OR_FOLDER... [--arm=NAME] [--top=3]
    [--json]

From Python: `load("runs/birds").classify(images)`.
"""

import argparse
import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.adapt import linear_head
from synthjax.data.pipeline import image_files
from synthjax.encoders import load_encoder
from synthjax.runtime import cache
from synthjax.runtime.errors import UserError, as_message
from synthjax.runtime.progress import counter, end_line

_CHUNK = 64  # images that are read and encoded at once


class Classifier(NamedTuple):
  """A classifier of a run.

  `classify` maps uint8 images, an array [n, h, w, 3] or a list of [h, w, 3] of
  any sizes, to probabilities float32 [n, k].
  """

  classes: tuple[str, ...]
  classify: Callable[[Sequence[np.ndarray]], np.ndarray]


def load(workdir: epath.PathLike, *, arm: str | None = None) -> Classifier:
  """Loads a classifier and the encoder that it was tuned with.

  Args:
    workdir: of a run whose task `tune` is complete.
    arm: of config.tune.arms, or "zero_shot"; the first by default. It is the
      mean of its heads, one for each seed.

  Raises:
    UserError: if the run has no classifier or no such arm, or the encoder's
      weights are no longer there or no longer the same.
  """
  path = epath.Path(workdir).expanduser() / "tune" / linear_head.HEADS
  if not path.exists():
    raise UserError(
      f"There is no {path}: the folder of a run is needed, the --workdir whose "
      "task `tune` is done."
    )
  saved = linear_head.load(path, arm=arm)
  encoder = load_encoder(**saved.encoder["config"])
  if encoder.identity != saved.encoder["identity"]:
    raise UserError(
      f"{path} was learned from features of {saved.encoder['identity']}, but "
      f"its encoder is now {encoder.identity}: put the old weights back."
    )

  def classify(images: Sequence[np.ndarray]) -> np.ndarray:
    logits = linear_head.logits_fn(saved.head, encoder.encode_images(images))
    return np.asarray(jax.nn.softmax(logits))

  return Classifier(saved.classes, classify)


def find_images(paths: Sequence[epath.PathLike]) -> list[pathlib.Path]:
  """Returns the image files among paths, and below those that are folders.

  Raises:
    UserError: naming every path that is not there or holds no image.
  """
  files, problems = [], []
  for path in map(pathlib.Path, paths):
    if path.is_dir():
      below = sorted(p for p in path.rglob("*") if image_files.is_image(p))
      files += below
      if not below:
        ends = ", ".join(sorted(image_files.ENDINGS))
        problems.append(f"{path} holds no image ({ends})")
    elif path.exists():
      files.append(path)
    else:
      problems.append(f"there is no {path}")
  if problems:
    raise UserError(f"Nothing is classified: {'; '.join(problems)}.")
  return files


def classify_files(
  classifier: Classifier, paths: Sequence[pathlib.Path]
) -> Iterator[tuple[pathlib.Path, np.ndarray]]:
  """Yields each file and its probabilities float32 [k].

  Raises:
    UserError: about the first file that is no image.
  """
  is_long = len(paths) > _CHUNK
  report_progress = counter("classify", len(paths)) if is_long else None
  for first in range(0, len(paths), _CHUNK):
    chunk = paths[first : first + _CHUNK]
    images = [image_files.read_pixels(path) for path in chunk]
    yield from zip(chunk, classifier.classify(images), strict=True)
    if report_progress:
      report_progress(len(chunk))


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2."""
  parser = argparse.ArgumentParser(
    prog="python -m synthjax.classify",
    description="Classifies images by a classifier of the task `tune`.",
  )
  parser.add_argument("workdir", help="of the run")
  parser.add_argument("images", nargs="+", help="files, or folders of them")
  parser.add_argument("--arm", help="of config.tune.arms, or zero_shot")
  parser.add_argument("--top", type=int, default=3, help="so many classes")
  parser.add_argument("--json", action="store_true", help="a line a file")
  args = parser.parse_args(argv)
  with as_message(), contextlib.ExitStack() as stack:
    stack.callback(end_line)
    cache.use_compilation_cache()
    paths = find_images(args.images)
    classifier = load(args.workdir, arm=args.arm)
    width = max(len(str(path)) for path in paths)
    for path, probs in classify_files(classifier, paths):
      order = np.argsort(-probs)[: max(args.top, 1)]
      best = [(classifier.classes[i], probs[i]) for i in order]
      if args.json:
        classes = {name: round(float(p), 6) for name, p in best}
        print(json.dumps({"file": str(path), "classes": classes}))
      else:
        shown = [f"{name} {p:.1%}" for name, p in best]
        print(f"{path!s:{width}}  {'  '.join(shown)}", flush=True)


if __name__ == "__main__":
  main()
