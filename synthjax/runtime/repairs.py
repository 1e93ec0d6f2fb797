"""Inputs that were repaired: made again, in part, by the same specification.

On another kind of device, a shard that is drawn again differs by single 8-bit
values. The specification of a later task has the digest of what it has read,
and beside it the key of the input: what identifies this without its bytes. By
that a repair is told from other images.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

# What a specification has the keys in, by their digests. Those of older
# versions lack it: an input of theirs may not change at all.
KEYS = "keys_of_inputs"


class Digest(str):
  """The digest of an input, of this specification; `key` is its key."""

  key: str

  def __new__(cls, digest: str, spec: Mapping[str, Any]):
    self = super().__new__(cls, digest)
    self.key = _key(spec)
    return self


def with_keys(spec: dict[str, Any]) -> dict[str, Any]:
  """Returns a specification with the key of each `Digest` in it."""
  keys = {str(d): d.key for d in _leaves(spec) if isinstance(d, Digest)}
  return spec | {KEYS: keys} if keys else spec


def differ_by_repairs(
  stored: Mapping[str, Any], asked: Mapping[str, Any]
) -> bool:
  """Returns whether specifications differ, but by the bytes of inputs alone."""
  return KEYS in stored and stored != asked and _key(stored) == _key(asked)


def _key(spec: Mapping[str, Any]) -> str:
  bare = {name: value for name, value in spec.items() if name != KEYS}
  text = json.dumps(bare, sort_keys=True)
  for digest, key in spec.get(KEYS, {}).items():
    text = text.replace(digest, key)
  return hashlib.sha256(text.encode()).hexdigest()


def _leaves(value: Any) -> Iterator[Any]:
  if not isinstance(value, dict | list):
    yield value
    return
  for item in value.values() if isinstance(value, dict) else value:
    yield from _leaves(item)
