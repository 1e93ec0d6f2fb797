r"""Fetches released weights, and converts them to what configs name.

  synthjax weights list                  all checkpoints and their states
  synthjax weights fetch NAME...         download, verify, convert
  synthjax weights convert NAME FILE...  the same with your own files,
                                         of any names: base.pt=MY_FILE
  synthjax weights convert --kind=KIND PLACE --output=FOLDER
                                         any others, of files of any names
  synthjax weights check NAME...         read everything again
  synthjax weights pack FOLDER --output=FOLDER
                                         Stable Diffusion, in two files

PLACE is a file, a folder, or hf://ORG/NAME@REVISION of the Hugging Face hub
(also .../FILE; HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE count), and
KIND one of clip, dinov2, glide, inception, noised_clip, resnet, t5 and vit.
Configs take such places as they are, and convert them once, into the cache.

`convert` takes the index of weights in several files, and reads the config.json
beside them for what they do not show: the heads and the activation of a CLIP,
which --vision_heads, --text_heads and --activation state otherwise.

An interrupted fetch goes on where it stopped. Configs name the results as
released:NAME/FILE. They lie in the cache folder (SYNTHJAX_CACHE), or with
`convert --output=FOLDER` anywhere. SYNTHJAX_MIRROR=https://host/path fetches
from https://host/path/NAME/FILE instead of from the publishers.
"""

import argparse
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from synthjax.config import released_generator
from synthjax.runtime import cache, published
from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.published import File
from synthjax.weights.catalogue import HUB_GENERATORS, RELEASED, places

COMMANDS = ("list", "fetch", "convert", "check", "pack")
_OTHERWISE = (
  "Or get the file by other means, and give it to `python -m synthjax.weights "
  "convert NAME FILE`."
)


