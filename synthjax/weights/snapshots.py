"""Folders of released weights: which of their files to read.

A folder is one of this machine, or a snapshot of a repository of the Hugging
Face hub, of which no other file is fetched. Folders of Stable Diffusion hold
the folders of their networks.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence

from etils import epath

from synthjax.runtime import hub
from synthjax.runtime.errors import UserError
from synthjax.weights import read

# The beginnings and the ends of the names of weights. The first that is there
# counts: safetensors before pickles, and whole before half precision.
_BEGINNINGS = (
  "model",
  "diffusion_pytorch_model",
  "open_clip_model",
  "pytorch_model",
  "open_clip_pytorch_model",
  "flax_model",
)
_ENDS = (
  ".safetensors",
  ".safetensors.index.json",
  ".fp16.safetensors",
  ".safetensors.index.fp16.json",
  ".bin",
  ".bin.index.json",
  ".fp16.bin",
  ".bin.index.fp16.json",
  ".msgpack",
)
_KNOWN = [f"{start}{end}" for end in _ENDS for start in _BEGINNINGS]
# Of weights that have another name and are alone.
_KINDS = (".safetensors", ".bin", ".pt", ".pth", ".msgpack", ".npz")
# Beside weights: what they do not show themselves.
CONFIGS = ("config.json", "open_clip_config.json")

Wanted = Callable[[Sequence[str]], Iterable[str]]


def weights_name(names: Iterable[str]) -> str | None:
  """Returns the file of weights among the files of a folder, or their index.

  It is the best known name, or the only file that ends as weights do.
  """
  names = {*names}
  if known := next((name for name in _KNOWN if name in names), None):
    return known
  others = [n for n in names if n.endswith(_KINDS) and "/" not in n]
  return others[0] if len(others) == 1 else None


def weights_file(folder: epath.Path) -> epath.Path | None:
  """Returns the weights in the folder of one network, or their index."""
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  name = weights_name(names)
  return folder / name if name else None


def below(names: Iterable[str], folder: str) -> list[str]:
  """Returns those of some names that lie below a folder, from there on."""
  start = f"{folder}/" if folder else ""
  return [n.removeprefix(start) for n in names if n.startswith(start)]


def is_index(name: str) -> bool:
  """Returns whether a file's name is that of an index."""
  return ".index." in name and name.endswith(".json")


def find_weights(place: str) -> pathlib.Path:
  """Finds the weights of one network, and fetches them if they are the hub's.

  Args:
    place: a folder, or "hf://org/name@revision", in which `weights_name` finds
      them; or a file of either. CONFIGS are fetched with them.

  Raises:
    UserError: if it has no weights, or several of unknown names; or as
      `hub.snapshot`.
  """
  inner = hub.parse(place).inner if place.startswith(hub.SCHEME) else ""
  if not inner and pathlib.Path(place).is_file():
    return pathlib.Path(place)

  def wanted(names):
    folder, file = "/".join(inner.split("/")[:-1]), inner
    if inner not in names:
      folder, best = inner, weights_name(below(names, inner))
      if best is None:
        raise UserError(
          f"{place} has no weights of a known name, such as {_KNOWN[0]}, nor "
          f"a single file of weights ({', '.join(_KINDS)}). It has "
          f"{', '.join(names[:20]) or 'no files'}. Name one of several, as "
          f"{place.rstrip('/')}/FILE."
        )
      file = f"{folder}/{best}".lstrip("/")
    beside = {f"{folder}/{name}".lstrip("/") for name in CONFIGS}
    return [file, *(name for name in names if name in beside)]

  folder, names = fetch(place, wanted)
  return folder / names[0]


def fetch(place: str, wanted: Wanted) -> tuple[pathlib.Path, list[str]]:
  """Returns the folder of a place, and the wanted files that it now has.

  Args:
    place: a folder, or a place of the hub, from which files are fetched if they
      are not here; with an index, the files that it names.
    wanted: the names of all files of the place -> those that are wanted.

  Raises:
    UserError: as `hub.snapshot`, or from `wanted`.
  """
  names: list[str] = []

  def choose(all_names):
    names[:] = wanted(all_names)
    return names

  if not place.startswith(hub.SCHEME):
    folder = pathlib.Path(place)
    choose(hub.names_below(folder))
    return folder, names
  folder = hub.snapshot(place, choose)
  parts = [
    (pathlib.PurePath(name).parent / part).as_posix()
    for name in filter(is_index, names)
    for part in read.named_in(folder / name)
  ]
  if parts:
    hub.snapshot(place, lambda _: [*names, *parts])
  return folder, names
