"""Sections of the page: a module each, which the page finds by itself.

A module of this folder has

- `PLACE` and `TITLE`: sections stand on the page in the order of their places;
- `render(results) -> str`: HTML from the numbers of `results.json` and the
  pictures beside them. A section without content is left out.

and, if it needs them,

- `gather(run, results) -> dict`: what it adds to `results.json`, from the files
  of tasks or from their results;
- `pictures(run, samples_per_class) -> dict`: what `render` shows besides, which
  is not in `results.json`;
- `headline(results) -> list[Tile]`: numbers that stand for a whole run. The top
  of the page shows those of the first section that has any;
- `tiles(results) -> list[Tile]`: further numbers for the top.
"""

import importlib
import pkgutil
import types
from typing import NamedTuple


class Tile(NamedTuple):
  """A number at the top of the page, all plain text."""

  number: str
  unit: str
  words: str


def modules() -> list[types.ModuleType]:
  """Imports the modules of this folder, in the order of the page."""
  names = [module.name for module in pkgutil.iter_modules(__path__)]
  sections = [importlib.import_module(f"{__name__}.{name}") for name in names]
  return sorted(sections, key=lambda section: section.PLACE)
