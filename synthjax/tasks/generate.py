"""Draws labelled images for every prompt, as shards that TFDS opens."""

import dataclasses
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Annotated, Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.config.schema import (
  Block,
  Count,
  Counts,
  Flag,
  Seeds,
  Shots,
  Whole,
)
from synthjax.data.generated import scores, shards, unfinished
from synthjax.data.generated.plan import (
  START_STEPS,
  few_of_each,
  plan,
  plan_adapted,
  plan_guided,
  read_references,
  rows_of,
)
from synthjax.data.pipeline import codecs, few_shot
from synthjax.data.pipeline.rows import labels_of
from synthjax.data.real import real_images
from synthjax.data.real.uneven import TopUp
from synthjax.encoders import load_encoder
from synthjax.evals import weak_classes
from synthjax.generators import (
  adapters,
  check_generator,
  filling,
  load_generator,
  num_steps,
)
from synthjax.generators import reads as generator_reads
from synthjax.labels import spaces
from synthjax.prompts import strategies
from synthjax.runtime import artifacts, engine
from synthjax.runtime.engine import Work
from synthjax.runtime.errors import UserError, gathered
from synthjax.runtime.progress import say
from synthjax.tokenizers import cut_texts

PROCESSES = "shared"  # each draws the shards that no other one has


