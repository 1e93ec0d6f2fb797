r"""Fetches released weights, and converts them to what configs name.

  synthjax weights list                  all checkpoints and their states
  synthjax weights fetch NAME...         download, verify, convert
  synthjax weights convert NAME FILE...  the same with your own files,
                                         of any names: base.pt=MY_FILE
  synthjax weights check NAME...         read everything again
  synthjax weights pack FOLDER --output=FOLDER
                                         Stable Diffusion, in two files

`convert` takes the index of weights in several files, and reads the config.json
beside them for what they do not show: the heads and the activation of a CLIP,
which --vision_heads, --text_heads and --activation state otherwise.

An interrupted fetch goes on where it stopped. Configs name the results as
released:NAME/FILE. They lie in the cache folder (SYNTHJAX_CACHE), or with
`convert --output=FOLDER` anywhere. SYNTHJAX_MIRROR=https://host/path fetches
from https://host/path/NAME/FILE instead of from the publishers.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights import fetch, make
from synthjax.weights.catalogue import RELEASED

COMMANDS = ("list", "fetch", "convert", "check", "pack")


def run(
  command: str,
  names: Sequence[str],
  output: str | None,
  options: Mapping[str, Any] | None = None,
) -> None:
  """Runs one command.

  Args:
    command: of COMMANDS.
    names: of checkpoints; for "convert" one of them, then files; for "pack" a
      folder in diffusers' layout.
    output: the folder for the results of "convert" or "pack"; None is the
      cache, which "pack" does not take.
    options: of the network, for "convert"; None is not given.

  Raises:
    UserError: about misspelt or missing arguments, or from the command.
  """
  if command not in COMMANDS:
    raise unknown_names("command", [command], COMMANDS)
  options = {k: v for k, v in (options or {}).items() if v is not None}
  if options and command != "convert":
    raise UserError(f"{', '.join(f'--{k}' for k in options)}: for `convert`.")
  if output == "":
    raise UserError("--output is empty: is a variable of the shell unset?")
  if command == "pack":
    if len(names) != 1 or output is None:
      raise UserError(
        "`pack` needs a folder in diffusers' layout and --output=FOLDER."
      )
    from synthjax.models.stable_diffusion.weights import pack

    return pack(names[0], output)
  if output is not None and command != "convert":
    raise UserError(
      "--output is for `convert` and `pack`; SYNTHJAX_CACHE moves all."
    )
  if "stable_diffusion" in names:
    raise UserError(
      "Stable Diffusion is not fetched here: get a folder in diffusers' layout "
      "(unet/, vae/, text_encoder/, tokenizer/, scheduler/) from its "
      "publisher, under its licence. config.generator reads it as it is, and "
      "`pack FOLDER --output=FOLDER` makes two files of it."
    )
  checkpoints = names[:1] if command == "convert" else names
  if unknown := [name for name in checkpoints if name not in RELEASED]:
    raise unknown_names("released checkpoint", unknown, RELEASED)
  if command == "list":
    fetch.list_all(names)
  elif not names:
    raise UserError(f"`{command}` needs a name; `list` lists them.")
  elif command == "convert":
    make.convert_files(names[0], names[1:], output, options)
  else:
    {"fetch": fetch.fetch_all, "check": fetch.check_all}[command](names)


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2."""
  parser = argparse.ArgumentParser(
    prog="synthjax weights",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("command", help=" | ".join(COMMANDS))
  parser.add_argument("names", nargs="*", metavar="NAME", help="see `list`")
  parser.add_argument("--output", help="of `convert` and `pack`: a folder")
  for field, kind, words in (
    ("vision_heads", int, "heads of its image tower's attention"),
    ("text_heads", int, "heads of its text tower"),
    ("activation", str, "quick_gelu or gelu"),
  ):
    parser.add_argument(f"--{field}", type=kind, help=f"of a CLIP: {words}")
  args = vars(parser.parse_intermixed_args(argv))
  names = (args.pop(name) for name in ("command", "names", "output"))
  end_well(lambda: run(*names, args))


if __name__ == "__main__":
  main()
