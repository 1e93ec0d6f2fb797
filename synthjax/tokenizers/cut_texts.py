"""Warns of texts that a network will cut; the tokenizers cut them.

What lies behind its last token changes nothing, and two classes whose texts
differ there alone are one class to it.
"""

import collections
import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from absl import logging

from synthjax.runtime.errors import UserError

_MAX_LISTED = 10


class Reads(NamedTuple):
  """How much of a text a network reads."""

  ids: Callable[[str], Sequence[int]]  # of a text, all of them
  room: int  # how many it reads


def reads(load: functools.partial) -> Reads | None:
  """Returns how a network reads texts, without loading it.

  Args:
    load: of an encoder or a generator, with its fields, as `schema.read`
      returns it. Its module may have `reads(**fields) -> Reads | None`.
  """
  of_module = getattr(inspect.getmodule(load.func), "reads", None)
  return of_module(**load.keywords) if of_module else None


def check_classes(
  network: Reads | None, texts: Mapping[str, Sequence[str]], *, field: str
) -> None:
  """Warns of texts that are cut, and of classes with the same texts.

  Args:
    network: that reads the texts; nothing is known of None.
    texts: class -> its texts.
    field: of the config that describes the network.

  Raises:
    UserError: listing the classes whose different texts become one.
  """
  if network is None:
    return
  ids = {
    name: tuple(tuple(network.ids(text)) for text in of_class)
    for name, of_class in texts.items()
  }
  alike = collections.defaultdict(list)
  for name, of_class in ids.items():
    alike[tuple(text[: network.room] for text in of_class)].append(name)
  groups = [names for names in alike.values() if len(names) > 1]
  # Those who are cut to one text, and those who have one to begin with.
  merged = [names for names in groups if len({ids[n] for n in names}) > 1]
  same = [names for names in groups if names not in merged]
  if merged:
    raise UserError(
      f"{field} reads the first {network.room} tokens of a text, by which "
      f"these classes are the same:\n  {_listed(map(_joined, merged))}\nMake "
      "their descriptions shorter, or say what differs first."
    )
  if same:
    _warn(
      "These classes have one and the same text, so that nothing learned from "
      f"texts tells them apart:\n  {_listed(map(_joined, same))}\nGive them a "
      "`description`."
    )
  every_text = itertools.chain.from_iterable(texts.values())
  warn_of_cut(network, every_text, field=field)


def warn_of_cut(
  network: Reads | None, texts: Iterable[str], *, field: str
) -> int:
  """Warns of the texts that are cut, and returns how many they are."""
  if network is None:
    return 0
  texts = dict.fromkeys(texts)
  cut = [text for text in texts if len(network.ids(text)) > network.room]
  if cut:
    _warn(
      f"{len(cut):,} of {len(texts):,} texts have more than the {network.room} "
      f"tokens that {field} reads; it does not see their ends:\n  "
      f"{_listed(cut)}"
    )
  return len(cut)


@functools.cache  # once, however many tasks find it
def _warn(message: str) -> None:
  logging.warning("%s", message)


def _joined(names: Sequence[str]) -> str:
  return " and ".join(map(repr, names))


def _listed(lines: Iterable[str]) -> str:
  lines = [*lines]
  if len(lines) > _MAX_LISTED:
    lines[_MAX_LISTED:] = [f"and {len(lines) - _MAX_LISTED} more"]
  return "\n  ".join(lines)