@dataclasses.dataclass(frozen=True, kw_only=True)
class RealGuidance:
  """Draws from noised real images, besides (Section 3.2)."""

  pool: Block  # real images, for the shots; see `real_images.open_real`
  shots: Shots  # of each class; each number is a strategy, "rg16" of 16
  start_steps: Counts | None = None  # one for each of shots; START_STEPS
  images_per_class: Count | None = None  # None: as many as without guidance
  alone: Flag = False  # draws no others
  # The draw of the shots, as in few-shot learning.
  sampler: Annotated[str, schema.one_of(few_shot.SAMPLERS)] = "nested"

  def problems(self) -> Iterable[str]:
    unknown = [shots for shots in self.shots if shots not in START_STEPS]
    if self.start_steps and len(self.start_steps) != len(self.shots):
      yield (
        f"start_steps={self.start_steps} for shots={self.shots}: give one for "
        "each"
      )
    elif not self.start_steps and unknown:
      yield (
        f"the paper gives no start_steps for {unknown} shots, but for "
        f"{', '.join(map(str, START_STEPS))}: set start_steps"
      )

  def steps(self) -> dict[int, int]:
    """Returns the steps from a shot for each number of shots."""
    default = [START_STEPS.get(shots) for shots in self.shots]
    return dict(zip(self.shots, self.start_steps or default, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnByAdapters:
  """Draws with the adapters of `tune_generator`, besides."""

  images_per_class: Count | None = None  # None: as many as without them
  alone: Flag = False  # draws no others


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(codecs.Encoding):
  """config.generate; images are stored as PNG, as large as they are drawn."""

  images_per_class: Count | None = None  # None: the largest class of `top_up`
  seeds: Seeds
  shard_size: Count
  real_guidance: RealGuidance | None = None
  adapters: DrawnByAdapters | None = None
  top_up: TopUp | None = None
  # Number of preview images (at least 5 a class). config.encoder checks them
  # for classes that it does not recognise. The full run draws them again.
  preview: Whole = 0

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    if self.top_up and self.real_guidance:
      yield "it has top_up and real_guidance: leave one of them out"
    if not self.top_up and self.images_per_class is None:
      yield "it lacks images_per_class: give a whole number, 1 or more"

  @property
  def pool(self) -> Block | None:
    """The real images on which the drawn ones depend, if they do."""
    of = self.real_guidance or self.top_up
    return of.pool if of else None


FIELDS = Generate


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the blocks' fields, and that the weights are there."""
  fields = schema.read(Generate, config.generate, "config.generate")
  generator = config.generator.to_dict()
  with gathered() as attempt:
    attempt(_check_generator, config, generator)
    if fields.adapters:
      tasks, planned = ("tune_generator",), config.tasks
      attempt(artifacts.check_complete, workdir, tasks, planned=planned)
    if guided := fields.real_guidance:
      attempt(_check_guided, guided, generator, config.space)
    if top_up := fields.top_up:
      space = spaces.load_space(config.space)
      attempt(top_up.amounts, space, fields.images_per_class)
    if fields.preview and not config.get("encoder"):
      raise UserError(
        "config.generate.preview needs config.encoder, which judges the "
        "images: give it, or leave preview out."
      )


def _check_generator(config: ConfigDict, generator: dict[str, Any]) -> None:
  """Checks the generator, and that it reads what differs between classes."""
  check_generator(**generator)
  if {"basic", "template"} & {*config.get("prompts", {}).get("strategies", ())}:
    space = spaces.load_space(config.space)
    texts = {
      name: [space.sentence(template, c) for template in space.prompts]
      for name, c in zip(space.class_names, space.classes, strict=True)
    }
    network = generator_reads(**generator)
    cut_texts.check_classes(network, texts, field="config.generator")


def _check_guided(guided: RealGuidance, generator: dict, space: str) -> None:
  """Checks the steps, and that the pool has shots enough."""
  steps, most = guided.steps(), num_steps(**generator)
  if wrong := {m: k for m, k in steps.items() if not 1 <= k <= most}:
    raise UserError(
      f"config.generate.real_guidance.start_steps has {wrong}, but the "
      f"generator walks {most} steps (its respacing): choose 1 to {most} for "
      "each."
    )
  space = spaces.load_space(space)
  name = "config.generate.real_guidance.pool"
  real_images.check_real(guided.pool, space, name, shots=steps)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves shards of image, label, prompt, seed and id."""
  engine.do_here(prepare(config, workdir))


def prepare(config: ConfigDict, workdir: str) -> Iterator[Work]:
  """Loads the generator, and yields the shards to draw."""
  fields = schema.read(Generate, config.generate, "config.generate")
  guided = fields.real_guidance
  source = epath.Path(workdir) / "prompts"
  generator = load_generator(**config.generator.to_dict())
  encoding = {"image_size": generator.image_size} | fields.options()
  if encoding["image_size"] > generator.image_size:
    raise UserError(
      f"config.generate.image_size={encoding['image_size']}, but the generator "
      f"draws {generator.image_size} px: choose at most that."
    )
  space = spaces.load_space(config.space)
  folder = epath.Path(workdir) / "generate"
  block = config.generate.to_dict()
  block.pop("preview", None)  # it changes nothing of the result
  spec = {
    "generate": block,
    "generator": generator.identity,
    "prompts": artifacts.digest(source),
  }
  if fields.pool:
    spec["real"] = real_images.identify(fields.pool)
    spec |= real_images.identify_files({"pool": fields.pool}, space)
  adapted = epath.Path(workdir) / "tune_generator"
  if fields.adapters:
    spec["adapters"] = artifacts.digest(adapted)
  if artifacts.begin(folder, spec):
    return
  prompts = strategies.open_prompts(source / strategies.FILE)
  blocks, references = [], None
  if not any(x and x.alone for x in (guided, fields.adapters)):
    amounts = fields.images_per_class
    if fields.top_up:
      amounts = fields.top_up.amounts(space, amounts)
    blocks += plan(prompts, seeds=fields.seeds, images_per_class=amounts)
  if guided:
    pool = real_images.open_real(guided.pool, space)
    blocks += plan_guided(
      space,
      labels_of(pool),
      guided.steps(),
      seeds=fields.seeds,
      images_per_class=guided.images_per_class or fields.images_per_class,
      sampler=guided.sampler,
    )
    references = partial(read_references, pool, generator.reference_size)
  if more := fields.adapters:
    adapters.check_adaptable(generator, config.generator.name)
    groups, files = adapters.read_groups(adapted)
    amount = more.images_per_class or fields.images_per_class
    blocks += plan_adapted(space, groups, files, images_per_class=amount)
    paths = [adapted / name for name in files]
    generator = generator.adapted(adapters.reader(paths, generator.adaptable))
  rows = rows_of(blocks)
  drawing = filling.prepare(
    folder,
    rows,
    generator,
    name=filling.NAME,
    shard_size=fields.shard_size,
    encode=partial(codecs.encode, **encoding),
    references=references,
  )

  def begin():
    if fields.preview and not _is_begun(folder):
      count = fields.preview // len(space.classes)
      chosen = few_of_each(blocks, max(weak_classes.MIN_IMAGES, count))
      _report_weak(filling.draw(generator, chosen), config, space)

  def finish():
    described = shards.write_dataset_info(
      folder,
      list(drawing.sizes.values()),
      dict(enumerate(space.class_names)),
      description=f"Images of {len(space.classes)} classes drawn by synthjax.",
      name=filling.NAME,
      image_size=encoding["image_size"],
      image_format=encoding.get("image_format", "png"),
    )
    index = shards.write_index(folder, rows)
    artifacts.finish(folder, spec, drawing.sizes | described | index)

  yield Work(folder, drawing.sizes, drawing.draw, finish, begin)


def _is_begun(folder: epath.Path) -> bool:
  return any(folder.glob(f"{filling.NAME}*")) or bool(unfinished.sizes(folder))


def _report_weak(
  drawn: Iterable[tuple], config: ConfigDict, space: spaces.LabelSpace
) -> None:
  """Reports the classes that the encoder does not see in the first images."""
  batches = list(drawn)
  rows = [row for batch, _ in batches for row in batch]
  images = np.concatenate([images for _, images in batches])
  scored = scores.score_images(
    load_encoder(**config.encoder.to_dict()),
    space,
    images,
    [row.label for row in rows],
    [row.id for row in rows],
  )
  names = space.class_names
  say(weak_classes.verdict(scored.labels, scored.probs, names))
