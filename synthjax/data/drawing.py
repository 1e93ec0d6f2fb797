"""Which images are to be drawn, and what makes each of them itself."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from synthjax.data import few_shot
from synthjax.data.image_files import to_square
from synthjax.data.shards import Example

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


def plan(
  prompts: Sequence[Any],
  *,
  images_per_class: int,
  seeds: Sequence[int],
) -> list[Row]:
  """Lists every image: by strategy, seed, class, prompt, number.

  The images of a class are dealt out to its prompts in turn, so that none has
  more than one image more than another.
  """
  groups: dict[str, dict[int, list[Any]]] = {}
  for prompt in prompts:
    classes = groups.setdefault(prompt.strategy, {})
    classes.setdefault(prompt.label, []).append(prompt)
  rows = []
  for classes in groups.values():
    for seed in seeds:
      for label in sorted(classes):
        own = classes[label]
        for i, prompt in enumerate(own):
          count = len(range(i, images_per_class, len(own)))
          rows += [
            Row(
              id=f"{prompt.id}-s{seed}-{number}",
              label=label,
              class_name=prompt.class_name,
              prompt=prompt.text,
              seed=seed,
              number=number,
            )
            for number in range(count)
          ]
  return rows


def plan_guided(
  space: Any,
  labels: Sequence[int],
  start_steps: Mapping[int, int],
  *,
  images_per_class: int,
  seeds: Sequence[int],
  sampler: str = "nested",
) -> list[Row]:
  """Lists every image of real guidance: by shots, seed, class, shot, number.

  All have the first prompt about their class, without language enhancement. The
  images of a class are dealt out to its shots in turn.

  Args:
    space: the label space.
    labels: [n] of the pool.
    start_steps: number of shots -> steps that are walked from one.
    images_per_class: of each number of shots and seed.
    seeds: of the shots, as few-shot tuning draws them, and of the images.
    sampler: of the shots, a key of few_shot.SAMPLERS.
  """
  rows = []
  for shots, steps in start_steps.items():
    for seed in seeds:
      chosen = few_shot.draw_by(
        sampler, labels, num_classes=len(space.classes), shots=shots, seed=seed
      )
      for each, own in zip(
        space.classes, chosen.reshape(-1, shots), strict=True
      ):
        prompt = space.prompts[0].replace("{}", each.name)
        rows += [
          Row(
            id=f"rg{shots}-{each.id}-{i}-s{seed}-{number}",
            label=each.id,
            class_name=each.name,
            prompt=prompt,
            seed=seed,
            number=number,
            reference=int(reference),
            start_steps=steps,
          )
          for i, reference in enumerate(own)
          for number in range(len(range(i, images_per_class, shots)))
        ]
  return rows


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
