"""Pre-training: its block, the arms of one run, and the objectives by name."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

from synthjax.config import schema
from synthjax.config.schema import Block, Blocks, Count, Flag, Seeds
from synthjax.runtime.artifacts import file_stem
from synthjax.runtime.errors import UserError
from synthjax.training import recipes
from synthjax.training.loop import Objective
from synthjax.training.monitor import Knn, Monitor
from synthjax.training.recipes import Recipe

# Each is a `Pretraining` with the fields of its own, flat in the block.
OBJECTIVES = {
  "supervised": "synthjax.training.supervised:Supervised",
  "moco": "synthjax.training.moco:Moco",
  "multi_positive": "synthjax.training.multi_positive:MultiPositive",
}
BLOCK = schema.Choice("objective", OBJECTIVES, default="supervised")

# All arms of a run share the images, what they are measured on, and the seeds,
# by which they are paired.
COMMON = ("arms", "seeds", "strategy", "filter", "validation", "test")
ALONE = "backbone"  # the name of the only arm of a run without `arms`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretraining(Recipe):
  """Fields of the block `pretrain` for every objective."""

  model: Block  # its name, and the sizes that shall differ
  seeds: Seeds  # one training each
  objective: str = "supervised"  # a key of OBJECTIVES, or a dotted path
  init: str | None = None  # weights to start from, but for the head
  strategy: str | None = None  # of the prompts; None takes the images of all
  filter: Flag = False  # takes only the images that `select` has kept
  num_classes: Count | None = None  # trains on the first so many
  images_per_class: Count | None = None  # trains on so many
  repeats: Count = 1  # of each image within a batch, as DeiT's augmentation
  per_prompt: Count | None = None  # images of each prompt within a batch
  arms: Blocks | None = None  # several trainings: a name, and what differs
  validation: Block | None = None  # real images to measure on
  test: Block | None = None  # real images, opened once, at the end
  monitor: Monitor | None = None  # measures on `validation` meanwhile

  def make_objective(
    self,
    make_model: Callable[..., Any],
    *,
    num_classes: int,
    tx: optax.GradientTransformation,
  ) -> Objective:
    """Returns the objective of these fields.

    Args:
      make_model: (num_classes=, **fields of the model) -> module.
      num_classes: of the labels.
      tx: the optimizer.
    """
    raise NotImplementedError

  def pools(self) -> dict[str, Block]:
    """Returns the real images that probes learn from, by their field."""
    pool = self.monitor.pool if self.monitor else None
    return {"monitor.pool": pool} if pool else {}

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    splits = {"validation": self.validation, "test": self.test}
    splits = {name: block for name, block in splits.items() if block}
    if self.num_classes and splits:
      yield (
        f"num_classes leaves classes out, but {', '.join(splits)} may show "
        "them: leave it out, too"
      )
    if self.per_prompt and self.repeats > 1:
      yield (
        f"repeats={self.repeats} of an image, and per_prompt="
        f"{self.per_prompt} images of a prompt: give one of them"
      )
    if self.per_prompt and self.batch_size % self.per_prompt:
      yield (
        f"batch_size={self.batch_size} is no multiple of per_prompt="
        f"{self.per_prompt}; change one of them"
      )
    if self.monitor and not self.validation:
      yield (
        "monitor measures on held-out real images: give validation, such as "
        "dict(split='validation'); test is opened at the end alone"
      )
    for field, pool in self.pools().items():
      for split in [name for name, block in splits.items() if block == pool]:
        yield (
          f"{field} and {split} are the same images, {pool}, and each would "
          "be its own neighbour: choose another split for one of them"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolKnn(Knn):
  """The block `knn`: a vote that stands in for a classifier."""

  num_images: Count = 50_000  # of the pool, at most
  pool: Block | None = None  # real images that vote, not the generated ones


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutLabels(Pretraining):
  """Fields of an objective without a classifier, measured by neighbours."""

  knn: PoolKnn = PoolKnn()

  def pools(self) -> dict[str, Block]:
    pools = {"knn.pool": self.knn.pool} if self.knn.pool else {}
    return super().pools() | pools


def fields() -> Any:
  """Returns the schema of the fields that some objective has."""
  blocks = (schema.resolve(name, OBJECTIVES) for name in OBJECTIVES)
  return functools.reduce(operator.or_, blocks)


def blocks_of(block: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the block of each arm by its name, its recipe filled in.

  Args:
    block: `pretrain`. Its `arms` list the fields that differ, with a `name`;
      without them there is one arm, ALONE.

  Raises:
    UserError: about names that are missing or share files, and fields that all
      arms must share.
  """
  common = {k: v for k, v in block.items() if k != "arms"}
  arms = block.get("arms")
  arms = [{"name": ALONE}] if arms is None else arms
  is_tuple = isinstance(arms, list | tuple) and len(arms) > 0
  if not is_tuple or not all(isinstance(arm, Mapping) for arm in arms):
    raise UserError(f"config.pretrain.arms={arms!r}: needed blocks of fields")
  arms = [dict(arm) for arm in arms]
  names, problems = [arm.pop("name", None) for arm in arms], []
  stems = [file_stem(name) if isinstance(name, str) else "" for name in names]
  if "random" in names:
    problems.append("'random' is the name that `transfer` has for no weights")
  if not all(stems):
    problems.append(f"every arm needs a name of its own; found {names}")
  elif len({*stems}) < len(names):
    problems.append(f"two arms would share files; their names are {names}")
  for name, arm in zip(names, arms, strict=True):
    if shared := sorted(arm.keys() & {*COMMON}):
      problems.append(
        f"{name!r} has {', '.join(shared)}, which all arms share: leave it out"
      )
  if problems:
    raise UserError(f"config.pretrain.arms: {'; '.join(problems)}.")
  return {
    name: recipes.fill(common | arm)
    for name, arm in zip(names, arms, strict=True)
  }


