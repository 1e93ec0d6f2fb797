"""The hashes of what was fetched, beside it: so that a change is noticed."""

import json
import pathlib

from synthjax.atomic import replace

_FILE = "sources.json"


def read(folder: pathlib.Path) -> dict[str, str]:
  """Returns {file: SHA-256} of what was fetched into a folder."""
  try:
    return json.loads((folder / _FILE).read_text())
  except (OSError, ValueError):  # nothing was
    return {}


def remember(folder: pathlib.Path, file: str, digest: str) -> dict[str, str]:
  """Adds the hash of a file, and returns all."""
  hashes = read(folder) | {file: digest}
  with replace(folder, _FILE) as temporary:
    temporary.write_text(json.dumps(hashes, indent=1))
  return hashes
