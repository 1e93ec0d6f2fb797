"""Reads which few-shot methods are wanted from plain data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.errors import UserError, unknown_names
from synthjax.train.few_shot_methods import METHODS, options_of
from synthjax.train.few_shot_tuning import ORDERS, PROTOCOLS

# Beside `name` and `kind`.
FIELDS = (
  "strategy",  # of the generated images; "rg{shots}" is that of real guidance
  "filter",  # None, "clip" or "real"
  "options",  # of the function of METHODS
)
FILTERS = (None, "clip", "real")
TUNED = ("classifier", "retrieval")  # kinds that have a protocol


class Method(NamedTuple):
  """One way of learning."""

  name: str
  kind: str  # of METHODS
  strategy: str | None = None
  filter: str | None = None
  options: Mapping[str, Any] = {}


def read(
  blocks: Sequence[Mapping[str, Any]],
  *,
  protocol: str | None = None,
  taken: Sequence[str] = (),
) -> list[Method]:
  """Reads the methods of a config's blocks.

  Args:
    blocks: of name, kind and some of FIELDS.
    protocol: of the tuned methods that name none, a key of PROTOCOLS.
    taken: names that no method may have.

  Raises:
    UserError: about unknown kinds, options, orders and filters, names that are
      not unique, or images that a method needs and does not name, or names and
      does not need.
  """
  read = [_read(i, block, protocol) for i, block in enumerate(blocks)]
  names = [*taken, *(method.name for method in read)]
  if not read or len(set(names)) < len(names):
    raise UserError(
      f"config.few_shot.methods has the names {names[len(taken) :]}: at least "
      f"one is needed, each once, and {', '.join(map(repr, taken))} is taken."
    )
  return read


def _read(
  number: int, block: Mapping[str, Any], protocol: str | None
) -> Method:
  method = Method(**block)
  if method.kind not in METHODS:
    raise unknown_names("kind of method,", [method.kind], METHODS)
  options, known = dict(method.options or {}), options_of(method.kind)
  if unknown := [name for name in options if name not in known]:
    where = f"config.few_shot.methods[{number}].options field"
    raise unknown_names(where, unknown, known)
  if method.kind in TUNED:
    options.setdefault("protocol", protocol or PROTOCOLS[0])
  for name, allowed in (("order", ORDERS), ("protocol", PROTOCOLS)):
    if options.get(name, allowed[0]) not in allowed:
      raise unknown_names(name, [options[name]], allowed)
  order = options.get("order", "mix")
  needs = method.kind == "classifier" and order != "real"
  if needs != (method.strategy is not None):
    raise UserError(
      f"The method {method.name!r} ({method.kind}) learns from "
      f"{'generated' if needs else 'real'} images: "
      f"{'give' if needs else 'leave out'} its strategy."
    )
  if method.filter not in FILTERS or (method.filter and not method.strategy):
    raise UserError(
      f"The method {method.name!r} has filter={method.filter!r}: 'clip' and "
      "'real' filter the images of a strategy."
    )
  return method._replace(options=options)
