"""Times drawing with an adapter for each of many classes against one class's.

  python -m benchmarks.adapters [--json FILE] [--threads N]

The embedded generator draws as many images with the adapters of 100 classes as
with that of one class, and as without any: in batches of one size, class after
class, as `generate` does, from files. An adapter that has learned costs as much
as these, which are random. All take turns, after compilation. Each round has
prompts of its own, one for each class, so that reading them counts; so does
reading the files, of which the host keeps 64: those of more classes are read in
each round. The fewer images of a class, the more these readings weigh.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import devices, table
from benchmarks.timing import medians


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  device, _ = devices.set_up(args.threads)
  from synthjax.config import embedded_world
  from synthjax.generators import load_generator

  block = embedded_world(preset=args.preset)["generator"]
  generator = load_generator(**block | {"batch_size": args.batch})
  table.show(measure(generator, args, device), args.json)


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__)
  flags.add_argument("--preset", choices=("paper", "fast"), default="fast")
  add("rounds", 5, "of which the median is taken")
  add("classes", 100, "of the one side")
  add("images", 1600, "that each side draws in a round")
  add("batch", 64, "images drawn at once")
  add("rank", 16, "of the adapters")
  return flags


def measure(generator: Any, args, device: str) -> list[dict]:
  """Times the three ways to draw with a generator; returns the rows."""
  import jax

  from synthjax.generators import adapters

  rngs, rounds = jax.random.split(jax.random.key(0), args.images), {}

  def draw(generator, classes):
    number = rounds[classes] = rounds.get(classes, 0) + 1
    labels = [i * max(classes, 1) // args.images for i in range(args.images)]
    prompts = [f"a drawing of {label}, {number}" for label in labels]
    of = {"adapters": [(label,) for label in labels]} if classes else {}
    return generator.draw(prompts, rngs, **of)

  with tempfile.TemporaryDirectory() as folder:
    paths = write_adapters(
      generator.adaptable, args.classes, args.rank, pathlib.Path(folder)
    )
    adapted = generator.adapted(adapters.reader(paths, generator.adaptable))
    timed = {
      "many": partial(draw, adapted, args.classes),
      "one": partial(draw, adapted, 1),
      "none": partial(draw, generator, 0),
    }
    seconds = medians(timed, args.rounds, devices.clock_of(device))
  rates = {name: args.images / s for name, s in seconds.items()}
  row = table.titled(
    f"{args.images:,} images in batches of {args.batch}, adapters of "
    f"{args.classes:,} classes",
    device,
  )
  rows = [
    row(f"against {name}", "images/s", rates["many"], rate, more_is_better=True)
    for name, rate in (
      ("one class's", rates["one"]),
      ("no adapters", rates["none"]),
    )
  ]
  cost = rates["one"] / rates["many"]
  return [*rows, row("cost of an image", "of one class's", cost, None)]


def write_adapters(
  adaptable: Any, count: int, rank: int, folder: pathlib.Path
) -> Sequence[pathlib.Path]:
  """Writes random adapters, which change images; returns their files."""
  import jax

  from synthjax.generators import adapters

  rng = np.random.default_rng(0)
  draw = lambda x: rng.normal(0, 0.02, x.shape).astype(np.float32)
  like = adapters.shapes(adaptable, rank)
  paths = [folder / f"{place}.safetensors" for place in range(count)]
  for path in paths:
    adapters.save(path, adaptable, jax.tree.map(draw, like))
  return paths


if __name__ == "__main__":
  main()