def run(
  command: str,
  names: Sequence[str],
  output: str | None,
  options: Mapping[str, Any] | None = None,
  kind: str | None = None,
) -> None:
  """Runs one command.

  Args:
    command: of COMMANDS.
    names: of checkpoints; for "convert" one of them, then files; for "pack" a
      folder in diffusers' layout.
    output: the folder for the results of "convert" or "pack"; None is the
      cache, which "pack" does not take.
    options: of the network, for "convert"; None is not given.
    kind: of FAMILIES; "convert" then takes one place instead.

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
  if kind is not None:
    if command != "convert" or len(names) != 1 or output is None:
      raise UserError(
        "--kind is for `convert --kind=KIND PLACE --output=FOLDER`."
      )
    from synthjax.weights import given_files

    return given_files.convert_place(kind, names[0], output, options)
  if command == "pack":
    if len(names) != 1 or output is None:
      raise UserError(
        "`pack` needs a folder in diffusers' layout and --output=FOLDER."
      )
    from synthjax.models.stable_diffusion.weights import pack, wanted
    from synthjax.weights import snapshots

    return pack(snapshots.fetch(names[0], wanted)[0], output)
  if output is not None and command != "convert":
    raise UserError(
      "--output is for `convert` and `pack`; SYNTHJAX_CACHE moves all."
    )
  if "stable_diffusion" in names:
    raise UserError(
      "Stable Diffusion is not fetched here: name a folder in diffusers' "
      "layout (unet/, vae/, text_encoder/, tokenizer/, scheduler/), or its "
      "repository as hf://ORG/NAME, in config.generator.weights, which reads "
      "it as it is. `pack FOLDER --output=FOLDER` makes two files of it."
    )
  checkpoints = names[:1] if command == "convert" else names
  known = {*RELEASED, *(HUB_GENERATORS if command in ("list", "fetch") else ())}
  if unknown := [name for name in checkpoints if name not in known]:
    raise unknown_names("released checkpoint", unknown, known)
  if command == "list":
    list_all(names)
  elif not names:
    raise UserError(f"`{command}` needs a name; `list` lists them.")
  elif command == "convert":
    from synthjax.weights import given_files

    given_files.convert_files(names[0], names[1:], output, options)
    if output is None:
      tell_use(names[0])
  else:
    {"fetch": fetch_all, "check": check_all}[command](names)


# --- fetching ----------------------------------------------------------------


def fetch_all(names: Sequence[str]) -> None:
  """Downloads, verifies and converts checkpoints into the cache."""
  from synthjax.weights import given_files

  for name in names:
    if name in HUB_GENERATORS:
      fetch_generator(name)
      continue
    entry, folder = RELEASED[name], cache.weights_folder(name)
    if _complete(name, published.read(folder)):
      print(f"{name} is already there.")
      tell_use(name)
      continue
    note = f" ({entry.note})" if entry.note else ""
    print(f"{name}: {entry.what}, licence {entry.licence}{note}")
    for file in entry.files:
      _fetch(name, file)
    paths = {f.name: folder / f.name for f in entry.files}
    given_files.make(name, paths, folder)
    tell_use(name)


def fetch_generator(name: str) -> None:
  """Fetches a generator into the cache of the Hugging Face hub, as it is."""
  from synthjax.weights import files, snapshots

  entry, (folder, *distilled) = HUB_GENERATORS[name], places(name)
  print(f"{name}: {entry.what}, licence {entry.licence} ({entry.note})")
  family = released_generator(name)["name"]
  family += "_without_unet" if distilled else ""
  print(files.locate(folder, field="generator.weights", family=family))
  for place in distilled:
    print(snapshots.find_weights(place))
  print(f'  sx.load_generator("{name}")')


def _fetch(name: str, file: File) -> None:
  """Fetches a file unless it is there."""
  try:
    published.fetch(file, cache.weights_folder(name), name, _OTHERWISE)
  except UserError as error:
    if not file.others or os.environ.get("SYNTHJAX_MIRROR"):
      raise
    others = "\n  ".join(file.others)
    raise UserError(
      f"{error}\n`convert {name}` also takes the same weights from\n  {others}"
    ) from None


def _complete(name: str, hashes: Mapping[str, str]) -> bool:
  """Returns whether all is converted from the files that were fetched."""
  folder = cache.weights_folder(name)
  for made in RELEASED[name].makes:
    if not (folder / made).exists():
      return False
    if made.endswith(".safetensors"):
      from synthjax.weights import files

      try:
        about = files.read_description(folder / made)
      except UserError:  # damaged: made again from the fetched files
        return False
      if any(
        hashes.get(s, d) != d for s, d in about.get("sources", {}).items()
      ):
        return False
  return True


def tell_use(name: str) -> None:
  """Prints how configs name the files that exist."""
  folder = cache.weights_folder(name)
  print(f"In {folder}:")
  for made, about in RELEASED[name].makes.items():
    if (folder / made).exists():
      use = f"--config.{about.field}=" if about.field else ""
      print(f"  {use}{cache.RELEASED}{name}/{made}")


# --- listing and checking ----------------------------------------------------


def list_all(names: Sequence[str]) -> None:
  """Prints all checkpoints and their states, or details of the named ones."""
  rows = [("name", "what", "MB", "licence", "state")]
  for name in names or (*RELEASED, *HUB_GENERATORS):
    entry = RELEASED.get(name) or HUB_GENERATORS[name]
    if name in HUB_GENERATORS:
      total, how_far = f"~{1000 * entry.gigabytes:,.0f}", "of the hub"
    else:
      total, how_far = published.total(entry.files), state(name)
    rows.append((name, entry.what, total, entry.licence, how_far))
  published.print_table(rows)
  for name in names:
    if name in HUB_GENERATORS:
      print(f"\n{name}: {HUB_GENERATORS[name].note}")
      print(f"  {', '.join(places(name))}")
      continue
    print(f"\n{name}{RELEASED[name].note and ': '}{RELEASED[name].note}")
    for file in RELEASED[name].files:
      print(f"  {file.url}\n    {file.published_hash()}")
      print("".join(f"    or {other}\n" for other in file.others), end="")
  print(
    f"\nThey lie in {cache.weights_folder('')} (SYNTHJAX_CACHE moves it).\n"
    "`python -m synthjax.weights fetch NAME` fetches one."
  )


def state(name: str) -> str:
  """Returns how far a checkpoint is fetched and converted, by its files."""
  entry, folder = RELEASED[name], cache.weights_folder(name)
  if all((folder / made).exists() for made in entry.makes):
    return "converted"
  if all((folder / file.name).exists() for file in entry.files):
    return "fetched"
  sizes = [published.received(folder, file) for file in entry.files]
  return published.how_far(sizes) or "not fetched"


def check_all(names: Sequence[str]) -> None:
  """Reads all files of checkpoints again, and prints a table.

  Raises:
    UserError: listing every file that is missing, damaged or changed.
  """
  from synthjax.weights import files

  problems, rows = [], [("file", "MB", "content", "state")]
  for name in names:
    entry, folder = RELEASED[name], cache.weights_folder(name)
    hashes = published.read(folder)
    for file in entry.files:
      if not (folder / file.name).exists():
        continue  # not needed once it has been converted
      digest = files.sha256(folder / file.name)
      expected = file.sha256 or hashes.get(file.name) or ""
      state = "as published" if file.sha256 else "as first fetched"
      if not digest.startswith(expected):
        state = "CHANGED"
        problems.append(
          f"{folder / file.name} has SHA-256 {digest}, expected {expected}: "
          "delete it and fetch again."
        )
      rows.append(_row(folder / file.name, f"{digest[:12]}...", state))
    for made in entry.makes:
      try:
        rows.append(_check_made(name, made, hashes))
      except UserError as error:
        state = "WRONG" if (folder / made).exists() else "not made"
        rows.append((f"{name}/{made}", "", "", state))
        problems.append(str(error))
  published.print_table(rows)
  if problems:
    raise UserError("\n".join(problems))


def _check_made(name: str, made: str, hashes: Mapping[str, str]) -> tuple:
  """Reads a converted file whole, and returns its row."""
  import numpy as np
  from flax import traverse_util

  from synthjax.tokenizers import bpe
  from synthjax.weights import files

  path, about = cache.weights_folder(name) / made, RELEASED[name].makes[made]
  command = f"`python -m synthjax.weights fetch {name}`"
  again = f"Delete {path} and run {command}."
  if not path.exists():
    raise UserError(f"{path} is missing: run {command}.")
  if made == "tokenizer.json":
    try:
      bpe.load(path)
    except UserError as error:
      raise UserError(f"{error} {again}") from None
  if not made.endswith(".safetensors"):
    return _row(path, "", "reads well")
  variables, description = files.load_params(path, dtype=None)
  flat = traverse_util.flatten_dict(variables, sep="/")
  kinds = sorted({str(value.dtype) for value in flat.values()})
  bad = [key for key, value in flat.items() if not np.isfinite(value).all()]
  number = sum(v.size for k, v in flat.items() if k.startswith("params/"))
  if bad:
    raise UserError(
      f"{path} holds numbers that are not finite, in {', '.join(bad[:5])} "
      f"({len(bad)} in all). {again}"
    )
  if about.parameters not in (None, number):
    raise UserError(
      f"{path} holds {number:,} parameters, the released model has "
      f"{about.parameters:,}: it was made from other weights. {again}"
    )
  for source, digest in description.get("sources", {}).items():
    if hashes.get(source, digest) != digest:
      raise UserError(
        f"{path} was made from another {source} than the one fetched. {again}"
      )
  return _row(path, f"{number:,} parameters, {', '.join(kinds)}", "reads well")


def _row(path: pathlib.Path, content: str, state: str) -> tuple:
  size = f"{path.stat().st_size / 1e6:,.1f}"
  return (f"{path.parent.name}/{path.name}", size, content, state)


# --- the command line --------------------------------------------------------


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
  parser.add_argument("--kind", help="of the weights of a PLACE, see above")
  for field, kind, words in (
    ("vision_heads", int, "heads of its image tower's attention"),
    ("text_heads", int, "heads of its text tower"),
    ("activation", str, "quick_gelu or gelu"),
  ):
    parser.add_argument(f"--{field}", type=kind, help=f"of a CLIP: {words}")
  args = vars(parser.parse_intermixed_args(argv))
  first = (args.pop(name) for name in ("command", "names", "output"))
  kind = args.pop("kind")
  end_well(lambda: run(*first, args, kind))


if __name__ == "__main__":
  main()
