"""Learns, draws what the learner is unsure of, adds it, and learns again.

That is Deliberate Practice (Hemmat et al. 2025). A head learns from the images
that `select` has kept. Each round then draws as many for every class, guided by
the entropy of what the head says, and the head learns from all. It ends when
validation stalls. Images without guidance go the same way, as an arm beside.

A round is an artifact of its own, with the heads that it was drawn for. So a
run that is killed goes on with the image where it stopped, and ends alike.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets, heads, linear_head
from synthjax.adapt.feature_sets import Features
from synthjax.adapt.linear_head import Head
from synthjax.config import schema
from synthjax.config.schema import Block, Count, Rule, Seeds
from synthjax.data.generated import filters, plan, shards
from synthjax.data.pipeline import codecs
from synthjax.data.real import real_images
from synthjax.encoders import Encoder, check_texts, load_encoder
from synthjax.evals import accuracy, arms
from synthjax.generators import (
  Generator,
  Learner,
  check_generator,
  filling,
  load_generator,
)
from synthjax.labels import spaces
from synthjax.prompts import strategies
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError, gathered
from synthjax.runtime.progress import say

INPUTS = ("prompts", "score", "select")
_LEARNER = "learner"  # arm of the heads of a round
Scales = Annotated[
  tuple[float, ...],
  Rule(
    lambda x: x and [*x] == sorted({*x}) and x[0] >= 0,
    "rising numbers of 0 or more, such as (0, 1)",
  ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Practice(linear_head.Training):
  """The block `config.practice`."""

  scales: Scales = (0.0, 1.0)  # of the guidance, an arm each; 0 is none
  images_per_class: Count  # that a round draws of each strategy
  shard_size: Count = 4096
  max_rounds: Count = 5
  patience: Count = 1  # rounds without a better validation that end an arm
  seeds: Seeds  # of the heads; a round is drawn for their mean
  validation: Block  # real images that end an arm
  test: Block | None = None  # real images, opened once, at the end


FIELDS = Practice


class Round(NamedTuple):
  """What an arm has learned after so many rounds."""

  arm: str
  number: int
  num_images: int
  heads: dict[int, Head]  # by seed
  validation: float  # accuracy, the mean of the heads'

  @property
  def label(self) -> str:
    """Names the round in results and files."""
    return f"{self.arm}, round {self.number}"


class Tools(NamedTuple):
  """What every round uses."""

  fields: Practice
  spec: dict[str, Any]  # of the task
  folder: epath.Path
  prompts: Any
  generator: Generator
  encoder: Encoder
  about: dict[str, Any]  # the encoder, as `heads.save` takes it
  zero_shot: Head
  classes: Sequence[str]


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that images are there to begin with."""
  schema.read(Practice, config.practice, "config.practice")
  with gathered() as attempt:
    attempt(check_texts, config.space, config.encoder.to_dict())
    attempt(artifacts.check_complete, workdir, INPUTS, planned=config.tasks)
    attempt(check_generator, **config.generator.to_dict())
    space = spaces.load_space(config.space)
    for split, block in real_images.splits_of(
      config.practice.to_dict()
    ).items():
      attempt(real_images.check_real, block, space, f"config.practice.{split}")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`, `heads.safetensors`, and a folder of each round."""
  fields = schema.read(Practice, config.practice, "config.practice")
  block, workdir = config.practice.to_dict(), epath.Path(workdir)
  folder, space = workdir / "practice", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  generator = load_generator(**config.generator.to_dict())
  if not (generator.guided and encoder.network and encoder.network.of_floats):
    raise UserError(
      f"config.generator.name={config.generator.name!r} cannot be guided by a "
      f"head of config.encoder.name={config.encoder.name!r}: choose `flux2`, "
      "`glide` or `stable_diffusion`, and `clip` or `siglip`."
    )
  splits = real_images.splits_of(block)
  spec = feature_sets.specification(
    "practice", block, workdir, encoder, space, INPUTS
  )
  spec["generator"] = generator.identity
  feature_sets.check_scores(workdir, encoder, space)
  if artifacts.begin(folder, spec):
    return
  opened, files = {}, {}

  def open_real(name):
    opened[name], rows = feature_sets.encode_real(
      splits[name], space, encoder, folder
    )
    files.update(rows)

  open_real("validation")
  scored = feature_sets.read_scored(workdir, filtered=True)
  tools = Tools(
    fields,
    spec,
    folder,
    strategies.open_prompts(workdir / "prompts" / strategies.FILE),
    generator,
    encoder,
    {"config": config.encoder.to_dict(), "identity": encoder.identity},
    scored.zero_shot,
    space.class_names,
  )
  kept = scored.kept
  start = scored.images.features[kept], scored.images.labels[kept]
  rounds = []
  for scale in fields.scales:
    rounds += practise(tools, scale, start, opened["validation"])

  # Nothing is trained for, or chosen by, what is opened from here on.
  if "test" in splits:
    open_real("test")
  measured = [
    (
      {
        "arm": each.label,
        "round": each.number,
        "num_images": each.num_images,
        "seed": seed,
      },
      head,
    )
    for each in rounds
    for seed, head in each.heads.items()
  ]
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    **arms.compare(
      lambda head, features: np.asarray(head(features)),
      scored.zero_shot,
      measured,
      {name: opened[name] for name in splits},
      len(space.classes),
    ),
  }
  files |= heads.save(
    folder,
    scored.zero_shot,
    {each.label: each.heads for each in rounds},
    space.class_names,
    tools.about,
  )
  files |= accuracy.write(folder, results)
  best_first = sorted(rounds, key=lambda each: -each.validation)
  artifacts.finish(
    folder,
    spec,
    files,
    summary=results["summary"],
    learned=[each.label for each in best_first],
  )
  print(arms.table(results), flush=True)


def practise(
  tools: Tools, scale: float, start: Features, validation: Features
) -> list[Round]:
  """Learns, and draws for what was learned, until validation stalls.

  Args:
    tools: what every round uses.
    scale: of the guidance; 0 draws without.
    start: of the images that the first head learns from.
    validation: of the images that end it.

  Returns:
    The rounds; the first one has drawn nothing.
  """
  fields = tools.fields
  arm = f"guided {scale:g}" if scale else "unguided"
  features, labels = start
  rounds: list[Round] = []
  for number in range(fields.max_rounds + 1):
    if number:
      folder = tools.folder / arm.replace(" ", "-") / f"round-{number}"
      drawn = _draw_round(tools, folder, number, scale, rounds[-1].heads)
      features = np.concatenate([features, drawn[0]])
      labels = np.concatenate([labels, drawn[1]])
    learned = {
      seed: linear_head.learn((features, labels), tools.zero_shot, fields, seed)
      for seed in fields.seeds
    }
    right = [
      accuracy.top1(np.asarray(head(validation[0])), validation[1])
      for head in learned.values()
    ]
    mean = float(np.mean(right))
    rounds.append(Round(arm, number, len(labels), learned, mean))
    say(
      f"practice: {arm}, round {number}: {len(labels):,} images, "
      f"{mean:.1%} of the validation images"
    )
    if has_stalled([x.validation for x in rounds], fields.patience):
      break
  return rounds


def has_stalled(values: Sequence[float], patience: int) -> bool:
  """Returns whether so many values came after the first of the best."""
  return len(values) - 1 - int(np.argmax(values)) >= patience


# --- a round ------------------------------------------------------------------


def _draw_round(
  tools: Tools,
  folder: epath.Path,
  number: int,
  scale: float,
  learned: dict[int, Head],
) -> Features:
  """Draws the images of a round, or goes on, or reads what is there.

  Those are kept of which the zero-shot classifier believes their class more
  than a guess: what makes any classifier unsure is often of no class.
  """
  fields = tools.fields
  spec = {"practice": tools.spec, "scale": scale, "round": number}
  is_done = artifacts.begin(folder, spec)
  path, written = folder / heads.HEADS, {heads.HEADS: 1 + len(learned)}
  if not path.exists():
    trained = {_LEARNER: learned}
    heads.save(folder, tools.zero_shot, trained, tools.classes, tools.about)
  if not is_done:
    generator = tools.generator
    if scale:
      head = heads.load(path, arm=_LEARNER).head
      generator = generator.guided(learner(tools.encoder, head, scale))
    blocks = plan.plan(
      tools.prompts,
      seeds=(-number,),  # which no other images have
      images_per_class=fields.images_per_class,
    )
    written |= filling.fill(
      folder,
      plan.rows_of(blocks),
      generator,
      name=filling.NAME,
      shard_size=fields.shard_size,
      encode=codecs.encode_png,
    )
  (features, labels), files = feature_sets.encode_rows(
    shards.open_shards(folder), tools.encoder, folder, kind="drawn"
  )
  if not is_done:
    artifacts.finish(folder, spec, written | files)
  p = np.asarray(jax.nn.softmax(tools.zero_shot(features)))
  p_own = p[np.arange(len(labels)), labels]
  passes = filters.beats_chance(p_own, len(tools.classes))
  return features[passes], labels[passes]


def learner(encoder: Encoder, head: Head, scale: float) -> Learner:
  """Returns a head on an encoder's features as what guides a generator."""
  network = encoder.network
  side = network.image_size

  def logits(variables, images):
    shape = len(images), side, side, 3
    pixels = jax.image.resize(images, shape, "bicubic")
    return variables["head"](network.of_floats(variables["encoder"], pixels))

  variables = {"encoder": network.variables, "head": head}
  identity = {"encoder": encoder.identity, "scale": scale}
  return Learner(logits, variables, scale, identity)
