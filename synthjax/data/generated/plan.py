"""Which images a run draws, and the id of each."""

import bisect
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.image_files import to_square
from synthjax.data.pipeline.rows import Example, Source
from synthjax.runtime.errors import UserError

# Number of shots -> the last steps, of 100, that are walked from a noised shot
# (Appendix C.3). With more shots, images stay nearer to them.
START_STEPS = {16: 15, 8: 20, 4: 35, 2: 40, 1: 50}


_ID = re.compile(r"(.+)-(\d+)-(\d+)-s(-?\d+)-(\d+)")


# Begins the strategies of images that adapters have drawn: "lora_class16" is of
# those that a method "class" has learned from 16 shots.
ADAPTED = "lora_"


def is_of_shots(strategy: str) -> bool:
  """Returns whether images were drawn from the shots of one seed."""
  return strategy.startswith(("rg", ADAPTED))


class ImageId(NamedTuple):
  """The origin of a drawn image.

  As text it is "<strategy>-<label>-<prompt>-s<seed>-<number>".
  """

  strategy: str  # of the prompt; "rg16" is real guidance by 16 shots
  label: int
  prompt: int  # index among those of the class; of the shot in real guidance
  seed: int
  number: int  # among the images of this prompt and seed

  def __str__(self) -> str:
    strategy, label, prompt, seed, number = self
    return f"{prompt_id(strategy, label, prompt)}-s{seed}-{number}"

  @classmethod
  def parse(cls, text: str) -> "ImageId":
    """Reads the text of an id.

    Raises:
      ValueError: about any other text.
    """
    strategy, *numbers = _parts(text)
    return cls(strategy, *map(int, numbers))


def _parts(text: str) -> tuple[str, ...]:
  match = _ID.fullmatch(text)
  if not match:
    raise ValueError(
      f"{text!r} is no id of a drawn image; needed: "
      "strategy-label-prompt-sSEED-number."
    )
  return match.groups()


