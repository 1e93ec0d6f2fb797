"""Names of files for ids and classes, whatever these are called.

A name from outside may hold a slash, be "..", or differ from another by case
alone, which macOS and Windows do not tell apart. What is written here is one
part of a path, and no two are the same on any of these systems.
"""

import collections
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from synthjax.labels import class_names

_PLAIN_KEY = re.compile(r"[a-z0-9_][a-z0-9_-]{0,79}")
# Windows takes these for devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
_MAX_BYTES = 180  # of the 255 that file systems take, with room for endings


def key_of(image_id: str) -> str:
  """Returns the name of an image's files, without an ending.

  It has no dot, as WebDataset takes what follows the first one for the ending.
  An id of small letters, digits, "_" and "-" stays as it is; all others get a
  hash of the id behind what is left of them, so that they stay apart.
  """
  if _PLAIN_KEY.fullmatch(image_id):
    return image_id
  plain = re.sub(r"[^a-z0-9_-]+", "_", _ascii(image_id).lower())
  return f"{plain.strip('_-')[:60] or 'image'}-{_hash(image_id)}"


def folder_names(
  names: Sequence[str], reserved: Iterable[str] = ()
) -> list[str]:
  """Returns the name of a folder for each class.

  A class keeps its name where any system can have it. What cannot be in a name
  becomes "_"; those that would meet get a hash of their class's name besides.

  Args:
    names: of the classes, no two alike.
    reserved: names that something else has in the same place.
  """
  assert len(set(names)) == len(names), "class names must differ"
  made = [_folder_name(name) for name in names]
  count = collections.Counter(_folded(name) for name in [*made, *reserved])
  return [
    f"{folder}-{_hash(name)}" if count[_folded(folder)] > 1 else folder
    for name, folder in zip(names, made, strict=True)
  ]


def unique_names(space: Any) -> list[str]:
  """Returns the class names of a label space by id, no two alike.

  They are those of TFDS's label.labels.txt beside the image shards: where two
  classes share a name, the ids stand behind it.
  """
  names = [" ".join(each.name.split()) for each in space.classes]
  count = collections.Counter(names)
  return [
    f"{name} ({each.id})" if count[name] > 1 or not name else name
    for name, each in zip(names, space.classes, strict=True)
  ]


def lookup(space: Any) -> dict[str, int]:
  """Returns each name, key and unique name of a label space -> label."""
  unique = {name: label for label, name in enumerate(unique_names(space))}
  return unique | class_names.lookup(space)


def is_word(name: Any) -> bool:
  """Tells whether a name is letters, digits and "_" of ASCII alone."""
  return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z0-9_]+", name))


def is_inside(name: str) -> bool:
  """Tells whether a relative path stays below where it starts."""
  parts = re.split(r"[/\\]", name)
  return bool(name) and not any(part in ("", ".", "..") for part in parts)


def _folder_name(name: str) -> str:
  made = unicodedata.normalize("NFC", name)
  made = "".join(
    "_" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
    for c in made
  )
  made = _FORBIDDEN.sub("_", made).rstrip(". ")  # Windows drops these at ends
  if made.startswith(".") or _DEVICES.fullmatch(made) or not made.strip():
    made = f"_{made}"  # nor is it hidden
  while len(made.encode()) > _MAX_BYTES:
    made = made[:-1]
  # A hash tells apart what was cut off, or has become the same.
  if unicodedata.normalize("NFC", name) != made:
    made = f"{made}-{_hash(name)}"
  return made


def _folded(name: str) -> str:
  # As a file system would that ignores case and how accents are written.
  return unicodedata.normalize("NFKC", name.casefold())


def _ascii(text: str) -> str:
  decomposed = unicodedata.normalize("NFKD", text)
  return decomposed.encode("ascii", "ignore").decode()


def _hash(text: str) -> str:
  encoded = text.encode("utf-8", "surrogatepass")
  return hashlib.sha256(encoded).hexdigest()[:10]
