"""Text-to-image generators behind one interface."""

import importlib
import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from synthjax.runtime.errors import (
  COUNT,
  DTYPE,
  NOT_NEGATIVE,
  RANGE,
  check_arguments,
  check_values,
  unknown_names,
)

# Each module has `load(**fields) -> Generator`; `check(**fields)`, which says
# before it costs anything what keeps `load` from working; and
# `num_steps(**fields)`, that of the Generator.
GENERATORS = {
  "glide": "synthjax.generators.glide",
  "stable_diffusion": "synthjax.generators.stable_diffusion",
}

# Of fields that several have.
VALUES = {
  "batch_size": COUNT,
  "guidance_scale": NOT_NEGATIVE,
  "guidance_interval": RANGE,
  "dtype": DTYPE,
}


class Generator(NamedTuple):
  """What every generator offers.

  `draw(prompts, rngs)` maps n prompts and n keys to uint8 images [n, h, w, 3];
  `stream` takes the same and yields them a batch at a time, while the device is
  at the next one.
  With `references`, real uint8 images [n, r, r, 3], and `start_steps` it starts
  from those, noised, so many steps before the end (real guidance, Section 3.2).
  An image depends on its prompt, its key and its reference alone, not on what
  else is in the batch.
  """

  draw: Callable[..., np.ndarray]
  stream: Callable[..., Iterator[np.ndarray]]
  batch_size: int  # images drawn at once
  image_size: int  # px
  reference_size: int  # r, px
  num_steps: int  # the most start_steps there can be
  identity: dict[str, Any]  # plain data that tells weights and sampling apart


def load_generator(name: str, **fields: Any) -> Generator:
  """Loads the generator of GENERATORS that is called `name`.

  Args:
    name: such as "glide".
    **fields: the arguments of its `load`.

  Raises:
    UserError: as `check_generator`, or about what only reading can tell.
  """
  check_generator(name, **fields)
  return _module(name).load(**fields)


def check_generator(name: str | None = None, **fields: Any) -> None:
  """Says what keeps a generator from being loaded, before it costs anything.

  Raises:
    UserError: about an unknown name, unknown or missing fields, or weights that
      are not there.
  """
  module = _module(name)
  check_arguments("config.generator", fields, module.load)
  check_values("config.generator", fields, VALUES)
  module.check(**fields)


def fields_of(name: str) -> Collection[str]:
  """Returns what config.generator may hold of a generator, besides `name`.

  Raises:
    UserError: about an unknown name.
  """
  return inspect.signature(_module(name).load).parameters


def num_steps(name: str, **fields: Any) -> int:
  """Returns the most steps that real guidance can walk, without loading."""
  return _module(name).num_steps(**fields)


def _module(name: str | None) -> Any:
  if name not in GENERATORS:
    raise unknown_names("generator", [name], GENERATORS)
  return importlib.import_module(GENERATORS[name])
