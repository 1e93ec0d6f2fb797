"""The images to export: the bytes that image shards store, and a mark."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from synthjax.data import encoded
from synthjax.data.exports import mark
from synthjax.data.rows import Example, Source, subset
from synthjax.data.selection import chance_of
from synthjax.errors import UserError

_ENDINGS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def rows(
  source: Sequence[Example],
  *,
  encoding: Mapping[str, Any],
  shuffle: int | None = None,
) -> Source:
  """Returns the rows to export: encoded, label, prompt, seed and id.

  Args:
    source: of `generated.open_generated`, with decode=False.
    encoding: the arguments of `encoded.encode` for images that are to be made
      anew; none of them keeps what is stored.
    shuffle: a seed for the order, for readers that go through files from one
      end to the other; None keeps the order, which is that of the classes.
  """
  if shuffle is not None:
    ids = [source[i]["id"] for i in range(len(source))]
    chance = np.array([chance_of(shuffle, each) for each in ids], np.int64)
    source = subset(source, np.argsort(chance, kind="stable"))
  read = functools.partial(_read, source, dict(encoding))
  return Source(len(source), read)


def ending_of(content: bytes) -> str:
  """Returns "png", "jpg" or "webp", by the content of a file.

  Raises:
    UserError: if it is none of them.
  """
  image_format = encoded.format_of(content)
  if image_format is None:
    raise UserError(
      f"An image starts with {content[:8]!r}, which is neither PNG, JPEG nor "
      "WebP: its shard is damaged. Check the folder `generate`."
    )
  return _ENDINGS[image_format]


def class_of(row: Example, names: Sequence[str]) -> str:
  """Returns the name of the class of a row.

  Raises:
    UserError: if its label is none of the classes.
  """
  if not 0 <= row["label"] < len(names):
    raise UserError(
      f"The image {row['id']!r} has the label {row['label']}, but there are "
      f"{len(names)} classes, from 0: config.space is not the label space that "
      "the images were drawn for."
    )
  return names[row["label"]]


def _read(
  source: Sequence[Example], encoding: dict[str, Any], index: int
) -> Example:
  row = source[index]
  if encoding:
    pixels = encoded.pixels(row)
    row = row | {"encoded": encoded.encode(pixels, **encoding)}
  return row | {"encoded": mark.mark(row["encoded"])}
