"""Text-to-image generators behind one interface.

| module                    | subject                                        |
| ------------------------- | ---------------------------------------------- |
| glide                     | GLIDE, and the embedded generator              |
| glide_clip_guidance       | GLIDE guided by its noised CLIP                |
| stable_diffusion          | Stable Diffusion 1.x, 2.x and XL               |
| stable_diffusion_networks | its networks, from a folder or a file          |
| stable_diffusion_adapters | what updates of them learn                     |
| flux2                     | FLUX.2-klein                                   |
| batching                  | what they share: `stream`, batches of one size |
| encodings                 | prompts are encoded before images are drawn    |
| keys                      | the random key of each image                   |
| filling                   | draws the shards that a folder lacks           |
| adapters                  | files of low-rank updates; those of a batch    |
| glide_adapters            | what updates of GLIDE learn                    |
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from synthjax.config import (
  HUB_GENERATORS,
  embedded_world,
  hub_generator,
  released_generator,
  released_glide,
  schema,
)
from synthjax.data.pipeline import given
from synthjax.tokenizers import cut_texts

# Each module has `load(**fields) -> Generator`, whose annotated arguments are
# the schema of config.generator. It may have `check(**fields)`, which says
# before it costs anything what keeps `load` from working, and
# `num_steps(**fields)`, that of the Generator; without it there is no real
# guidance; and `reads(**fields)`, how much of a prompt it reads (`cut_texts`).
GENERATORS = {
  "flux2": "synthjax.generators.flux2",
  "glide": "synthjax.generators.glide",
  "stable_diffusion": "synthjax.generators.stable_diffusion",
}
FIELDS = schema.Choice("name", GENERATORS)
# Names that stand for all fields of one of them.
WHOLE = {
  "embedded": lambda: embedded_world()["generator"],
  "released_glide": released_glide,
  "hf://": hub_generator,
  **{n: functools.partial(released_generator, n) for n in HUB_GENERATORS},
}


class Learner(NamedTuple):
  """A classifier towards whose doubt a generator can draw.

  `logits` maps variables and images, float32 [n, h, w, 3] in -1..1, to logits
  [n, k]. It is traced, and differentiated.
  """

  logits: Callable[[Any, Any], Any]
  variables: Any
  scale: float  # of `guidance.towards_doubt` or `guidance.doubting`
  identity: dict[str, Any]  # plain data that identifies it all


class Adapted(NamedTuple):
  """A prompt, and the adapters that an image of it is drawn with."""

  prompt: str
  adapters: tuple[int, ...]


class Adaptable(NamedTuple):
  """How low-rank updates of a generator's networks are learned (LoRA).

  Its functions are pure; `init` and `loss` are traced.
  """

  # Return weights on the devices, which stay as they are: those that the loss
  # reads, and with them those of other networks.
  frozen: Callable[[], Any]
  held: Callable[[], Any]
  init: Callable[[int, Any], Any]  # (rank, rng) -> `models.lora.Updates`
  # (frozen, updates, batch, rng) -> a loss [], and what is reported of it.
  loss: Callable[[Any, Any, Any, Any], tuple[Any, dict[str, Any]]]
  # Uint8 images [n, s, s, 3], n prompts -> arrays [n, ...], of a batch.
  read: Callable[[np.ndarray, Sequence[str]], dict[str, np.ndarray]]
  image_size: int  # s, px
  # Kernels by their paths <-> weights by their names in diffusers.
  to_released: Callable[[Mapping[str, Any]], dict[str, np.ndarray]]
  from_released: Callable[[Mapping[str, Any], Mapping], dict[str, Any]]


class Generator(NamedTuple):
  """What every generator offers.

  `stream(prompts, rngs)` maps n prompts and n keys (`keys.image_keys`) to uint8
  images [n, h, w, 3], which it yields a batch at a time, while the device is at
  the next one.
  With `references`, real uint8 images [n, r, r, 3], and `start_steps` it starts
  from those, noised, so many steps before the end (real guidance, Section 3.2).
  With `adapters`, as many places for each image, in a tuple, it draws each with
  the mean of those updates, where `adapted` has said what they are.
  An image depends on its prompt, its key and its reference alone, not on what
  else is in the batch.
  """

  stream: Callable[..., Iterator[np.ndarray]]
  # Images drawn at once; None is chosen when the first one is drawn.
  batch_size: int | None
  image_size: int  # px
  reference_size: int  # r, px
  num_steps: int  # the most start_steps there can be
  identity: dict[str, Any]  # plain data that identifies weights and sampling
  # Returns one that draws what a learner is unsure of, by the same weights.
  guided: "Callable[[Learner], Generator] | None" = None
  # Returns one that draws with adapters by the same weights. They are read by
  # their place: (place) -> `models.lora.Updates` of the host.
  adapted: "Callable[[Callable[[int], Any]], Generator] | None" = None
  adaptable: Adaptable | None = None

  def draw(
    self,
    prompts: Sequence[str],
    rngs: Any = None,
    references: np.ndarray | None = None,
    start_steps: int | None = None,
    *,
    seed: int = 0,
    adapters: Sequence[tuple[int, ...]] | None = None,
  ) -> np.ndarray:
    """Draws images, all at once.

    Args:
      prompts: a list of n texts.
      rngs: n keys; by default those that `seed` gives to the prompts. The image
        of a prompt is then the same in any list, and its second one another.
      references: see above, as is start_steps.
      start_steps: likewise.
      seed: of the keys.
      adapters: see above.

    Returns:
      uint8 [n, h, w, 3].

    Raises:
      UserError: about a single text instead of a list.
    """
    prompts = given.texts("prompts", prompts)
    if not prompts:
      return np.zeros((0, self.image_size, self.image_size, 3), np.uint8)
    if rngs is None:
      from synthjax.generators import keys

      rngs = keys.prompt_keys(prompts, seed)
    guided = (
      {}
      if references is None and start_steps is None
      else {"references": references, "start_steps": start_steps}
    )
    if adapters is not None:
      guided["adapters"] = adapters
    return np.concatenate(list(self.stream(prompts, rngs, **guided)))


def load_generator(name: str | None = None, **fields: Any) -> Generator:
  """Loads a generator.

  Args:
    name: a key of GENERATORS, such as "glide", or the dotted path of a module;
      or a key of WHOLE, such as "embedded", which needs no fields; or a
      generator of the Hugging Face hub, "hf://org/name".
    **fields: the arguments of its `load`; blocks are mappings.

  Raises:
    UserError: as `check_generator`, or about weights that do not fit.
  """
  return schema.read_checked(FIELDS, block_of(name, **fields), _WHERE)()


def check_generator(name: str | None = None, **fields: Any) -> None:
  """Checks all that can keep a generator from being loaded, at no cost.

  Raises:
    UserError: about an unknown name, unknown or missing fields, bad values,
      weights that are not there, or `fsdp` that does not divide the devices.
  """
  from synthjax.runtime import mesh as meshes

  load = schema.read_checked(FIELDS, block_of(name, **fields), _WHERE)
  meshes.check_devices(_WHERE, fsdp=load.keywords.get("fsdp", 1), local=True)


def num_steps(name: str | None = None, **fields: Any) -> int:
  """Returns the most steps that real guidance can walk, without loading."""
  load = schema.read(FIELDS, block_of(name, **fields), _WHERE)
  count = getattr(inspect.getmodule(load.func), "num_steps", None)
  return count(**load.keywords) if count else 0


def reads(name: str | None = None, **fields: Any) -> cut_texts.Reads | None:
  """Returns how much of a prompt the generator reads, without loading it."""
  load = schema.read(FIELDS, block_of(name, **fields), _WHERE)
  return cut_texts.reads(load)


_WHERE = "config.generator"


def block_of(name: str | None = None, **fields: Any) -> dict[str, Any]:
  """Returns all fields of a block, for which a key of WHOLE may stand."""
  return schema.whole_block("generator", name, fields, GENERATORS, WHOLE)
