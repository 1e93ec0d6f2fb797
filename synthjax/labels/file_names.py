"""Names of files for any ids and classes.

An id or a class may hold a slash, be "..", or differ from another by case
alone, which macOS and Windows ignore. The names made here are single parts of a
path, and no two are the same on any of these systems.
"""

import collections
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_PLAIN_KEY = re.compile(r"[a-z0-9_][a-z0-9_-]{0,79}")
# Windows takes these for devices, with any ending.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Hugging Face's `imagefolder` takes a folder for a split that has one of these
# words between such marks or at its ends; it passes over "__a" as over ".a".
_SPLITS = re.compile(
  r"(?:(?<=[-._ 0-9])|^)"
  r"(train|training|validation|valid|dev|val|test|testing|eval|evaluation)"
  r"(?=[-._ 0-9]|$)"
)
_FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
_MAX_BYTES = 180  # of the 255 that file systems take, with room for endings


def key_of(image_id: str) -> str:
  """Returns the name of an image's files, without an ending.

  It has no dot, as WebDataset takes what follows the first one for the ending.
  An id of small letters, digits, "_" and "-" stays as it is. Other characters
  are replaced, and a hash of the id is added, so that names stay different.
  """
  if _PLAIN_KEY.fullmatch(image_id):
    return image_id
  plain = re.sub(r"[^a-z0-9_-]+", "_", _ascii(image_id).lower())
  return f"{plain.strip('_-')[:60] or 'image'}-{_hash(image_id)}"


def folder_names(
  names: Sequence[str], reserved: Iterable[str] = ()
) -> list[str]:
  """Returns the name of a folder for each class.

  A class keeps its name where any system, and Hugging Face's `imagefolder`, can
  have it. Forbidden characters become "_", words that mean a split get a "+",
  and folders of the same name get a hash of their class's name.

  Args:
    names: of the classes, no two alike.
    reserved: names that something else has in the same place.
  """
  assert len(set(names)) == len(names), "class names must differ"
  folders = [_folder_name(name) for name in names]
  count = collections.Counter(_folded(name) for name in [*folders, *reserved])
  return [
    f"{folder}-{_hash(name)}" if count[_folded(folder)] > 1 else folder
    for name, folder in zip(names, folders, strict=True)
  ]


def is_word(name: Any) -> bool:
  """Returns whether a name is letters, digits and "_" of ASCII alone."""
  return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z0-9_]+", name))


def is_inside(name: str) -> bool:
  """Returns whether a relative path stays below its start."""
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
  elif made.startswith("__"):
    made = f"+{made}"
  while len(made.encode()) > _MAX_BYTES:
    made = made[:-1]
  made = _SPLITS.sub(r"\1+", made)
  # The hash keeps names apart that were cut, or became the same.
  if unicodedata.normalize("NFC", name) != made:
    made = f"{made}-{_hash(name)}"
  return made


def _folded(name: str) -> str:
  # As in a file system that ignores case and how accents are written.
  return unicodedata.normalize("NFKC", name.casefold())


def _ascii(text: str) -> str:
  decomposed = unicodedata.normalize("NFKD", text)
  return decomposed.encode("ascii", "ignore").decode()


def _hash(text: str) -> str:
  encoded = text.encode("utf-8", "surrogatepass")
  return hashlib.sha256(encoded).hexdigest()[:10]
