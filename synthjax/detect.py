"""Finds objects in images by a detector that a run has trained.

synthjax detect WORKDIR IMAGE_OR_FOLDER... [--arm=NAME] [--score=0.5]
  [--json | --csv] [--draw=FOLDER]

A box is x0, y0, x1, y1 in pixels of the image, from its top left corner.
"""

import argparse
import csv
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from synthjax.classify import find_images
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.rows import Source
from synthjax.runtime import atomic, cache
from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import counter, end_line

_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")


def draw(pixels: np.ndarray, objects: Sequence[dict[str, Any]]) -> Image.Image:
  """Returns an image with the boxes, class names and scores of objects."""
  image = Image.fromarray(pixels)
  pen, labels = ImageDraw.Draw(image), sorted({x["label"] for x in objects})
  width = max(1, min(image.size) // 200)
  for found in reversed(objects):  # the best one on top
    colour = _COLOURS[labels.index(found["label"]) % len(_COLOURS)]
    pen.rectangle(found["box"], outline=colour, width=width)
    text, corner = f"{found['label']} {found['score']:.0%}", found["box"][:2]
    pen.rectangle(pen.textbbox(corner, text), fill=colour)
    pen.text(corner, text, fill="white")
  return image


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2.

  Files that cannot be read are listed at the end, with the same exit code.
  """
  parser = argparse.ArgumentParser(
    prog="synthjax detect",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("workdir", help="of the run")
  parser.add_argument("images", nargs="+", help="files, or folders of them")
  parser.add_argument("--arm", help="a start and a seed, such as random-s0")
  parser.add_argument("--score", type=float, default=0.5, help="the lowest")
  parser.add_argument("--json", action="store_true", help="a line a file")
  parser.add_argument("--csv", action="store_true", help="a line an object")
  parser.add_argument("--draw", help="a folder for images with their boxes")
  args = parser.parse_args(argv)
  sys.stdout.reconfigure(errors="backslashreplace")
  end_well(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
  paths = find_images(args.images)
  from synthjax.detection import detector as detectors

  cache.use_compilation_cache()
  detector = detectors.load(args.workdir, arm=args.arm)
  # Images are read twice, as their sizes decide what is compiled, and not all
  # photographs fit into memory.
  sound, sizes, unread = [], [], []
  count_on = counter("read", len(paths))
  for path in paths:
    try:
      sizes.append(image_files.read_pixels(path).shape[:2])
      sound.append(path)
    except UserError as error:
      unread.append(str(error))
    count_on()
  read = lambda i: image_files.read_pixels(sound[i])
  found = detector.detect(Source(len(sound), read), sizes) if sound else []
  end_line()
  table = csv.writer(sys.stdout)
  if args.csv:
    table.writerow(["file", "label", "score", "x0", "y0", "x1", "y1"])
  for number, (path, detections) in enumerate(zip(sound, found, strict=True)):
    objects = [
      {
        "label": detector.classes[label],
        "score": round(float(score), 4),
        "box": [round(float(x), 1) for x in box],
      }
      for box, score, label in zip(*detections, strict=True)
      if score >= args.score
    ]
    if args.csv:
      for x in objects:
        table.writerow([path, x["label"], x["score"], *x["box"]])
    elif args.json:
      print(json.dumps({"file": str(path), "objects": objects}))
    else:
      shown = [f"{x['label']} {x['score']:.0%} {x['box']}" for x in objects]
      print(f"{str(path)!r}  {'  '.join(shown) or 'nothing'}")
    if args.draw:
      folder = pathlib.Path(args.draw)
      folder.mkdir(parents=True, exist_ok=True)
      picture = draw(read(number), objects)
      with atomic.replace(folder, f"{number:04}-{path.stem}.png") as drawn:
        with drawn.open("wb") as file:
          picture.save(file, "PNG")
  if unread:
    listed = "\n  ".join(unread)
    raise UserError(
      f"{len(unread):,} of {len(paths):,} files are not read:\n  {listed}"
    )


if __name__ == "__main__":
  main()
