"""Rows to export whose names and ids no file system takes as they are."""

import numpy as np

from synthjax.data.formats import parquet, png_folder, webdataset
from synthjax.data.pipeline import codecs
from synthjax.labels import spaces

# Names that a file system may not take, or take for one another.
NAMES = ("../x", "a/b", "Katze", "katze", "größe", "con", "C", "C++", "..")
SPACE = spaces.LabelSpace(
  "odd", tuple(spaces.Class(i, name) for i, name in enumerate(NAMES))
)
IDS = ("../../etc/x", "Basic-1", "basic-1", "a/b.c", "ünï", "..", "", " ", "x")


def make_rows(encode=codecs.encode_png):
  """Makes two images of each class, of unequal sizes."""
  rng, rows = np.random.default_rng(0), []
  for copy in range(2):
    for label, image_id in enumerate(IDS):
      image = rng.integers(0, 256, (4 + label, 5, 3), dtype=np.uint8)
      rows.append(
        {
          "encoded": encode(image),
          "label": label,
          "prompt": f"a {NAMES[label]}\n\u2028",
          "seed": copy,
          "id": f"{image_id}{'+' * copy}",
        }
      )
  return rows


ROWS = make_rows()


def write(format_name, folder, rows=ROWS, names=NAMES, shard_size=7):
  if format_name == "folder":
    return png_folder.write(folder, rows, names, split="train", keys=names)
  module = {"webdataset": webdataset, "parquet": parquet}[format_name]
  return module.write(folder, rows, names, split="train", shard_size=shard_size)


def block_of(format_name, folder, **fields):
  kind, below = format_name, ""
  if format_name == "folder":
    kind, below = "class_folders", "/train"
  return dict(kind=kind, path=f"{folder}{below}") | fields


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }
