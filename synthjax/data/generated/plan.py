"""Which images are to be drawn, and what makes each of them itself."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.image_files import to_square
from synthjax.data.pipeline.rows import Example, Source

# Of 100 steps (Appendix C.3), so many are walked from a noised shot: the more
# shots there are, the nearer the images stay to them.
START_STEPS = {16: 15, 8: 20, 4: 35, 2: 40, 1: 50}


class Row(NamedTuple):
  """One image to draw."""

  id: str
  label: int
  class_name: str
  prompt: str
  seed: int
  number: int  # of the images of this prompt and seed
  reference: int | None = None  # row of the pool, for real guidance
  start_steps: int | None = None  # that are walked from it


class Block(NamedTuple):
  """The images of a class, of one strategy and seed."""

  num_prompts: int  # that its images are dealt out to in turn
  make: Callable[[int, int], Row]  # (prompt of the block, number of its images)


def rows_of(blocks: Sequence[Block], *, images_per_class: int) -> Source:
  """Returns every image of the blocks; each is made when it is asked for.

  The images of a block come prompt by prompt, and none has more than one image
  more than another.
  """
  read = functools.partial(_read_row, blocks, images_per_class)
  return Source(len(blocks) * images_per_class, read)


def _read_row(blocks: Sequence[Block], size: int, index: int) -> Row:
  block, index = blocks[index // size], index % size
  each, more = divmod(size, block.num_prompts)
  if index < more * (each + 1):
    return block.make(*divmod(index, each + 1))
  which, number = divmod(index - more * (each + 1), each)
  return block.make(more + which, number)


def few_of_each(
  rows: Source, *, num_classes: int, images_per_class: int, count: int
) -> list[Row]:
  """Returns some rows of each class, spread over its prompts.

  Args:
    rows: of `rows_of`, whose first blocks are those of the classes.
    num_classes: of the label space.
    images_per_class: of a block.
    count: rows of each class, or all that there are.
  """
  places = np.linspace(0, images_per_class - 1, min(count, images_per_class))
  return [
    rows[block * images_per_class + place]
    for block in range(num_classes)
    for place in places.astype(int).tolist()
  ]


def plan(prompts: Any, *, seeds: Sequence[int]) -> list[Block]:
  """Lists what is to be drawn: by strategy, seed and class.

  Args:
    prompts: a sequence of prompts, with its `groups`: see text.prompts.
    seeds: of the images.
  """
  return [
    Block(len(own), functools.partial(_drawn_row, prompts, own, seed))
    for classes in prompts.groups.values()
    for seed in seeds
    for _, own in sorted(classes.items())
  ]


def _drawn_row(
  prompts: Any, own: np.ndarray, seed: int, which: int, number: int
) -> Row:
  prompt = prompts[own[which]]
  return Row(
    id=f"{prompt.id}-s{seed}-{number}",
    label=prompt.label,
    class_name=prompt.class_name,
    prompt=prompt.text,
    seed=seed,
    number=number,
  )


def plan_guided(
  space: Any,
  labels: Sequence[int],
  start_steps: Mapping[int, int],
  *,
  seeds: Sequence[int],
  sampler: str = "nested",
) -> list[Block]:
  """Lists what is to be drawn with real guidance: by shots, seed and class.

  All have the first prompt about their class, without language enhancement. The
  images of a class are dealt out to its shots in turn.

  Args:
    space: the label space.
    labels: [n] of the pool.
    start_steps: number of shots -> steps that are walked from one.
    seeds: of the shots, as few-shot tuning draws them, and of the images.
    sampler: of the shots, a key of few_shot.SAMPLERS.
  """
  blocks = []
  for shots, steps in start_steps.items():
    for seed in seeds:
      chosen = few_shot.draw_by(
        sampler, labels, num_classes=len(space.classes), shots=shots, seed=seed
      )
      for each, own in zip(
        space.classes, chosen.reshape(-1, shots), strict=True
      ):
        row = Row(
          id=f"rg{shots}-{each.id}",
          label=each.id,
          class_name=each.name,
          prompt=space.prompts[0].replace("{}", each.name),
          seed=seed,
          number=0,
          start_steps=steps,
        )
        blocks.append(Block(shots, functools.partial(_guided_row, row, own)))
  return blocks


def _guided_row(row: Row, own: np.ndarray, which: int, number: int) -> Row:
  return row._replace(
    id=f"{row.id}-{which}-s{row.seed}-{number}",
    number=number,
    reference=int(own[which]),
  )


def read_references(
  pool: Sequence[Example], size: int, rows: Sequence[Row]
) -> np.ndarray:
  """Reads the real images of rows: uint8 [n, size, size, 3]."""
  return np.stack(
    [
      to_square(Image.fromarray(pool[row.reference]["image"]), size)
      for row in rows
    ]
  )
