"""The file of a task's results, which the report reads."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from synthjax.atomic import replace

FILE = "results.json"


def write(folder: epath.PathLike, found: Mapping[str, Any]) -> dict[str, int]:
  """Writes what was found; returns the file's name, with its rows."""
  with replace(folder, FILE) as path:
    path.write_text(json.dumps(found, indent=1) + "\n")
  return {FILE: len(found["rows"])}
