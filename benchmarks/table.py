"""Prints what was measured as a table, and writes it down as JSON."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

LIBRARIES = ("jax", "flax", "optax", "numpy", "torch", "synthjax")


def row(
  name: str,
  unit: str,
  ours: float,
  reference: float | None,
  *,
  device: str,
  more_is_better: bool = False,
) -> dict[str, Any]:
  """Returns one measurement.

  Args:
    name: what was measured, and how where that is not plain.
    unit: of both figures, such as "s" or "images/s".
    ours: of this project.
    reference: of what it is compared with; None where that did not run.
    device: both ran on.
    more_is_better: of the unit; False for seconds.

  Returns:
    The fields of the table. `ratio` is above 1 where ours is faster.
  """
  ratio = None
  if reference is not None:
    ratio = ours / reference if more_is_better else reference / ours
  return {
    "name": name,
    "unit": unit,
    "ours": ours,
    "reference": reference,
    "ratio": ratio,
    "device": device,
    "versions": versions(),
  }


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the libraries that are installed."""
  found = {"python": platform.python_version()}
  for name in LIBRARIES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def show(rows: Sequence[dict[str, Any]], path: str | None = None) -> None:
  """Prints the rows, and writes them as a list to a path where one is given."""
  cell = lambda value: "-" if value is None else f"{value:.4g}"
  lines = [["", "unit", "ours", "reference", "ratio"]]
  for each in rows:
    figures = [cell(each[key]) for key in ("ours", "reference", "ratio")]
    lines.append([each["name"], each["unit"], *figures])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  for line in lines:
    padded = [text.rjust(w) for text, w in zip(line, widths, strict=True)]
    print("  ".join([line[0].ljust(widths[0]), *padded[1:]]))
  for device in dict.fromkeys(each["device"] for each in rows):
    print(f"\n{device}; a ratio above 1 means that ours is faster.")
  if path is not None:
    with open(path, "w") as file:
      json.dump(list(rows), file, indent=1)
      file.write("\n")
