"""Draws labelled images for every prompt, as shards that TFDS opens."""

from collections.abc import Iterable
from functools import partial

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.data.generated import scores, shards
from synthjax.data.generated.plan import (
  START_STEPS,
  few_of_each,
  plan,
  plan_guided,
  read_references,
  rows_of,
)
from synthjax.data.pipeline import codecs, few_shot
from synthjax.data.pipeline.rows import labels_of
from synthjax.data.real import real_images
from synthjax.encoders import load_encoder
from synthjax.evals import weak_classes
from synthjax.generators import (
  check_generator,
  draw_shards,
  load_generator,
  num_steps,
)
from synthjax.labels import spaces
from synthjax.prompts import strategies as texts
from synthjax.runtime import artifacts
from synthjax.runtime.errors import (
  BLOCK,
  COUNT,
  COUNTS,
  SEEDS,
  SHOTS,
  WHOLE,
  UserError,
  one_of,
)
from synthjax.runtime.progress import say

PROCESSES = "shared"  # each draws the shards that no other one has
REQUIRED = {"images_per_class": COUNT, "seeds": SEEDS, "shard_size": COUNT}
# Of the images in the shards; see data.encoded.encode. "png" by default, and
# as large as they are drawn.
ENCODING = codecs.VALUES
OPTIONAL = {
  "real_guidance": BLOCK,  # draws from noised real shots besides
  # So many images, or 5 of each class, are drawn first, and config.encoder
  # tells which classes they do not show. They are drawn again, alike, later.
  "preview": WHOLE,
}
KNOWN = REQUIRED | OPTIONAL | ENCODING
GUIDED_REQUIRED = {
  "pool": BLOCK,  # real images that the shots are drawn from; see data.real
  "shots": SHOTS,  # of each class; each count is a strategy, "rg16" of 16
}
GUIDED = GUIDED_REQUIRED | {
  "start_steps": COUNTS,  # one for each of shots; the paper's by default
  # Of the shots, as few-shot learning has it.
  "sampler": one_of(few_shot.SAMPLERS),
}
BLOCKS = {"real_guidance": GUIDED}
NAME = "synthjax_images"


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the blocks' fields, and that the weights are there."""
  del workdir
  validate(config.generate, KNOWN, name="generate", required=REQUIRED)
  check_generator(**config.generator.to_dict())
  if config.generate.get("preview") and not config.get("encoder"):
    raise UserError(
      "config.generate.preview needs config.encoder, which judges the images: "
      "give it, or leave preview out."
    )
  codecs.check_encoding(**_encoding(config.generate))
  if guided := config.generate.get("real_guidance"):
    _check_guided(guided, config)


def _check_guided(block: ConfigDict, config: ConfigDict) -> None:
  """Checks the steps, and that the pool has shots enough."""
  name = "generate.real_guidance"
  validate(block, GUIDED, name=name, required=GUIDED_REQUIRED)
  steps = _start_steps(block)
  count = num_steps(**config.generator.to_dict())
  if wrong := {m: k for m, k in steps.items() if not 1 <= k <= count}:
    raise UserError(
      f"config.{name}.start_steps has {wrong}, but the generator walks "
      f"{count} steps (its respacing): choose 1 to {count} for each."
    )
  space = spaces.load_space(config.space)
  real_images.check_pool(block.pool, space, steps)


def _start_steps(block: ConfigDict) -> dict[int, int]:
  """Returns the steps from a shot for each number of shots."""
  if block.get("start_steps") is not None:
    if len(block.start_steps) != len(block.shots):
      raise UserError(
        f"config.generate.real_guidance has start_steps={block.start_steps} "
        f"for shots={block.shots}: give one for each."
      )
    return dict(zip(block.shots, block.start_steps, strict=True))
  if lacking := [shots for shots in block.shots if shots not in START_STEPS]:
    raise UserError(
      f"The paper gives no start_steps for {lacking} shots, but for "
      f"{', '.join(map(str, START_STEPS))}: set "
      "config.generate.real_guidance.start_steps."
    )
  return {shots: START_STEPS[shots] for shots in block.shots}


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves shards of image, label, prompt, seed and id."""
  block = config.generate.to_dict()
  preview = block.pop("preview", None)  # nothing that is left depends on it
  source = epath.Path(workdir) / "prompts"
  generator = load_generator(**config.generator.to_dict())
  encoding = {"image_size": generator.image_size} | _encoding(config.generate)
  if encoding["image_size"] > generator.image_size:
    raise UserError(
      f"config.generate.image_size={encoding['image_size']}, but the generator "
      f"draws {generator.image_size} px: choose at most that."
    )
  space = spaces.load_space(config.space)
  folder = epath.Path(workdir) / "generate"
  spec = {
    "generate": block,
    "generator": generator.identity,
    "prompts": artifacts.digest(source),
  }
  guided = config.generate.get("real_guidance")
  if guided:
    spec["real"] = real_images.identify(guided.pool)
  if artifacts.begin(folder, spec):
    return
  blocks = plan(texts.open_prompts(source / texts.FILE), seeds=block["seeds"])
  references = None
  if guided:
    pool = real_images.open_real(guided.pool, space)
    blocks += plan_guided(
      space,
      labels_of(pool),
      _start_steps(guided),
      seeds=block["seeds"],
      sampler=guided.get("sampler", "nested"),
    )
    references = partial(read_references, pool, generator.reference_size)
  rows = rows_of(blocks, images_per_class=block["images_per_class"])
  if preview and jax.process_index() == 0 and not any(folder.glob(f"{NAME}*")):
    chosen = few_of_each(
      rows,
      num_classes=len(space.classes),
      images_per_class=block["images_per_class"],
      count=max(weak_classes.MIN_IMAGES, preview // len(space.classes)),
    )
    _judge(draw_shards.draw(generator, chosen), config, space)
  written = draw_shards.fill(
    folder,
    rows,
    generator,
    name=NAME,
    shard_size=block["shard_size"],
    encode=partial(codecs.encode, **encoding),
    references=references,
  )
  described = shards.write_dataset_info(
    folder,
    list(written.values()),
    {c.id: c.name for c in space.classes},
    description=f"Images of {len(space.classes)} classes drawn by synthjax.",
    name=NAME,
    image_size=encoding["image_size"],
    image_format=encoding.get("image_format", "png"),
  )
  artifacts.finish(folder, spec, written | described)


def _judge(
  drawn: Iterable[tuple], config: ConfigDict, space: spaces.LabelSpace
) -> None:
  """Tells which classes the first images do not show."""
  encoder = load_encoder(**config.encoder.to_dict())
  known = scores.encode_classes(
    encoder.encode_texts, encoder.logit_scale, space
  )
  batches = list(drawn)
  rows = [row for batch, _ in batches for row in batch]
  images = np.concatenate([images for _, images in batches])
  found = scores.make_scores(
    [row.id for row in rows],
    [row.label for row in rows],
    encoder.encode_images(images),
    known,
  )
  names = [c.name for c in space.classes]
  say(weak_classes.verdict(found.labels, found.probs, names))


def _encoding(block: ConfigDict) -> dict:
  """Returns the arguments of `encoded.encode` that a config gives."""
  return {name: block[name] for name in ENCODING if block.get(name) is not None}
