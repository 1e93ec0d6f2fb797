r"""Fetches, unpacks and checks the paper's data sets and PASCAL VOC.

  synthjax datasets list [NAME...]   all data sets and their states
  synthjax datasets fetch NAME...    download, verify, unpack
  synthjax datasets check NAME...    open every split and count
  synthjax datasets where            where each data set lies

  --data_dir=/data   the folder of the data sets, as configs have it

Without it the folder is SYNTHJAX_DATA, else one in the cache folder. An
interrupted fetch goes on where it stopped. What must be got by hand is said,
and where to put it: archives as published, or the folders that they unpack to.
SYNTHJAX_MIRROR=https://host/path fetches from https://host/path/NAME/FILE.
"""

import argparse
import pathlib
from collections.abc import Sequence

from etils import epath

from synthjax.data.real import publishers
from synthjax.runtime import published
from synthjax.runtime.commands import end_well
from synthjax.runtime.errors import UserError, gathered, unknown_names
from synthjax.runtime.published import print_table

COMMANDS = ("list", "fetch", "check", "where")
_PRESENT = ("unpacked", "packed", "here")  # states of files that are there


def run(command: str, names: Sequence[str], data_dir: str | None) -> None:
  """Runs one command.

  Args:
    command: of COMMANDS.
    names: of data sets.
    data_dir: see `publishers.data_folder`.

  Raises:
    UserError: about misspelt or missing arguments, or from the command.
  """
  data_sets = publishers.published()
  if command not in COMMANDS:
    raise unknown_names("command", [command], COMMANDS)
  if unknown := [name for name in names if name not in data_sets]:
    raise unknown_names("data set", unknown, data_sets)
  if command in ("fetch", "check") and not names:
    raise UserError(f"`{command}` needs a name; `list` lists them.")
  root = publishers.data_folder(data_dir)
  {"list": list_all, "fetch": fetch_all, "check": check_all, "where": where}[
    command
  ](names, root)


def list_all(names: Sequence[str], root: epath.Path) -> None:
  """Prints the data sets and their states, or all about the named ones."""
  data_sets = publishers.published()
  rows = [("name", "what", "MB", "licence", "state")]
  for name in names or data_sets:
    entry = data_sets[name]
    size = published.total([a.file for a in entry.files if a.file.megabytes])
    rows.append((name, entry.what, size, entry.licence, state(name, root)))
  print_table(rows)
  for name in names:
    print(f"\n{name}: {data_sets[name].page}\n  lies in {_home(name, root)}")
    for archive in data_sets[name].files:
      hash_ = archive.file.published_hash()
      print(f"  {archive.file.url or archive.file.name + ', by hand'}")
      print(f"    {hash_}, {_state(name, root, archive)}")
    if data_sets[name].by_hand:
      print(f"  {data_sets[name].by_hand}.")
  print(f"\nThey lie in {root} (--data_dir or SYNTHJAX_DATA moves it).")


def _home(name: str, root: epath.Path) -> epath.Path:
  return root / publishers.published()[name].folders[0]


def _state(name: str, root: epath.Path, archive: publishers.Archive) -> str:
  """Returns how far one file is."""
  if archive.gives and publishers.find(name, root, archive.gives):
    return "unpacked"
  if publishers.packed(name, root, archive):
    return "packed" if archive.gives else "here"
  folder = pathlib.Path(_home(name, root))
  size = published.received(folder, archive.file)
  return published.how_far([size]) or "missing"


def state(name: str, root: epath.Path) -> str:
  """Returns how far a data set is, by its files."""
  states = {
    a.file.name: _state(name, root, a)
    for a in publishers.published()[name].files
  }
  missing = [file for file, how in states.items() if how not in _PRESENT]
  if not missing:
    return "packed" if "packed" in states.values() else "here"
  return (
    "missing" if len(missing) == len(states) else f"lacks {', '.join(missing)}"
  )


def where(names: Sequence[str], root: epath.Path) -> None:
  """Prints the folder, and where in it each data set was found."""
  print(root)
  for name in names or publishers.published():
    entries = [
      a.gives or a.file.name for a in publishers.published()[name].files
    ]
    folders = dict.fromkeys(publishers.find(name, root, e) for e in entries)
    places = [str(place) for place in folders if place]
    print(f"{name:16} {', '.join(places) or 'not here'}")


def fetch_all(names: Sequence[str], root: epath.Path) -> None:
  """Downloads and verifies what has an address, and unpacks all there is.

  Raises:
    UserError: listing what could not be fetched, and what to get by hand.
  """
  with gathered() as attempt:
    for name in names:
      attempt(_fetch, name, root)


