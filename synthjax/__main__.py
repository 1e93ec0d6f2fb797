r"""The command `synthjax`, which is also `python -m synthjax`.

synthjax run CONFIG[:arg,arg=value] --workdir=DIR [--config.field=value ...]
"""

import importlib
import sys
from collections.abc import Sequence

from synthjax.runtime.errors import as_message, unknown_names

# Command -> the module whose `main(argv)` it is, and what it does. Modules are
# imported when they are needed, and JAX when there is something to compute.
COMMANDS = {
  "run": ("synthjax.main", "runs the tasks of a config"),
  "list": ("synthjax.config.config_files", "lists the configs"),
  "classify": ("synthjax.classify", "classifies images by a finished run"),
  "detect": ("synthjax.detect", "finds objects by a finished run"),
  "evaluate": ("synthjax.evaluate", "measures a finished run on other images"),
  "export": (
    "synthjax.export",
    "exports a classifier as one file, to serve it",
  ),
  "verify": ("synthjax.verify", "checks every file of a workdir"),
  "push": ("synthjax.push", "uploads a run to the Hugging Face hub"),
  "weights": ("synthjax.weights.__main__", "fetches released weights"),
  "datasets": ("synthjax.datasets", "fetches the paper's data sets"),
}


def main(argv: Sequence[str] | None = None) -> None:
  """Runs one command; a UserError is one message and exit code 2."""
  command, *args = [*(sys.argv[1:] if argv is None else argv)] or [""]
  if command in ("", "-h", "--help", "help"):
    print(_help())
    sys.exit(0 if command else 2)
  if command == "--version":
    from synthjax import __version__  # which reads what pip has installed

    print(f"synthjax {__version__}")
    sys.exit()
  with as_message():
    if command not in COMMANDS:
      raise unknown_names("command", [command], COMMANDS)
    importlib.import_module(COMMANDS[command][0]).main(args)


def _help() -> str:
  lines = [
    f"  synthjax {name:9} {does}" for name, (_, does) in COMMANDS.items()
  ]
  return "\n".join(
    [
      "Draws labelled images, filters them and learns recognisers from them.\n",
      *lines,
      "\nBegin with: synthjax run quickstart --workdir=runs/quickstart",
      "`synthjax COMMAND --help` tells more of each, --version the version.",
    ]
  )


if __name__ == "__main__":
  main()
