"""The images that `generate` has drawn: all of a workdir, or a part of them."""

import dataclasses
import itertools
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from synthjax.data.generated import shards, tables
from synthjax.data.pipeline.rows import (
  Example,
  Source,
  labels_of,
  rows_by_label,
  subset,
)
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json

SELECTION = "selection.parquet"  # of the task `select`
OLDER = "selection.jsonl"  # that versions before December 2026 wrote


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn(Source):
  """Rows of shards, of which much is known without decoding an image."""

  folder: epath.PathLike  # of the shards
  rows: np.ndarray  # int [n], among those of the shards
  labels: np.ndarray  # int [n]

  def take(self, places: np.ndarray) -> "Drawn":
    """Returns the source that holds these rows, in their order."""
    part = subset(self, places)
    return dataclasses.replace(
      self,
      size=part.size,
      read=part.read,
      rows=self.rows[places],
      labels=self.labels[places],
    )

  def map_ids(self, function: Callable[[str], int]) -> np.ndarray:
    """Applies a function to the id of each image, and returns int64 [n]."""
    num_images = len(shards.open_shards(self.folder))
    ids = shards.read_ids(self.folder, num_images)
    return np.fromiter(map(function, ids), np.int64, num_images)[self.rows]

  def prompts(self) -> np.ndarray:
    """Numbers the prompts by their text: int [n], from 0.

    One text is one prompt, whatever the class, seed or strategy.
    """
    num_images = len(shards.open_shards(self.folder))
    texts = shards.read_index(self.folder, num_images, ("prompt",))["prompt"]
    return np.unique(texts[self.rows], return_inverse=True)[1]


def open_generated(
  folder: epath.PathLike,
  *,
  strategy: str | None = None,
  seed: int | None = None,
  selection: epath.PathLike | None = None,
  decode: bool = True,
) -> Drawn:
  """Opens the images.

  Args:
    folder: of the image shards.
    strategy: of the prompts; None takes the images of all.
    seed: of the images. None takes all seeds; so does any seed, if the images
      have a single one.
    selection: the file of `select`, whose kept rows are taken; None takes
      every image.
    decode: the images; see `shards.open_shards`.

  Raises:
    UserError: if no image is left, or shards are missing or damaged.
  """
  source = shards.open_shards(folder, decode=decode)
  index = shards.read_index(folder, len(source), ("label", "strategy", "seed"))
  rows, where = np.ones(len(source), bool), os.fspath(folder)
  if selection is not None:
    rows = match_selection(selection, shards.read_ids(folder, len(source)))
    where = os.fspath(selection)
  for name, wanted in (("strategy", strategy), ("seed", seed)):
    present = dict.fromkeys(index[name][rows].tolist())
    if wanted is None or (name == "seed" and len(present) == 1):
      continue
    if wanted not in present:
      raise UserError(
        f"{where} has no image of {name}={wanted!r} to train on; it has those "
        f"of {', '.join(sorted(map(str, present))) or 'none at all'}."
      )
    rows &= index[name] == wanted
  if not rows.any():
    raise UserError(f"{where} has no image to train on.")
  every, labels = np.arange(len(source)), index["label"]
  drawn = Drawn(
    source.size, source.read, folder, every, labels, files=source.files
  )
  return drawn.take(np.flatnonzero(rows))


def open_run(
  workdir: epath.PathLike, *, kept: bool = False, **more: Any
) -> Drawn:
  """Opens the images of a run, in the order in which they were drawn.

  Args:
    workdir: whose task `generate` is complete.
    kept: takes those that `select` has kept, which must be complete too.
    **more: of `open_generated`, such as strategy and seed.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int, prompt str, seed int
    and id str.

  Raises:
    UserError: about a task that is not complete, or as `open_generated`.
  """
  workdir = epath.Path(workdir).expanduser()
  tasks = ("generate", "select") if kept else ("generate",)
  artifacts.check_complete(workdir, tasks, planned=())
  return open_generated(
    workdir / "generate",
    selection=selection_file(workdir / "select") if kept else None,
    **more,
  )


def selection_file(folder: epath.PathLike) -> epath.Path:
  """Returns the file of the complete artifact of the task `select`."""
  names = artifacts.load(folder)["files"]
  return epath.Path(folder) / (SELECTION if SELECTION in names else OLDER)


