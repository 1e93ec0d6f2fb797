"""Tables of images in Parquet files: a column for each fact, and no pixels.

A million rows are read in a second. pandas, Polars and DuckDB open them, too.
"""

import contextlib
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


def columns_of(path: epath.PathLike) -> set[str]:
  """Returns the names of the columns of a table, or raises as `read`."""
  with _opened(path) as file:
    return {*file.schema_arrow.names}


def read(path: epath.PathLike, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Reads columns, each [n].

  Texts are Python's; of a category, equal ones are one object.

  Raises:
    UserError: if the file is missing or damaged, is not as its manifest says,
      or lacks a column.
  """
  with _opened(path) as file:
    table = file.read(columns=list(names))
    return {name: _to_numpy(table.column(name)) for name in names}


@contextlib.contextmanager
def _opened(path: epath.PathLike) -> Iterator[Any]:
  """Opens a table, and says which one is damaged."""
  import pyarrow as pa
  from pyarrow import parquet

  path = epath.Path(path)
  artifacts.check_file(path)
  try:
    with path.open("rb") as file, parquet.ParquetFile(file) as table:
      yield table
  except (OSError, KeyError, pa.ArrowException) as error:
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