def origin(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Reads the prompt strategy [n] str and the seed [n] int of each image.

  Equal strategies are one object.

  Raises:
    UserError: about ids that are none of an `ImageId`.
  """
  places: dict[str, int] = {}

  def read(text):
    strategy, seed = _parts(text)[::3]
    return places.setdefault(strategy, len(places)), int(seed)

  try:
    kinds = [("strategy", np.int32), ("seed", np.int64)]
    rows = np.fromiter(map(read, ids), kinds, len(ids))
  except ValueError as error:
    raise UserError(f"Images of unknown origin: {error}") from error
  return np.array([*places], object)[rows["strategy"]], rows["seed"]


def prompt_id(strategy: str, label: int, prompt: int) -> str:
  """Returns the id of a prompt, with which those of its images begin."""
  return f"{strategy}-{label}-{prompt}"


class Row(NamedTuple):
  """One image to draw."""

  id: str  # of an ImageId
  label: int
  class_name: str  # of `LabelSpace.class_names`, which differ
  prompt: str
  seed: int
  number: int  # of the images of this prompt and seed
  repeat: int = 0  # earlier prompts of its class that have the same text
  reference: int | None = None  # row of the pool, for real guidance
  start_steps: int | None = None  # that are walked from it
  adapters: tuple[int, ...] = ()  # that it is drawn with; see `Generator`


class Block(NamedTuple):
  """The images of a class, of one strategy and seed."""

  num_images: int
  num_prompts: int  # over which its images are spread evenly
  make: Callable[[int, int], Row]  # (prompt of the block, number of the image)


def rows_of(blocks: Sequence[Block]) -> Source:
  """Returns every image of the blocks; each is made when it is read.

  The images of a block come prompt by prompt. The numbers of images of two
  prompts differ by one at most.
  """
  ends = [*itertools.accumulate((b.num_images for b in blocks), initial=0)]
  return Source(ends[-1], functools.partial(_read_row, blocks, ends))


def _read_row(blocks: Sequence[Block], ends: Sequence[int], index: int) -> Row:
  place = bisect.bisect_right(ends, index) - 1
  block, index = blocks[place], index - ends[place]
  # `more` prompts have one image more than the others.
  count, more = divmod(block.num_images, block.num_prompts)
  if index < more * (count + 1):
    return block.make(*divmod(index, count + 1))
  prompt, number = divmod(index - more * (count + 1), count)
  return block.make(more + prompt, number)


def few_of_each(blocks: Sequence[Block], count: int) -> list[Row]:
  """Returns some rows of each class, spread over its prompts.

  Args:
    blocks: of which the first one of each class is taken.
    count: rows of a class, or all that there are.
  """
  chosen: dict[int, list[Row]] = {}
  for block in blocks:
    rows, size = rows_of([block]), block.num_images
    if (label := rows[0].label) in chosen:  # of another strategy or seed
      break
    places = np.linspace(0, size - 1, min(count, size)).astype(int)
    chosen[label] = [rows[place] for place in places.tolist()]
  return [row for rows in chosen.values() for row in rows]


def plan(
  prompts: Any, *, seeds: Sequence[int], images_per_class: int | Sequence[int]
) -> list[Block]:
  """Lists what is to be drawn: by strategy, seed and class.

  Args:
    prompts: of `prompts.strategies.open_prompts`.
    seeds: of the images.
    images_per_class: of a strategy and seed; of each class, if they differ.
  """
  is_even = isinstance(images_per_class, int)
  return [
    Block(
      count,
      len(indices),
      functools.partial(_drawn_row, prompts, indices, seed),
    )
    for classes in prompts.groups.values()
    for seed in seeds
    for label, indices in sorted(classes.items())
    if (count := images_per_class if is_even else images_per_class[label])
  ]


def _drawn_row(
  prompts: Any, indices: np.ndarray, seed: int, place: int, number: int
) -> Row:
  prompt = prompts[indices[place]]
  image_id = ImageId(prompt.strategy, prompt.label, place, seed, number)
  return Row(
    id=str(image_id),
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
  images_per_class: int,
  sampler: str = "nested",
) -> list[Block]:
  """Lists what is to be drawn with real guidance: by shots, seed and class.

  All have the first prompt about their class, without language enhancement. The
  images of a class are spread evenly over its shots.

  Args:
    space: the label space.
    labels: [n] of the pool.
    start_steps: number of shots -> steps that are walked from one.
    seeds: of the shots, as few-shot tuning draws them, and of the images.
    images_per_class: of a number of shots and a seed.
    sampler: of the shots, a key of few_shot.SAMPLERS.
  """
  names, blocks = space.class_names, []
  prompts = [space.prompts[0].replace("{}", c.name) for c in space.classes]
  for shots, steps in start_steps.items():
    for seed in seeds:
      chosen = few_shot.draw_by(
        sampler, labels, num_classes=len(space.classes), shots=shots, seed=seed
      )
      blocks += [
        Block(
          images_per_class,
          shots,
          functools.partial(
            _guided_row, prompts[label], names[label], label, rows, steps, seed
          ),
        )
        for label, rows in enumerate(chosen.reshape(-1, shots))
      ]
  return blocks


def _guided_row(
  prompt: str,
  class_name: str,
  label: int,
  rows: np.ndarray,
  start_steps: int,
  seed: int,
  place: int,
  number: int,
) -> Row:
  return Row(
    id=str(ImageId(f"rg{len(rows)}", label, place, seed, number)),
    label=label,
    class_name=class_name,
    prompt=prompt,
    seed=seed,
    number=number,
    reference=int(rows[place]),
    start_steps=start_steps,
  )


class AdapterGroup(NamedTuple):
  """The adapters of a method, which learned from the shots of one seed."""

  strategy: str
  seed: int
  mixed: int  # how many of its class an image is drawn with
  prompts: Sequence[Sequence[str]]  # of each class
  files: Sequence[Sequence[str]]  # of each class


def plan_adapted(
  space: Any,
  groups: Sequence[AdapterGroup],
  files: Sequence[str],
  *,
  images_per_class: int,
) -> list[Block]:
  """Lists what is to be drawn with adapters: by group and class.

  Args:
    space: the label space.
    groups: of adapters.
    files: of all adapters, by their places.
    images_per_class: of a group, spread evenly over its prompts.
  """
  place_of = {name: i for i, name in enumerate(files)}
  return [
    Block(
      images_per_class,
      len(prompts),
      functools.partial(
        _adapted_row,
        group,
        label,
        space.class_names[label],
        [place_of[name] for name in group.files[label]],
      ),
    )
    for group in groups
    for label, prompts in enumerate(group.prompts)
  ]


def _adapted_row(
  group: AdapterGroup,
  label: int,
  class_name: str,
  places: Sequence[int],
  prompt: int,
  number: int,
) -> Row:
  rng = np.random.default_rng((group.seed, label, prompt, number))
  mixed = rng.permutation(places)[: group.mixed]
  texts = group.prompts[label]
  return Row(
    id=str(ImageId(group.strategy, label, prompt, group.seed, number)),
    label=label,
    class_name=class_name,
    prompt=texts[prompt],
    seed=group.seed,
    number=number,
    repeat=texts[:prompt].count(texts[prompt]),
    adapters=tuple(mixed.tolist()),
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
