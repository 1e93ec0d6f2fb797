"""The paper's tables as grids of rows and columns, read from a file beside."""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

_FILE = pathlib.Path(__file__).parent / "paper_tables.json"
ZERO_SHOT = "zero-shot"  # a row
RN50, VIT_B16 = "CLIP-RN50", "CLIP-ViT-B/16"

Values = dict[tuple[str, str], float]  # (row, column) -> share


class Grid(NamedTuple):
  """The numbers of a table for one data set."""

  data: str
  values: Values
  encoder: str = RN50
  approximate: frozenset[tuple[str, str]] = frozenset()  # rows and columns
  typical: bool = True  # stands for the paper where we have other data


class Table(NamedTuple):
  """A table of the paper."""

  title: str
  metric: str
  note: str
  task: str  # whose numbers of ours stand beside it; "" where none do by name
  # Rows whose arm, method or first weights of ours are called otherwise. The
  # columns of few-shot tables are shots; in others an arm that is meant for one
  # of several columns is called "row, column".
  arms: Mapping[str, str]
  # The row that others are compared with; or, of each row, its own.
  reference: str | Mapping[str, str] | None
  grids: tuple[Grid, ...]

  def reference_of(self, row: str) -> str | None:
    """Returns the row that a row is compared with."""
    if isinstance(self.reference, Mapping):
      return self.reference.get(row)
    return None if self.reference == row else self.reference


def data_sets() -> dict[str, str]:
  """Returns label space, or data of `detect` -> the paper's data set."""
  return _load()["_data_sets"]


def keys() -> list[str]:
  """Returns the names of all tables."""
  return [key for key in _load() if not key.startswith("_")]


def read(key: str) -> Table:
  """Reads one of `keys`."""
  table = _load()[key]
  return Table(
    table["title"],
    table["metric"],
    table.get("note", ""),
    table.get("task", ""),
    table.get("arms", {}),
    table.get("reference"),
    tuple(map(_grid, table["grids"])),
  )


def _grid(grid: Mapping[str, Any]) -> Grid:
  """Reads row -> percent, or row -> column -> percent, as shares."""
  rows = {
    row: columns if isinstance(columns, Mapping) else {"": columns}
    for row, columns in grid["values"].items()
  }
  return Grid(
    grid["data"],
    {
      (row, column): percent / 100
      for row, columns in rows.items()
      for column, percent in columns.items()
    },
    grid.get("encoder", RN50),
    frozenset(
      (row, column)
      for row, columns in grid.get("approximate", {}).items()
      for column in columns
    ),
    grid.get("typical", True),
  )


@functools.cache
def _load() -> dict[str, Any]:
  return json.loads(_FILE.read_text("utf-8"))
