"""Times trainings of the embedded networks, from the device and from the host.

  python -m benchmarks.embedded [--json FILE] [--threads N]

Both sides take the same steps of the same objective. One draws its batches on
the device, on accelerators several steps to a dispatch; the other reads them by
Grain, with the same views made by Pillow, a batch and a dispatch a step. They
take turns, so that other work on the machine slows both.
"""

import argparse
import dataclasses
import itertools
from functools import partial

import numpy as np

from benchmarks import devices, table
from benchmarks.timing import medians


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  device, _ = devices.set_up(args.threads)
  rows = [row_of(stage, args, device) for stage in ("base", "upsampler")]
  table.show(rows, args.json)


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__, tiny=True)
  add("rounds", 3, "of which the median is taken")
  add("batch", 0, "images of a step; 0 takes the config's")
  add("steps", 10, "of a dispatch, and of a round")
  return flags


def row_of(stage_name: str, args, device: str) -> dict:
  """Returns images/s from the device, beside those from the host."""
  import jax

  from synthjax.config import schema
  from synthjax.main import load_config
  from synthjax.runtime import mesh as meshes
  from synthjax.tasks import train_generator

  config = load_config("configs/train_generator.py").train_generator
  if args.tiny:
    config = load_config("configs/train_generator.py:runlocal").train_generator
  stage = getattr(
    schema.read(
      train_generator.TrainGenerator, config, "config.train_generator"
    ),
    stage_name,
  )
  stage = dataclasses.replace(
    stage,
    batch_size=args.batch or stage.batch_size,
    steps_per_call=args.steps,
  )
  resident, drawn = train_generator.make_training(stage, seed=0)
  fed, read = train_generator.make_objective(stage), host_batches(stage)
  batches, mesh = read.start_at(0), meshes.make_mesh()
  keys = jax.random.split(jax.random.key(1), args.steps)
  arrays = next(drawn.start_at(0))
  steps = {
    name: jax.jit(objective.step, donate_argnums=0)
    for name, objective in (("device", resident), ("host", fed))
  }
  states = {
    "device": jax.jit(resident.init)(keys[0], arrays),
    "host": jax.jit(fed.init)(keys[0], meshes.to_global(mesh, read.example())),
  }

  def from_device():
    for rngs in keys if resident.steps == 1 else [keys]:
      states["device"], metrics = steps["device"](
        states["device"], arrays, rngs
      )
    jax.block_until_ready(metrics)

  def from_host():
    for batch, key in zip(
      itertools.islice(batches, args.steps), keys, strict=True
    ):
      states["host"], metrics = steps["host"](
        states["host"], meshes.to_global(mesh, batch), key
      )
    jax.block_until_ready(metrics)

  from_device()  # compiles
  from_host()
  seconds = medians({"device": from_device, "host": from_host}, args.rounds)
  images = args.steps * stage.batch_size
  return table.row(
    f"training the embedded {stage_name}, from the device, against the host",
    "images/s",
    images / seconds["device"],
    images / seconds["host"],
    device=device,
    more_is_better=True,
  )


def host_batches(stage):
  """Reads the rows of a stage by Grain, with the views made by Pillow."""
  from synthjax.data.pipeline import host_augment, loader
  from synthjax.embedded import captions

  return loader.train_batches(
    stage.data.open(),
    [
      host_augment.flip,
      host_augment.jiggle,
      partial(captions.name_more, share=stage.data.name_share),
      partial(read_row, image_size=stage.image_size, low_res=stage.low_res),
    ],
    batch_size=stage.batch_size,
    seed=0,
  )


def read_row(
  example: dict,
  rng: np.random.Generator,
  *,
  image_size: int,
  low_res: int | None,
  context: int = 16,
) -> dict:
  """Turns a captioned drawing into a row of a batch."""
  from synthjax.embedded import world
  from synthjax.tokenizers import bpe

  tokens, mask = bpe.load().glide_tokens(
    [world.sample_caption(example, rng)], context
  )
  image = _shrink(example["image"], image_size)
  row = {"image": image, "tokens": tokens[0], "mask": mask[0]}
  if low_res:
    row["low_res"] = _shrink(image, low_res)
  return row


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
  """Averages uint8 [h, h, 3] down to [side, side, 3], rounding."""
  blocks = image.reshape(side, -1, *image.shape[1:]).mean(1, dtype=np.float32)
  blocks = blocks.reshape(side, side, -1, 3).mean(2)
  return np.rint(blocks).astype(np.uint8)


if __name__ == "__main__":
  main()
