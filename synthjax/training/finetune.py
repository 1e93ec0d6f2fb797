"""The fields of config.transfer, and starts from weights with a fresh head."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.config import schema
from synthjax.config.schema import Block, Count, Pairs, Rule, Seeds, Shots
from synthjax.evals import accuracy
from synthjax.runtime.artifacts import file_stem
from synthjax.runtime.errors import UserError
from synthjax.training import recipes
from synthjax.training.loop import Objective
from synthjax.training.optimizer import SEARCHED_OPTIMIZER
from synthjax.training.supervised import Labelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetuning(Labelled):
  """How a start is trained; `inits` may give each start its own values.

  The rest of the fields is in `supervised.Labelled`, `recipes.Recipe` and
  `run.HostLoop`, which it extends.
  """

  optimizer: Annotated[Any, SEARCHED_OPTIMIZER]
  method: Literal["finetune", "linear"] = "finetune"  # or the head alone
  repeats: Count = 1  # of each image within a batch, as DeiT's augmentation

  @property
  def rates(self) -> tuple[float, ...]:
    """The learning rates to choose from."""
    lr = self.optimizer.keywords["lr"]
    return lr if isinstance(lr, tuple) else (lr,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inits:
  """The initialisations, each with the fields of its own training."""

  random: Block | None = None
  pretrained: Block | None = None  # every arm of `pretrain`, by its name

  def problems(self) -> Iterable[str]:
    if self.random is None and self.pretrained is None:
      yield "there is nothing to train: give random, pretrained, or both"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer(Finetuning):
  """The block `transfer`, for one of its initialisations."""

  train: Block  # real images: the pool of the shots; see data.real
  test: Block  # real images, opened once, at the end
  inits: Inits
  shots: Shots  # of each class, several; None takes the whole pool
  seeds: Seeds  # of the shots, the head and the order of the batches
  validation: Block | None = None  # chooses between several learning rates
  space: str | None = None  # of the real images, if not config.space
  model: Block | None = None  # if not config.pretrain.model
  weights: str | None = None  # of the backbone, if not those of `pretrain`
  compare: Pairs = ()  # of starts, besides all with "random"
  # Share of a side that measuring keeps: it resizes the image to more, and cuts
  # out the middle. ImageNet's usual 224 of 256 are 0.875.
  crop: Annotated[float, Rule(lambda x: 0 < x <= 1, "above 0, at most 1")] = 1.0

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    for name in ("train", "validation"):
      if getattr(self, name) == self.test:
        yield (
          f"{name} and test are the same images, {self.test}: choose another "
          "split for one of them"
        )
    if len(self.rates) > 1 and not self.validation:
      yield (
        f"it lists {len(self.rates)} learning rates, but no `validation` "
        "images to choose by. Give some, or one rate: the test images are not "
        "for choosing"
      )


_names = lambda cls: {field.name for field in dataclasses.fields(cls)}
# The fields that all initialisations share.
_COMMON = _names(Transfer) - _names(Finetuning) | {"image_size", "fsdp"}


def read(block: Mapping[str, Any]) -> dict[str, Transfer]:
  """Reads the block `transfer`.

  Returns:
    The fields of each initialisation, in the order of `Inits`: the common ones,
    its own, and those of its recipe.

  Raises:
    UserError: listing every problem.
  """
  inits, trainings, lines = block.get("inits"), {}, []
  if schema.problems(Inits, inits, "config.transfer.inits"):
    inits = {"": {}}  # `inits` is reported along with the common fields
  for name in [
    name for name in ("random", "pretrained", "") if inits.get(name) is not None
  ]:
    own = inits[name]
    where = "config.transfer" + (f".inits.{name}" if own else "")
    if shared := sorted(own.keys() & _COMMON):
      lines.append(f"{where} has {', '.join(shared)}, which all of them share")
    fields = recipes.fill(_merge(block, own))
    lines += schema.problems(Transfer, fields, where)
    trainings[name] = where, fields
  if lines:
    raise UserError("\n".join(dict.fromkeys(lines)))
  return {
    name: schema.read(Transfer, fields, where)
    for name, (where, fields) in trainings.items()
  }


def _merge(block: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the common fields and those of an initialisation, which win."""
  fields = {**block, **own}
  optimizers = [x.get("optimizer") for x in (block, own)]
  if all(isinstance(x, Mapping) for x in optimizers):
    fields["optimizer"] = {**optimizers[0], **optimizers[1]}
  return fields


def start_from(
  objective: Objective,
  variables: Mapping,
  *,
  heads: Collection[str],
) -> Objective:
  """Returns the objective with another start: a backbone and a fresh head.

  Args:
    objective: any whose state is a dataclass; its `average` starts as a copy
      of what is `trained`.
    variables: `params` and `batch_stats` of the same model, possibly for other
      classes: the head that they hold is not used. The positions of a ViT are
      those of the images' size: see `vit.model.resize_positions`.
    heads: names of the submodules that are drawn anew.

  Raises:
    UserError: when compiled, listing what does not fit the model.
  """

  def init(rng, batch):
    state = objective.init(rng, batch)
    fresh = getattr(state, objective.trained)
    merged = replace_backbone(fresh, variables, heads=heads)
    changed, average = {objective.trained: merged}, objective.average
    if average and getattr(state, average) is not None:
      changed[average] = jax.tree.map(jnp.copy, merged)
    # The optimizers of this package start from zeros, whatever the weights.
    return dataclasses.replace(state, **changed)

  return objective._replace(init=init)


