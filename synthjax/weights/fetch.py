"""Downloads released checkpoints into the cache, and converts them."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

from synthjax.runtime import cache, download
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError
from synthjax.weights import make
from synthjax.weights.catalogue import RELEASED, File


def fetch_all(names: Sequence[str]) -> None:
  """Downloads, verifies and converts checkpoints into the cache."""
  for name in names:
    entry, folder = RELEASED[name], cache.weights_folder(name)
    hashes = read(folder)
    if _complete(name, hashes):
      print(f"{name} is already there.")
      make.tell_use(name)
      continue
    note = f" ({entry.note})" if entry.note else ""
    print(f"{name}: {entry.what}, licence {entry.licence}{note}")
    for file in entry.files:
      digest = _fetch(name, file, hashes.get(file.name))
      hashes = remember(folder, file.name, digest)
    make.make(name, {f.name: folder / f.name for f in entry.files}, folder)
    make.tell_use(name)


def _fetch(name: str, file: File, before: str | None) -> str:
  """Fetches a file unless it is there; returns its hash."""
  url, mirror = file.url, os.environ.get("SYNTHJAX_MIRROR")
  if mirror:
    url = f"{mirror.rstrip('/')}/{name}/{file.name}"
  path = cache.weights_folder(name) / file.name
  # Without a published hash, the first one seen is expected again.
  full = file.sha256 if file.sha256 and len(file.sha256) == 64 else None
  try:
    digest = download.fetch(url, path, sha256=full or before or file.sha256)
  except UserError as error:
    if not file.others or mirror:
      raise
    others = "\n  ".join(file.others)
    raise UserError(
      f"{error}\n`convert {name}` also takes the same weights from\n  {others}"
    ) from None
  print(f"{file.name}: {_trust(file, before)}, SHA-256 {digest}")
  return digest


def _trust(file: File, before: str | None) -> str:
  if file.sha256:
    return "as published"
  return "as fetched before" if before else "no hash is published; remembered"


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


# --- the hashes of fetched files, kept beside them ----------------------------

_FILE = "sources.json"


def read(folder: pathlib.Path) -> dict[str, str]:
  """Returns {file: SHA-256} of the files that were fetched into a folder."""
  try:
    return json.loads((folder / _FILE).read_text())
  except (OSError, ValueError):  # nothing was fetched
    return {}


def remember(folder: pathlib.Path, file: str, digest: str) -> dict[str, str]:
  """Adds the hash of a file, and returns all."""
  hashes = read(folder) | {file: digest}
  with replace(folder, _FILE) as temporary:
    temporary.write_text(json.dumps(hashes, indent=1))
  return hashes