def _fetch(name: str, root: epath.Path) -> None:
  """Fetches and unpacks one data set; see `fetch_all`."""
  entry, by_hand = publishers.published()[name], []
  print(f"{name}: {entry.what}, licence {entry.licence}, {entry.page}")
  with gathered() as attempt:
    for archive in entry.files:
      if _state(name, root, archive) in _PRESENT:
        print(f"{archive.file.name} is already there.")
      elif archive.file.url is None:
        by_hand.append(archive.file.name)
      else:
        folder = pathlib.Path(_home(name, root))
        folder.mkdir(parents=True, exist_ok=True)
        hint = f"Or get it by other means, and put it into {folder}."
        attempt(published.fetch, archive.file, folder, name, hint)
    gives = [archive.gives for archive in entry.files if archive.gives]
    attempt(publishers.place, name, root, gives)
    if by_hand:
      raise UserError(
        f"{name}: {', '.join(by_hand)} must be got by hand. {entry.by_hand}: "
        f"{_home(name, root)}"
      )


def check_all(names: Sequence[str], root: epath.Path) -> None:
  """Opens every split, and prints images and classes against the facts.

  Raises:
    UserError: listing what is wrong with splits of which any file is here.
  """
  rows, problems = [("data set", "split", "images", "classes", "state")], []
  for name in names:
    before = len(rows)
    for splits, split, size, opened in _splits(name, root):
      try:
        source, labels, num_classes = opened()
      except publishers.NotThere:
        rows.append((name, f"{splits} {split}", "", "", "not here"))
        continue
      except UserError as error:
        rows.append((name, f"{splits} {split}", "", "", "WRONG"))
        problems.append(str(error))
        continue
      right = size in (None, len(source))
      expected = "" if right else f", {size:,} expected"
      count = f"{len(source):,}{expected}"
      classes = f"{len(set(labels))} of {num_classes}"
      fits = right and len(set(labels)) == num_classes
      rows.append(
        (
          name,
          f"{splits} {split}",
          count,
          classes,
          "right" if fits else "WRONG",
        )
      )
      if not fits:
        problems.append(
          f"{name} ({splits}, {split}): {count} images, {classes} classes."
        )
    if all(row[-1] == "not here" for row in rows[before:]):
      problems.append(
        f"{name} is not in {root}: `python -m synthjax.datasets fetch {name}`."
      )
  print_table(rows)
  if problems:
    raise UserError("\n".join(problems))


VOC_SIZES = {
  ("2007", "trainval"): 5011,
  ("2012", "trainval"): 11_540,
  ("2007", "test"): 4952,
}


def _splits(name: str, root: epath.Path):
  """Yields names of splits, their sizes, and a function that opens them."""
  from synthjax.data.real import real_images
  from synthjax.data.real.paper_datasets import BENCHMARKS
  from synthjax.detection import sources
  from synthjax.labels import spaces

  if name == "voc":
    space = spaces.load_space("voc")
    for pair, size in VOC_SIZES.items():

      def opened(pair=pair):
        block = dict(kind="voc", data_dir=str(root), sets=(pair,))
        source = sources.open_detection(block, space)
        labels = {
          int(x)
          for i in range(len(source))
          for x in source.annotate(i)["labels"]
        }
        return source, labels, len(space.classes)

      yield (*pair, size, opened)
    return
  seen = []
  for key, splits in BENCHMARKS[name].items():
    if splits in seen:  # another name of the same
      continue
    seen.append(splits)
    space = spaces.load_space(splits.space)
    for split in ("train", "validation", "test"):
      part = getattr(splits, split)
      if not part or not part.files:
        continue

      def opened(key=key, split=split, space=space):
        block, _ = real_images.resolve(name, split, space, key, str(root))
        source = real_images.open_real(block, space)
        return source, source.labels.tolist(), len(space.classes)

      yield key, split, part.size, opened


def main(argv: Sequence[str] | None = None) -> None:
  """Reads the command line; a UserError is one message and exit code 2."""
  parser = argparse.ArgumentParser(
    prog="synthjax datasets",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("command", help=" | ".join(COMMANDS))
  parser.add_argument("names", nargs="*", metavar="NAME", help="see `list`")
  parser.add_argument("--data_dir", help="the folder of the data sets")
  args = parser.parse_intermixed_args(argv)
  end_well(lambda: run(args.command, args.names, args.data_dir))


if __name__ == "__main__":
  main()
