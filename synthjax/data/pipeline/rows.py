"""Rows with a length and random access, whatever stores them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

Example = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
  """Rows with a length and random access, which Grain's workers can pickle."""

  size: int
  read: Callable[[int], Example]  # a top-level function, or a partial of one

  def __len__(self) -> int:
    return self.size

  def __getitem__(self, index: int) -> Example:
    index = index.__index__()
    if not -self.size <= index < self.size:
      raise IndexError(f"Row {index} of {self.size}.")
    return self.read(index % self.size)


def labels_of(source: Sequence[Example]) -> np.ndarray:
  """Returns the labels of a source, int [n], without decoding if possible."""
  if hasattr(source, "labels"):
    return np.asarray(source.labels)
  return np.array([source[i]["label"] for i in range(len(source))])


def subset(source: Sequence[Example], rows: Sequence[int]) -> Source:
  """Returns the source that holds these rows, in their order."""
  return Source(len(rows), partial(_read, source, np.asarray(rows, np.int64)))


def _read(source, rows, index):
  return source[int(rows[index])]


@dataclasses.dataclass(frozen=True, eq=False)
class Detection(Source):
  """Rows of images with boxes, whose sizes are known without decoding one."""

  annotate: Callable[[int], Example]  # a row without its image
  sizes: np.ndarray  # int32 [n, 2], heights and widths
  max_objects: int  # that any image has
