"""Exports the classifier of a run, encoder included, as one file to serve.

synthjax export WORKDIR FOLDER [--format=stablehlo,onnx,safetensors]
  [--task=NAME] [--arm=NAME]

FOLDER gets classifier.FORMAT and config.json, which names the classes and says
how images become the squares that the file takes.
"""

import argparse
from collections.abc import Sequence

from synthjax.classify import add_choice
from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2."""
  parser = argparse.ArgumentParser(
    prog="synthjax export",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("workdir", help="of the run")
  parser.add_argument("folder", help="that is made")
  parser.add_argument(
    "--format",
    default="stablehlo",
    help="stablehlo (default), onnx, safetensors, or several: onnx,safetensors",
  )
  add_choice(parser)
  args = parser.parse_args(argv)
  end_well(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
  import jax

  # What is traced is served on other devices; and no GPU need be free.
  jax.config.update("jax_platforms", "cpu")
  from synthjax.adapt import classifier as classifiers
  from synthjax.adapt import serving

  if not args.folder:  # as an unset variable of the shell leaves it
    raise UserError("The folder is an empty text: give its path.")
  classifier = classifiers.load(args.workdir, arm=args.arm, task=args.task)
  if classifier.network is None:
    raise UserError(
      "The encoder of this run gives no network to export: an encoder of your "
      "own sets `Encoder.network`."
    )
  formats = [name.strip() for name in args.format.split(",") if name.strip()]
  written = serving.write(args.folder, classifier.network, formats)
  print(f"{classifier.arm.task}: {classifier.arm.name}")
  for name, difference in written.items():
    checked = difference is not None
    end = f", logits within {difference:.0e} of JAX's" if checked else ""
    print(f"  {args.folder}/{name}{end}")
  print(f"  {args.folder}/{serving.CONFIG}")


if __name__ == "__main__":
  main()
