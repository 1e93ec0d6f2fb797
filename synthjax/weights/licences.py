"""Describes files of weights: what they are, and their licences."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from synthjax.runtime import cache
from synthjax.runtime.errors import UserError
from synthjax.weights import files
from synthjax.weights.catalogue import RELEASED

_EMBEDDED = "embedded:"


def describe(reference: str | None, sha256: str) -> dict[str, Any]:
  """Describes the file that a config names.

  Args:
    reference: "released:NAME/FILE" or another reference of `files.locate`,
      "embedded:NAME", a path, or None where it is unknown.
    sha256: of the file that was used. A reference to a file with another hash,
      or to none, is ignored.

  Returns:
    `name`, `what` and `licence`, None where unknown, and `sha256`.
  """
  about = dict.fromkeys(("name", "what", "licence")) | {"sha256": sha256}
  path = reference and _find(reference)
  if not path or files.sha256(path) != sha256:
    return about
  about["name"] = reference
  if reference.startswith(_EMBEDDED):
    about |= {"what": "of synthjax's embedded world", "licence": "Apache-2.0"}
  elif reference.startswith(cache.RELEASED):
    released = RELEASED[reference.removeprefix(cache.RELEASED).split("/")[0]]
    about |= {"what": released.what, "licence": released.licence}
  else:  # a path on one machine is of no use to others
    about["name"] = path.name
  return about


def artwork() -> list[dict[str, str]]:
  """Lists the icon sets that the embedded models were trained on."""
  concepts = json.loads((files.EMBEDDED / "concepts.json").read_text())
  keys = ("title", "author", "license", "license_url", "url")
  return [
    {k: source[k] for k in keys} for source in concepts["sources"].values()
  ]


def identified(
  identity: Mapping[str, Any], block: Mapping[str, Any], path: str
) -> list[dict[str, Any]]:
  """Describes every file whose hash is in an identity.

  Args:
    identity: plain data, where a value of 64 hexadecimal digits is a SHA-256.
    block: of the config, with the references of the files by the same names.
    path: dotted, of both.
  """
  described = []
  for key, value in identity.items():
    of_block = block.get(key) if hasattr(block, "get") else None
    if hasattr(value, "items"):
      described += identified(value, of_block or {}, f"{path}.{key}")
    elif isinstance(value, str) and _is_hash(value):
      reference = of_block if isinstance(of_block, str) else None
      described.append({"field": f"{path}.{key}"} | describe(reference, value))
  return described


def settings(identity: Mapping[str, Any]) -> dict[str, Any]:
  """Returns an identity without hashes."""
  rest = {
    key: settings(value) if hasattr(value, "items") else value
    for key, value in identity.items()
    if not (isinstance(value, str) and _is_hash(value))
  }
  return {key: value for key, value in rest.items() if value != {}}


def _is_hash(value: str) -> bool:
  return len(value) == 64 and not set(value) - set("0123456789abcdef")


def _find(reference: str) -> epath.Path | None:
  """Returns the file of a reference, if it exists."""
  if reference.startswith(cache.RELEASED):
    try:
      return files.locate(reference, field="weights", family="clip")
    except UserError:  # no longer there
      return None
  places = [epath.Path(reference)]
  if reference.startswith(_EMBEDDED):
    name = reference.removeprefix(_EMBEDDED)
    places = [files.EMBEDDED / "weights" / name, files.EMBEDDED / name]
  return next((place for place in places if place.is_file()), None)
