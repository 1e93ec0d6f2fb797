"""Tables of images in Parquet files: a column for each fact, and no pixels.

A million rows are read in a second. pandas, Polars and DuckDB open them, too.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError

ROWS = 1 << 16  # to write at once


def write(
  path: epath.PathLike,
  kinds: Mapping[str, str],
  batches: Iterable[Mapping[str, Sequence]],
) -> None:
  """Writes a table; the same one gives the same bytes, by one pyarrow.

  Args:
    path: of the file.
    kinds: the type of each column: one of Arrow, such as "int32", or
      "category", for texts that many rows have.
    batches: of about ROWS rows each, the values of every column.
  """
  import pyarrow as pa
  from pyarrow import parquet

  category = pa.dictionary(pa.int32(), pa.string())
  types = {
    name: category if kind == "category" else pa.type_for_alias(kind)
    for name, kind in kinds.items()
  }
  with (
    epath.Path(path).open("wb") as file,
    parquet.ParquetWriter(file, pa.schema(types)) as writer,
  ):
    for batch in batches:
      columns = {
        name: pa.array(
          list(batch[name]) if kind == category else batch[name], kind
        )
        for name, kind in types.items()
      }
      writer.write_table(pa.table(columns))


def batches_of(columns: Mapping[str, Sequence]) -> Iterator[dict]:
  """Cuts columns [n] into batches for `write`."""
  for start in range(0, len(next(iter(columns.values()))), ROWS):
    rows = slice(start, start + ROWS)
    yield {name: values[rows] for name, values in columns.items()}


def shape_of(path: epath.PathLike) -> tuple[int, set[str]]:
  """Returns the number of rows and the columns' names, without a checksum.

  Raises:
    UserError: if the file is missing or damaged.
  """
  with _opened(path, check=False) as file:
    return file.metadata.num_rows, {*file.schema_arrow.names}


def read(
  path: epath.PathLike,
  names: Sequence[str],
  rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Reads columns, each [n].

  Texts are Python's; of a category, equal ones are one object. A million ids
  take 90 MB: see `read_batches`.

  Args:
    path: of the file.
    names: of the columns.
    rows: int [n], in order; None reads all.

  Raises:
    UserError: if the file is missing or damaged, is not as its manifest says,
      or lacks a column.
  """
  import pyarrow as pa

  with _opened(path) as file:
    if rows is None:
      table = file.read(columns=list(names))
    else:
      groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
      ends = np.cumsum([0] + [group.num_rows for group in groups])
      parts = [file.schema_arrow.empty_table().select(names)]
      for group, (start, end) in enumerate(itertools.pairwise(ends)):
        of_group = rows[slice(*np.searchsorted(rows, (start, end)))] - start
        if len(of_group):
          part = file.read_row_group(group, columns=list(names))
          parts.append(part.take(of_group))
      table = pa.concat_tables(parts)
    return {name: _to_numpy(table.column(name)) for name in names}


def read_batches(
  path: epath.PathLike, names: Sequence[str]
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the columns of some rows after others; see `read`."""
  with _opened(path) as file:
    for group in range(file.num_row_groups):
      table = file.read_row_group(group, columns=list(names))
      yield {name: _to_numpy(table.column(name)) for name in names}


@contextlib.contextmanager
def _opened(path: epath.PathLike, *, check: bool = True) -> Iterator[Any]:
  """Opens a table, and says which one is damaged."""
  import pyarrow as pa
  from pyarrow import parquet

  path = epath.Path(path)
  if check:
    artifacts.check_file(path)
  try:
    with path.open("rb") as file, parquet.ParquetFile(file) as table:
      yield table
  except (OSError, KeyError, ValueError, pa.ArrowException) as error:
    raise UserError(
      f"{path} cannot be read ({error}). Put it back from a copy; or delete "
      f"its folder yourself and run {path.parent.name!r} again."
    ) from error


def _to_numpy(column: Any) -> np.ndarray:
  """Turns a column of Arrow into an array."""
  if not hasattr(column.type, "value_type"):
    return column.to_numpy()
  chunks = column.unify_dictionaries().chunks
  if not chunks:
    return np.zeros(0, object)
  texts = np.array(chunks[0].dictionary.to_pylist(), object)
  return texts[np.concatenate([chunk.indices.to_numpy() for chunk in chunks])]
