"""Files of publishers: where they are, what they hash to, and how to get them.

A publisher's file lies in a folder with `sources.json`, the hashes of what was
fetched there: where no hash is published, the first one seen is expected again.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from synthjax.runtime import download
from synthjax.runtime.atomic import replace
from synthjax.runtime.text_files import parse_json

_HASHES = "sources.json"


class File(NamedTuple):
  """One file of a publisher."""

  name: str
  url: str | None  # None where it must be got by hand
  # The published hash or its first digits. Where both are None, the hash of
  # the first download is expected again.
  sha256: str | None = None
  megabytes: float | None = None  # approximate
  others: tuple[str, ...] = ()  # addresses of the same in other formats
  md5: str | None = None

  def published_hash(self) -> str:
    if self.sha256:
      return f"SHA-256 {self.sha256}"
    return f"MD5 {self.md5}" if self.md5 else "SHA-256 not published"


def fetch(
  file: File, folder: pathlib.Path, name: str, otherwise: str = ""
) -> str:
  """Fetches a file unless it is there, says so, and returns its SHA-256.

  Args:
    file: of a publisher.
    folder: for it.
    name: of what it belongs to, in the address of a mirror (SYNTHJAX_MIRROR).
    otherwise: what else to do where it cannot be fetched.

  Raises:
    UserError: when it cannot be fetched, or has another hash.
  """
  url, mirror = file.url, os.environ.get("SYNTHJAX_MIRROR")
  if mirror:
    url = f"{mirror.rstrip('/')}/{name}/{file.name}"
  before = read(folder).get(file.name)
  full = file.sha256 if file.sha256 and len(file.sha256) == 64 else None
  digest = download.fetch(
    url,
    folder / file.name,
    sha256=full or before or file.sha256,
    md5=file.md5,
    otherwise=otherwise,
  )
  trust = "as fetched before" if before else "no hash is published; remembered"
  if file.sha256 or file.md5:
    trust = "as published"
  print(f"{file.name}: {trust}, SHA-256 {digest}")
  remember(folder, file.name, digest)
  return digest


def read(folder: pathlib.Path) -> dict[str, str]:
  """Returns {file: SHA-256} of the files that were fetched into a folder."""
  try:
    return parse_json((folder / _HASHES).read_bytes(), dict)
  except (OSError, ValueError):  # nothing was fetched
    return {}


def remember(folder: pathlib.Path, file: str, digest: str) -> None:
  """Adds the hash of a file."""
  hashes = read(folder) | {file: digest}
  with replace(folder, _HASHES) as temporary:
    temporary.write_text(json.dumps(hashes, indent=1))


def received(folder: pathlib.Path, file: File) -> tuple[int, float | None]:
  """Returns the bytes of a file that are here, and its size where known."""
  path = folder / file.name
  if path.exists():
    return path.stat().st_size, path.stat().st_size
  have, total = download.partial(path) or (0, None)
  return have, total or (file.megabytes and file.megabytes * 1e6)


def how_far(sizes: Sequence[tuple[int, float | None]]) -> str | None:
  """Says how much of some files is here; None if nothing is."""
  here = sum(have for have, _ in sizes)
  if not here:
    return None
  if all(total for _, total in sizes):
    return f"partial {100 * here / sum(total for _, total in sizes):.0f} %"
  return f"partial {here / 1e6:,.0f} MB"


def total(files: Sequence[File]) -> str:
  """Returns the megabytes of some files together, for a table."""
  sizes = [file.megabytes for file in files]
  return "?" if None in sizes else f"~{sum(sizes):,.0f}"


def print_table(rows: Sequence[Sequence[str]]) -> None:
  """Prints rows in columns."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  for row in rows:
    cells = zip(row, widths, strict=True)
    print("  ".join(f"{cell:{width}}" for cell, width in cells).rstrip())
