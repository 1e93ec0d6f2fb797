"""Prints what was measured as a table, and writes it down as JSON."""

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
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
    name: what was measured, and how.
    unit: of both figures, such as "s" or "images/s".
    ours: the figure of this project.
    reference: that of the other side; None where it did not run.
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


def titled(title: str, device: str) -> Callable[..., dict[str, Any]]:
  """Returns `row` for measurements named "TITLE: WHAT" of one device."""
  return lambda what, *cells, **more: row(
    f"{title}: {what}", *cells, device=device, **more
  )


def rows_against(
  make_row: Callable[..., dict[str, Any]],
  what: str,
  unit: str,
  figures: Mapping[str, float],
  **more: Any,
) -> list[dict[str, Any]]:
  """Returns a row for each way of PyTorch, against which ours is compared.

  Args:
    make_row: of `titled`.
    what: was measured; "" names the way alone.
    unit: of the figures.
    figures: of "ours", and of each way that PyTorch ran in.
    **more: of `row`.
  """
  ways = [way for way in figures if way != "ours"] or ["PyTorch"]
  return [
    make_row(
      f"{what}, against {way}" if what else f"against {way}",
      unit,
      figures["ours"],
      figures.get(way),
      **more,
    )
    for way in ways
  ]


def gib(count: float | None) -> float | None:
  """Returns bytes in GiB, and None where they are unknown."""
  return None if count is None else count / 2**30


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the libraries that are installed."""
  installed = {"python": platform.python_version()}
  for name in LIBRARIES:
    try:
      installed[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return installed


def show(rows: Sequence[dict[str, Any]], path: str | None = None) -> None:
  """Prints the rows, and writes them as a list to a path where one is given."""
  cell = lambda value: "-" if value is None else f"{value:.4g}"
  lines = [["", "unit", "ours", "reference", "ratio"]]
  for line in rows:
    figures = [cell(line[key]) for key in ("ours", "reference", "ratio")]
    lines.append([line["name"], line["unit"], *figures])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  for line in lines:
    padded = [text.rjust(w) for text, w in zip(line, widths, strict=True)]
    print("  ".join([line[0].ljust(widths[0]), *padded[1:]]))
  for device in dict.fromkeys(line["device"] for line in rows):
    print(f"\n{device}; a ratio above 1 means that ours is faster.")
  if path is not None:
    with open(path, "w") as file:
      json.dump(list(rows), file, indent=1)
      file.write("\n")
