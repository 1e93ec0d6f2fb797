"""The images that `generate` has drawn: all of a workdir, or a part of them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from synthjax.data.generated.plan import ImageId
from synthjax.data.generated.shards import open_shards
from synthjax.data.pipeline.rows import Example, Source, subset
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json, read_text

SELECTION = "selection.jsonl"  # of the task `select`


def open_generated(
  folder: epath.PathLike,
  *,
  strategy: str | None = None,
  seed: int | None = None,
  selection: epath.PathLike | None = None,
  decode: bool = True,
) -> Source:
  """Opens the images.

  Args:
    folder: of the image shards.
    strategy: of the prompts; None takes the images of all.
    seed: of the images, with a strategy. None takes all seeds; so does any
      seed, if the images have a single one.
    selection: the `selection.jsonl` of `select`, whose kept rows are taken;
      None takes every image.
    decode: the images; see `shards.open_shards`.

  Raises:
    UserError: if no image is left, or shards are missing or damaged.
  """
  if selection is not None:
    rows = read_selection(selection)
    strategies = {row["strategy"] for row in rows if row["kept"]}
    ids = [
      row["id"]
      for row in rows
      if row["kept"] and strategy in (None, row["strategy"])
    ]
    ids = _of_seed(ids, seed)
    if not ids:
      raise _nothing(selection, strategy, strategies)
    return open_shards(folder, ids, decode)
  source = open_shards(folder, decode=decode)
  if strategy is None:
    return source
  spans = spans_of_strategies(source)
  if strategy not in spans:
    raise _nothing(folder, strategy, spans)
  rows = spans[strategy]
  seeds = _spans(source, _seed, rows)
  if seed is None or len(seeds) == 1:
    return subset(source, rows)
  if seed not in seeds:
    raise _nothing(folder, f"{strategy}, seed {seed}", seeds)
  return subset(source, seeds[seed])


def open_run(
  workdir: epath.PathLike, *, kept: bool = False, **more: Any
) -> Source:
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
    selection=workdir / "select" / SELECTION if kept else None,
    **more,
  )


def read_selection(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads a selection.jsonl: what `select` says of each image.

  Raises:
    UserError: if it is not as its manifest says, or a line is no such row.
  """
  artifacts.check_file(path)
  rows = []
  for number, line in enumerate(read_text(path).splitlines(), start=1):
    try:
      row = parse_json(line, dict)
      if lacking := {"id", "strategy", "kept"} - row.keys():
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    except ValueError as error:
      raise UserError(
        f"{path}, line {number}, is damaged ({error}). Put the file back from "
        "a copy; or delete its folder yourself and run `select` again."
      ) from None
    rows.append(row)
  return rows


def _of_seed(ids: Sequence[str], seed: int | None) -> list[str]:
  """Keeps the ids of a seed, if they are of several."""
  seeds = {image_id: _seed({"id": image_id}) for image_id in ids}
  if seed is None or len(set(seeds.values())) == 1:
    return list(ids)
  return [image_id for image_id in ids if seeds[image_id] == seed]


def spans_of_strategies(source: Sequence[Example]) -> dict[str, range]:
  """Returns the rows of each strategy; rows are ordered by strategy."""
  return _spans(source, _strategy, range(len(source)))


def rows_of_labels(source: Sequence[Example]) -> dict[int, list[int]]:
  """Returns the rows of each label, over all strategies and seeds."""
  rows_of: dict[int, list[int]] = {}
  key = lambda row: (_seed(row), int(row["label"]))
  for rows in spans_of_strategies(source).values():
    for (_, label), span in _spans(source, key, rows).items():
      rows_of.setdefault(label, []).extend(span)
  return rows_of


def _spans(
  source: Sequence[Example], key: Callable[[Example], Any], rows: range
) -> dict[Any, range]:
  """Returns the rows of each key of rows that are ordered by it.

  Bisection reads a few of millions.
  """
  spans, start = {}, rows.start
  while start < rows.stop:
    name, low, high = key(source[start]), start, rows.stop
    while high - low > 1:  # row `low` has this key, row `high` has not
      middle = (low + high) // 2
      if key(source[middle]) == name:
        low = middle
      else:
        high = middle
    spans[name], start = range(start, high), high
  return spans


def _strategy(row: Example) -> str:
  return ImageId.parse(row["id"]).strategy


def _seed(row: Example) -> int:
  return ImageId.parse(row["id"]).seed


def _nothing(where, strategy, present) -> UserError:
  of_strategy = "" if strategy is None else f" of the strategy {strategy!r}"
  return UserError(
    f"{where} has no image{of_strategy} to train on; it has those of "
    f"{', '.join(sorted(map(str, present))) or 'no strategy at all'}."
  )


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
  all_rows, needed = rows_of_labels(source), images_per_class or 1
  rows_of = {label: all_rows.get(label, []) for label in range(num_classes)}
  if few := {k: len(v) for k, v in rows_of.items() if len(v) < needed}:
    listed = ", ".join(f"{k} has {n}" for k, n in list(few.items())[:10])
    raise UserError(
      f"{needed} images of each of the first {num_classes} classes are asked "
      f"for, but {len(few)} have fewer: label {listed}. Ask for at most "
      f"{min(few.values())}, or raise config.generate.images_per_class."
    )
  if images_per_class is None:
    kept = [row for rows in rows_of.values() for row in rows]
  else:
    kept = [
      rows[i * len(rows) // images_per_class]
      for rows in rows_of.values()
      for i in range(images_per_class)
    ]
  return subset(source, np.sort(kept))
