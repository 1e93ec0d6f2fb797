"""Rows with a length and random access, whatever stores them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

Example = dict[str, Any]


class Files(NamedTuple):
  """The files that rows are read from."""

  path: epath.Path  # of the folder that they lie below
  names: Sequence[str]  # their paths below it
  are_rows: bool  # each is the image of the row of its number

  @classmethod
  def of_many_rows(cls, paths: Sequence[epath.PathLike]) -> "Files":
    """Returns files of one folder that hold rows of their own."""
    paths = [epath.Path(path) for path in paths]
    return cls(paths[0].parent, [path.name for path in paths], are_rows=False)


@dataclasses.dataclass(frozen=True)
class Source:
  """Rows with a length and random access, which Grain's workers can pickle."""

  size: int
  read: Callable[[int], Example]  # a top-level function, or a partial of one
  # None where there are none, or nobody knows.
  files: Files | None = dataclasses.field(default=None, kw_only=True)

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


def rows_by_label(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
  """Returns the rows of each class, in their order; the labels are [n]."""
  order = np.argsort(labels, kind="stable")
  ends = np.searchsorted(labels[order], np.arange(num_classes + 1))
  return [order[ends[i] : ends[i + 1]] for i in range(num_classes)]


def subset(source: Sequence[Example], rows: Sequence[int]) -> Source:
  """Returns the source that holds these rows, in their order."""
  files = getattr(source, "files", None)
  if files and files.are_rows:
    files = files._replace(names=[files.names[int(i)] for i in rows])
  read = partial(_read, source, np.asarray(rows, np.int64))
  return Source(len(rows), read, files=files)


def _read(source, rows, index):
  return source[int(rows[index])]


@dataclasses.dataclass(frozen=True, eq=False)
class Detection(Source):
  """Rows of images with boxes, whose sizes are known without decoding one."""

  annotate: Callable[[int], Example]  # a row without its image
  sizes: np.ndarray  # int32 [n, 2], heights and widths
  max_objects: int  # that any image has

  def take(self, rows: Sequence[int]) -> "Detection":
    """Returns the source that holds these rows, in their order."""
    part, rows = subset(self, rows), [int(i) for i in rows]
    return dataclasses.replace(
      self,
      size=part.size,
      read=part.read,
      files=part.files,
      annotate=partial(_annotate, self, rows),
      sizes=self.sizes[rows],
    )


def _annotate(source, rows, index):
  return source.annotate(rows[index])
