"""Finds and loads config files: of the user, and those of the package."""

import argparse
import ast
import pathlib
import runpy
from collections.abc import Sequence

from ml_collections import ConfigDict

from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError, unknown_names

_PACKAGE = pathlib.Path(__file__).parents[1]
# A wheel holds the folder in the package; in a clone it lies beside it.
_IN_WHEEL = _PACKAGE / "configs"
OF_PACKAGE = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "configs"


def load_config(path: str) -> ConfigDict:
  """Returns the config of "FILE" or "FILE:arg,arg=value"; see `find`.

  Raises:
    UserError: if there is no such file, it does not take the arguments, or it
      has no `get_config` that returns a ConfigDict.
  """
  file, _, arg = path.partition(":")
  file = find(file)
  is_python = file.suffix == ".py"
  get_config = is_python and runpy.run_path(str(file)).get("get_config")
  config = get_config(arg or None) if get_config else None
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"{file} is no config: it must be Python with a function "
      "get_config(arg=None) that returns a ConfigDict, as those of configs/."
    )
  return config


def find(name: str) -> pathlib.Path:
  """Returns the file of a config.

  Args:
    name: a path, "~" is the home folder. If there is no such file, NAME,
      NAME.py or configs/NAME.py is that file of the folder `configs` here or
      else of the package.

  Raises:
    UserError: with the nearest names.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_file():
    return path
  if path.parent in (pathlib.Path(), pathlib.Path("configs")):
    of_package = files()
    if path.suffix in ("", ".py") and path.stem in of_package:
      return of_package[path.stem]
    raise unknown_names("config file", [name], of_package)
  raise UserError(
    f"There is no config file {name!r}. Give the path of one, or the name of "
    f"one of these: {', '.join(sorted(files()))}."
  )


def files() -> dict[str, pathlib.Path]:
  """Returns the configs of `configs` here and of the package, by their names.

  Those here come first, and stand for those of the package of the same name.
  """
  paths = {}
  for folder in (pathlib.Path("configs"), OF_PACKAGE):
    for path in sorted(folder.glob("[!_]*.py")):
      paths.setdefault(path.stem, path)
  return paths


def docstring(path: pathlib.Path) -> str:
  """Returns the docstring of a config without running it; "" without one."""
  try:
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
  except (SyntaxError, ValueError):  # loading it says what is wrong
    return ""


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2."""
  parser = argparse.ArgumentParser(
    prog="synthjax list",
    description="Lists the configs that `synthjax run NAME` takes.",
  )
  parser.add_argument(
    "names", nargs="*", metavar="NAME", help="shows its arguments and numbers"
  )
  args = parser.parse_args(argv)
  end_well(lambda: _list(args.names))


def _list(names: Sequence[str]) -> None:
  for name in names:
    print(docstring(find(name)))
  if names:
    return
  of_package = files()
  width = max(map(len, of_package), default=0)
  for name in sorted(of_package):
    title, _, _ = docstring(of_package[name]).partition("\n")
    print(f"{name:{width}}  {title}")
  print("\n`synthjax list NAME` shows the arguments of a config.")