def replace_backbone(
  fresh: Mapping, variables: Mapping, *, heads: Collection[str]
) -> dict[str, Any]:
  """Returns `variables` with the head of `fresh`.

  Args:
    fresh: variables of the model to train.
    variables: of the same model, with whatever head or none.
    heads: names of the head's submodules.

  Raises:
    UserError: listing every array that is missing, unused or misshapen.
  """
  want = traverse_util.flatten_dict(dict(fresh))
  have = traverse_util.flatten_dict(dict(variables))
  is_head = lambda path: path[1] in heads
  problems = []
  for path in sorted(want.keys() | have.keys()):
    if is_head(path):
      continue
    given, needed = (
      np.shape(tree[path]) if path in tree else None for tree in (have, want)
    )
    if given != needed:
      problems.append(
        f"{'/'.join(path)}: the weights have {given}, the model needs {needed}"
      )
  if problems:
    listed = "\n  ".join(problems[:20])
    raise UserError(
      f"The backbone does not fit the model in {len(problems)} places:\n  "
      f"{listed}\nGive the model that was pre-trained, or its own weights."
    )
  merged = {
    path: value if is_head(path) else jnp.asarray(have[path])
    for path, value in want.items()
  }
  return traverse_util.unflatten_dict(merged)


# --- accuracies of finetuning runs, by their starts --------------------------


class Run(NamedTuple):
  """One finetuning."""

  init: str
  shots: int | None
  lr: float
  seed: int

  def label(self) -> str:
    """Returns the label of the run, which its files start with."""
    shots = "all" if self.shots is None else self.shots
    return f"{file_stem(self.init)}-{shots}shots-lr{self.lr:g}-s{self.seed}"


def choose(
  runs_of: dict[tuple, list[Run]], validation: dict[Run, float]
) -> list[Run]:
  """Returns, for each initialisation and shots, the runs of the best rate.

  Args:
    runs_of: (initialisation, shots, learning rate) -> runs of all seeds.
    validation: accuracies; needed where there are several rates. The best rate
      has the highest mean over the seeds; the first of equal ones counts.
  """
  best = {}
  for (init, shots, _), same in runs_of.items():
    score = np.mean([validation.get(run, 0.0) for run in same])
    if (init, shots) not in best or score > best[init, shots][0]:
      best[init, shots] = score, same
  return [run for _, same in best.values() for run in same]


def summarize(
  tested: dict[Run, float],
  validation: dict[Run, float],
  *,
  compare: Sequence[Sequence[str]] = (),
) -> dict[str, list[dict]]:
  """Returns the rows, their summary, and the paired differences.

  Args:
    tested: test accuracies of the chosen runs.
    validation: validation accuracies of all runs, or none.
    compare: pairs of initialisations to compare, besides all with "random".
  """

  groups = {}
  for run, top1 in tested.items():
    groups.setdefault((run.init, run.shots), {})[run.seed] = top1
  rates = {(run.init, run.shots): run.lr for run in tested}
  inits = dict.fromkeys(init for init, _ in groups)
  pairs = [(init, "random") for init in inits if init != "random"]
  differences = [
    {"init": init, "reference": reference, "shots": shots}
    | accuracy.paired_difference(
      list(groups[init, shots].values()),
      list(groups[reference, shots].values()),
    )._asdict()
    for init, reference in (*pairs, *map(tuple, compare))
    for shots in dict.fromkeys(shots for _, shots in groups)
    if (init, shots) in groups and (reference, shots) in groups
  ]
  return {
    "rows": [
      run._asdict()
      | {"accuracy": top1}
      | ({"validation": validation[run]} if run in validation else {})
      for run, top1 in tested.items()
    ],
    "summary": [
      {"init": init, "shots": shots, "lr": rates[init, shots]}
      | accuracy.summarize(list(by_seed.values()))._asdict()
      for (init, shots), by_seed in groups.items()
    ],
    "differences": differences,
    "search": [
      run._asdict() | {"validation": top1} for run, top1 in validation.items()
    ],
  }


def table(results: dict) -> str:
  """Returns the summary and the differences as lines for a person."""
  percent = lambda x: "  -  " if x is None else f"{100 * x:5.1f}"
  shots_of = lambda row: "all" if row["shots"] is None else row["shots"]
  width = max([12, *(len(row["init"]) + 1 for row in results["summary"])])
  lines = [
    f"  {row['init']:<{width}}{shots_of(row):>5} shots: "
    f"{percent(row['mean'])} % (std {percent(row['std'])}, "
    f"{row['n']} seeds, lr {row['lr']:g})"
    for row in results["summary"]
  ]
  lines += [
    f"  {row['init']} - {row['reference']}, {shots_of(row)} shots: "
    f"{100 * row['mean']:+5.1f} points "
    f"(std. error of the paired difference {percent(row['stderr'])})"
    for row in results["differences"]
  ]
  return "\n".join(lines)
