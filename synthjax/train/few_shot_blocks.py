"""What few-shot learning compares, from fields of plain data.

The fields are those of the task `few_shot`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.errors import (
  BLOCK,
  BLOCK_LIST,
  COUNT,
  FLAG,
  NOT_NEGATIVE,
  NUMBER,
  POSITIVE,
  SEEDS,
  SHARE,
  SHOTS,
  TEXT,
  UserError,
  check_names,
  check_values,
  one_of,
  unknown_names,
)
from synthjax.train.few_shot_methods import METHODS, options_of
from synthjax.train.few_shot_tuning import ORDERS, PROTOCOLS
from synthjax.train.tip_adapter import SETTINGS

REQUIRED = {
  "methods": BLOCK_LIST,  # what is compared
  "shots": SHOTS,  # of each class, several counts
  "seeds": SEEDS,  # of the shots, of the images, and of all orders
  "pool": BLOCK,  # real images that the shots are drawn from
  "test": BLOCK,  # real images, opened once, at the end
}
KNOWN = REQUIRED | {
  "test_parts": BLOCK,  # name -> real images reported beside them
  "validation": BLOCK,  # real images, of which each class lends min(shots, 4)
  # Of the shots: "nested", or "coop" for the draws of CoOp's code.
  "sampler": TEXT,
  "num_views": COUNT,  # of each shot, for methods that augment; 10 by default
  "real_filter_margin": NUMBER,  # of filter="real"
  "max_per_class": COUNT,  # that filter="real" keeps; 800 by default
  # Of classifier tuning: "paper", or "released" for the code's.
  "protocol": one_of(PROTOCOLS),
  # Also reports that number; with "released" by default.
  "best_epoch_on_test": FLAG,
}
# Of one method.
FIELDS = {
  "name": TEXT,
  "kind": one_of(METHODS),
  "strategy": TEXT,  # of the generated images; "rg{shots}": of real guidance
  "filter": one_of(("clip", "real")),
  "options": BLOCK,  # of the function of METHODS
}
# Of all kinds; `few_shot_methods.options_of` tells which takes which.
OPTIONS = {
  "order": one_of(ORDERS),
  "protocol": one_of(PROTOCOLS),
  "settings": one_of(SETTINGS),
  "num_epochs": COUNT,
  "batch_size": COUNT,
  "real_batch_size": COUNT,
  "lr": POSITIVE,
  "weight_decay": NOT_NEGATIVE,
  "clip_norm": POSITIVE,
  "temperature": POSITIVE,
  "soft_weight": SHARE,
  "label_smoothing": SHARE,
  "bias": FLAG,
  "decay_bias": FLAG,
  "per_class": COUNT,
  "best_class_only": FLAG,
  "trained": FLAG,
  "num_context": COUNT,
  "max_steps": COUNT,
}
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
    blocks: of name, kind and others of FIELDS.
    protocol: of the tuned methods that name none, a key of PROTOCOLS.
    taken: names that no method may have.

  Raises:
    UserError: about unknown kinds, options, orders and filters, names that are
      not unique, or images that a method needs and does not name, or names and
      does not need.
  """
  read = [_read(i, block, protocol) for i, block in enumerate(blocks)]
  names = [method.name for method in read]
  check_names("config.few_shot.methods", names, taken)
  return read


def _read(
  number: int, block: Mapping[str, Any], protocol: str | None
) -> Method:
  method = Method(**block)
  check_values(f"config.few_shot.methods[{number}]", block, FIELDS)
  options, known = dict(method.options or {}), options_of(method.kind)
  if unknown := [name for name in options if name not in known]:
    where = f"config.few_shot.methods[{number}].options field"
    raise unknown_names(where, unknown, known)
  if method.kind in TUNED:
    options.setdefault("protocol", protocol or PROTOCOLS[0])
  check_values(f"config.few_shot.methods[{number}].options", options, OPTIONS)
  order = options.get("order", "mix")
  needs = method.kind == "classifier" and order != "real"
  if needs != (method.strategy is not None):
    raise UserError(
      f"The method {method.name!r} ({method.kind}) learns from "
      f"{'generated' if needs else 'real'} images: "
      f"{'give' if needs else 'leave out'} its strategy."
    )
  if method.filter and not method.strategy:
    raise UserError(
      f"The method {method.name!r} has filter={method.filter!r}, and no "
      "strategy whose images that would filter."
    )
  return method._replace(options=options)
