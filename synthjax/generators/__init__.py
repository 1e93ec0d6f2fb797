"""Text-to-image generators behind one interface."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from synthjax.config import schema
from synthjax.tokenizers import cut_texts

# Each module has `load(**fields) -> Generator`, whose annotated arguments are
# the schema of config.generator. It may have `check(**fields)`, which says
# before it costs anything what keeps `load` from working, and
# `num_steps(**fields)`, that of the Generator; without it there is no real
# guidance; and `reads(**fields)`, how much of a prompt it reads (`cut_texts`).
GENERATORS = {
  "glide": "synthjax.generators.glide",
  "stable_diffusion": "synthjax.generators.stable_diffusion",
}
FIELDS = schema.Choice("name", GENERATORS)


class Generator(NamedTuple):
  """What every generator offers.

  `draw(prompts, rngs)` maps n prompts and n keys (`tasks.generate.image_keys`)
  to uint8 images [n, h, w, 3]; `stream` takes the same and yields a batch at
  a time, while the device is at the next one.
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
  identity: dict[str, Any]  # plain data that identifies weights and sampling


def load_generator(name: str | None = None, **fields: Any) -> Generator:
  """Loads a generator.

  Args:
    name: a key of GENERATORS, such as "glide", or the dotted path of a module.
    **fields: the arguments of its `load`; blocks are mappings.

  Raises:
    UserError: as `check_generator`, or about weights that do not fit.
  """
  block = {"name": name} | fields
  return schema.read_checked(FIELDS, block, "config.generator")()


def check_generator(name: str | None = None, **fields: Any) -> None:
  """Checks all that can keep a generator from being loaded, at no cost.

  Raises:
    UserError: about an unknown name, unknown or missing fields, bad values, or
      weights that are not there.
  """
  block = {"name": name} | fields
  schema.read_checked(FIELDS, block, "config.generator")


def num_steps(name: str | None = None, **fields: Any) -> int:
  """Returns the most steps that real guidance can walk, without loading."""
  load = schema.read(FIELDS, {"name": name} | fields, "config.generator")
  count = getattr(inspect.getmodule(load.func), "num_steps", None)
  return count(**load.keywords) if count else 0


def reads(name: str | None = None, **fields: Any) -> cut_texts.Reads | None:
  """Returns how much of a prompt the generator reads, without loading it."""
  load = schema.read(FIELDS, {"name": name} | fields, "config.generator")
  return cut_texts.reads(load)
