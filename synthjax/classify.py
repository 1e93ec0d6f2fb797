"""Classifies images by what a run has learned.

synthjax classify WORKDIR IMAGE_OR_FOLDER... [--task=NAME] [--arm=NAME]
  [--top=3] [--json]

WORKDIR may be hf://ORG/NAME, of what `synthjax push` has uploaded.
"""

import argparse
import contextlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from synthjax.data.pipeline import image_files
from synthjax.runtime import cache
from synthjax.runtime.errors import UserError, as_message
from synthjax.runtime.progress import counter, end_line, say

if TYPE_CHECKING:  # JAX is imported when there is something to classify
  from synthjax.adapt.classifier import Classifier

_CHUNK = 64  # images that are read and encoded at once
# A network for images of up to SMALL pixels a side is one of the embedded world
# or alike; images LARGE times as large lose what makes them photographs.
_SMALL, _LARGE = 64, 4


def add_choice(parser: argparse.ArgumentParser) -> None:
  """Adds the options that choose what has been learned."""
  parser.add_argument(
    "--task",
    help="that learned it: one of tune, few_shot, top_up, tune_encoder, "
    "transfer, practice, pretrain",
  )
  parser.add_argument(
    "--arm", help="of the task, or zero_shot; the first by default"
  )


def find_images(paths: Sequence[epath.PathLike]) -> list[pathlib.Path]:
  """Returns the image files among paths, and below those that are folders.

  What else lies below a folder is counted on standard error.

  Raises:
    UserError: naming every path that is not there or holds no image.
  """
  files, problems = [], []
  for given in paths:
    path = pathlib.Path(given).expanduser()
    if not os.fspath(given):  # as an unset variable of the shell leaves it
      problems.append("an empty path was given")
    elif path.is_dir():
      below, left_out = _below(path)
      files += below
      if left_out:
        say(image_files.left_out(path, left_out))
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


def _below(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[str]]:
  """Returns the image files below a folder, and the names of other files."""
  images, left_out = [], []
  for path in sorted(folder.rglob("*")):
    name = path.relative_to(folder)
    is_hidden = any(map(image_files.is_leftover, name.parent.parts))
    if path.is_file() and image_files.is_image(path) and not is_hidden:
      images.append(path)
    elif not path.is_dir() or path.is_symlink():  # which is not followed
      left_out.append(str(name))
  return images, left_out


def classify_files(
  classifier: "Classifier", paths: Sequence[pathlib.Path]
) -> Iterator[tuple[pathlib.Path, np.ndarray | UserError]]:
  """Yields each file and its probabilities float32 [k].

  Of a file that is no image, it is the error that says so.
  """
  is_long = len(paths) > _CHUNK
  report_progress = counter("classify", len(paths)) if is_long else None

  def read(path):
    try:
      return classifier.fit(image_files.read_pixels(path))
    except UserError as error:
      return error

  for first in range(0, len(paths), _CHUNK):
    chunk = paths[first : first + _CHUNK]
    images = [read(path) for path in chunk]
    sound = [image for image in images if not isinstance(image, UserError)]
    probs = iter(classifier.classify(sound) if sound else ())
    for path, image in zip(chunk, images, strict=True):
      yield path, image if isinstance(image, UserError) else next(probs)
    if report_progress:
      report_progress(len(chunk))


def warn_of_large(
  classifier: "Classifier", paths: Sequence[pathlib.Path]
) -> None:
  """Says that a network of small drawings is asked about photographs."""
  side = classifier.network.image_size if classifier.network else math.inf
  if side > _SMALL:
    return
  headers = image_files.read_headers(paths[:_CHUNK])
  large = [
    (path, header.shown)
    for path, header in zip(paths, headers, strict=False)
    if header and max(header.size) > _LARGE * side
  ]
  if large:
    path, (height, width) = large[0]
    say(
      f"note: this classifier sees {side}x{side} pixels, and {path} has "
      f"{width}x{height}. What the embedded world has taught knows drawings of "
      "emoji alone: its answers about photographs mean little. Run a config "
      "without :runlocal, with released weights, for those."
    )


def _on_a_line(path: pathlib.Path) -> str:
  """Writes out what breaks a line, or what a terminal would obey."""
  shown = (c if c.isprintable() else ascii(c)[1:-1] for c in str(path))
  return "".join(shown)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2.

  Files that cannot be read are listed at the end, with the same exit code.
  """
  parser = argparse.ArgumentParser(
    prog="synthjax classify",
    description="Classifies images by what a run has learned.",
  )
  parser.add_argument("workdir", help="of the run, or hf://ORG/NAME")
  parser.add_argument("images", nargs="+", help="files, or folders of them")
  add_choice(parser)
  parser.add_argument("--top", type=int, default=3, help="so many classes")
  parser.add_argument("--json", action="store_true", help="a line a file")
  args = parser.parse_args(argv)
  # Names of files need not be UTF-8, and not every terminal has all letters.
  sys.stdout.reconfigure(errors="backslashreplace")
  with as_message(), contextlib.ExitStack() as stack:
    stack.callback(end_line)
    paths = find_images(args.images)
    from synthjax.adapt import classifier as classifiers

    cache.use_compilation_cache()
    classifier = classifiers.load(args.workdir, arm=args.arm, task=args.task)
    warn_of_large(classifier, paths)
    width = max(len(_on_a_line(path)) for path in paths)
    unread = []
    for path, answer in classify_files(classifier, paths):
      if isinstance(answer, UserError):
        unread.append(str(answer))
        if args.json:
          print(json.dumps({"file": str(path), "error": str(answer)}))
        continue
      order = np.argsort(-answer)[: max(args.top, 1)]
      best = [(classifier.classes[i], answer[i]) for i in order]
      if args.json:
        classes = {name: round(float(p), 6) for name, p in best}
        print(json.dumps({"file": str(path), "classes": classes}))
      else:
        shown = [f"{name} {p:.1%}" for name, p in best]
        start = _on_a_line(path).ljust(width)
        print(f"{start}  {'  '.join(shown)}", flush=True)
    if unread:
      listed = "\n  ".join(unread)
      raise UserError(
        f"{len(unread):,} of {len(paths):,} files are not classified:\n  "
        f"{listed}"
      )


if __name__ == "__main__":
  main()