def read(blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, Pretraining]:
  """Reads the blocks of arms that `blocks_of` returns.

  Raises:
    UserError: listing every problem of every arm, one a line.
  """
  arms, lines = {}, []
  for name, block in blocks.items():
    where = "config.pretrain" + ("" if name == ALONE else f".arms[{name!r}]")
    others = _of_other_objectives(block)
    for field, owners in others.items():
      if block[field] not in (None, 0):
        lines.append(
          f"{where}.{field} is a field of objective={' and '.join(owners)} "
          "alone: leave it out, or choose such an objective"
        )
    arms[name] = {k: v for k, v in block.items() if k not in others}
    lines += schema.problems(BLOCK, arms[name], where)
  if lines:
    raise UserError("\n".join(lines))
  return {n: schema.read(BLOCK, b, "config.pretrain") for n, b in arms.items()}


def _of_other_objectives(block: Mapping[str, Any]) -> dict[str, list[str]]:
  """Returns the fields that this objective lacks, with those that have them."""
  fields_of = lambda name: {
    field.name for field in dataclasses.fields(schema.resolve(name, OBJECTIVES))
  }
  chosen = block.get("objective") or BLOCK.default
  if not isinstance(chosen, str) or chosen not in OBJECTIVES:
    return {}
  owners = {
    field: [repr(name) for name in OBJECTIVES if field in fields_of(name)]
    for field in block.keys() - fields_of(chosen)
  }
  return {field: owners[field] for field in sorted(owners) if owners[field]}


def label_of(seed: int, arm: str = ALONE) -> str:
  """Returns the label of a seed of an arm, which its files start with."""
  return f"{file_stem(arm)}-s{seed}"


def real_images(arms: Iterable[Pretraining]) -> list[tuple[str, Block]]:
  """Returns the blocks of real images that arms name, each once.

  Each has the name of its field, such as "monitor.pool".
  """
  named = []
  for arm in arms:
    blocks = {"validation": arm.validation, "test": arm.test} | arm.pools()
    named += [item for item in blocks.items() if item[1]]
  return [item for i, item in enumerate(named) if item not in named[:i]]