def match_selection(
  selection: epath.PathLike, ids: Iterable[str]
) -> np.ndarray:
  """Reads which images a selection keeps.

  Args:
    selection: a file of `select`, which lists all images in their order.
    ids: [n], of the images.

  Returns:
    [n] bool.

  Raises:
    UserError: if it lists others than these; or as `read_selection`.
  """
  ids, kept = iter(ids), [np.zeros(0, bool)]
  for batch in read_selection_batches(selection, ("id", "kept")):
    listed = batch["id"].tolist()
    if listed != (given := [*itertools.islice(ids, len(listed))]):
      pairs = itertools.zip_longest(listed, given, fillvalue="nothing")
      differ = next(pair for pair in pairs if operator.ne(*pair))
      raise _other_images(selection, *differ)
    kept.append(batch["kept"])
  if (more := next(ids, None)) is not None:
    raise _other_images(selection, "nothing", more)
  return np.concatenate(kept)


def _other_images(
  selection: epath.PathLike, listed: str, given: str
) -> UserError:
  return UserError(
    f"{selection} lists {listed} where the images have {given}: it belongs to "
    "others. Run `select` again."
  )


def read_selection(
  path: epath.PathLike, names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Reads columns of what `select` says of each image.

  Args:
    path: of a SELECTION, or of an OLDER one.
    names: of the columns; see `filters.write`.

  Returns:
    Each column, [n].

  Raises:
    UserError: if it is not as its manifest says, or is damaged.
  """
  if epath.Path(path).suffix == ".jsonl":
    return _read_older(epath.Path(path), names)
  return tables.read(path, names)


def read_selection_batches(
  path: epath.PathLike, names: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
  """Yields some rows after others; else as `read_selection`."""
  if epath.Path(path).suffix == ".jsonl":
    return iter([_read_older(epath.Path(path), names)])
  return tables.read_batches(path, names)


def _read_older(
  path: epath.Path, names: Sequence[str]
) -> dict[str, np.ndarray]:
  artifacts.check_file(path)
  columns: dict[str, list] = {name: [] for name in names}
  with path.open("rb") as file:
    for number, line in enumerate(file, start=1):
      try:
        row = parse_json(line, dict)
        if lacking := columns.keys() - row.keys():
          raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
      except ValueError as error:
        raise UserError(
          f"{path}, line {number}, is damaged ({error}). Put the file back "
          "from a copy; or delete its folder yourself and run `select` again."
        ) from None
      for name, column in columns.items():
        column.append(row[name])
  kinds = {"label": int, "seed": int, "p_own": float, "kept": bool}
  return {
    name: np.array(column, kinds.get(name, object))
    for name, column in columns.items()
  }


def take(
  source: Sequence[Example],
  *,
  num_classes: int,
  images_per_class: int | None = None,
) -> Source:
  """Takes the first classes, and of each an equal number of images.

  They are spread evenly over the class's rows, and so over its prompts. If one
  number divides another, the larger set contains the smaller one.

  Args:
    source: of `open_generated`: by strategy, seed and label.
    num_classes: how many labels, from 0.
    images_per_class: over all strategies and seeds; None takes all.

  Raises:
    UserError: about a class with fewer images, or none.
  """
  labels, needed = labels_of(source), images_per_class or 1
  rows_of = dict(enumerate(rows_by_label(labels, num_classes)))
  if few := {k: len(v) for k, v in rows_of.items() if len(v) < needed}:
    listed = ", ".join(f"{k} has {n}" for k, n in list(few.items())[:10])
    raise UserError(
      f"{needed} images of each of the first {num_classes} classes are asked "
      f"for, but {len(few)} have fewer: label {listed}. Ask for at most "
      f"{min(few.values())}, or raise config.generate.images_per_class."
    )
  if images_per_class is None:
    kept = np.flatnonzero(labels < num_classes)
  else:
    spread = np.arange(images_per_class)
    kept = np.concatenate(
      [
        rows[spread * len(rows) // images_per_class]
        for rows in rows_of.values()
      ]
    )
  kept = np.sort(kept)
  return (
    source.take(kept) if isinstance(source, Drawn) else subset(source, kept)
  )
