"""Tunes CLIP's image encoder together with its classifier, or a part of it.

For what stored features cannot show: what BatchNorm does to tuning (Table 6 of
the paper), and how much of the encoder to tune (Table 3).
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.adapt.linear_head import Head, logits_fn
from synthjax.adapt.lora import LoRA
from synthjax.adapt.soft_targets import mixed_cross_entropy
from synthjax.config.schema import (
  Block,
  Count,
  Flag,
  NotNegative,
  Positive,
  Seeds,
  Share,
  Text,
  Whole,
  one_of,
  unique_names,
)
from synthjax.encoders import clip as encoders_clip
from synthjax.encoders.two_towers import FAMILIES, Family, family_of
from synthjax.evals.arms import ZERO_SHOT
from synthjax.runtime import mesh as meshes
from synthjax.training.loop import Objective
from synthjax.training.optimizer import OPTIMIZER
from synthjax.training.run import HostLoop
from synthjax.weights import files

# "frozen" normalises by the running statistics, which stay as they are;
# "batch" by those of the batch, and updates the running ones.
BATCH_NORMS = ("frozen", "batch")

HEAD = "head"  # the rung of the classifier


@dataclass(frozen=True, kw_only=True)
class Arm:
  """What is tuned, and on what."""

  name: Text
  data: Annotated[str, one_of(("real", "synthetic", "mix"))]
  up_to: Text | None = None  # the last rung of `ladder` that is tuned
  batch_norm: Annotated[str, one_of(BATCH_NORMS)] | None = None
  lr: NotNegative | None = None  # None: the optimizer's
  batch_size: Count | None = None  # None: that of all arms
  # Low-rank updates in place of a part: `batch_size` images of each kind.
  lora: LoRA | None = None

  def problems(self) -> Iterable[str]:
    part = [name for name in ("up_to", "batch_norm") if getattr(self, name)]
    if self.lora and part:
      yield f"the arm {self.name!r} has lora: leave out {' and '.join(part)}"
    if not self.lora and len(part) < 2:
      yield (
        f"the arm {self.name!r} needs what it tunes: up_to and batch_norm, or "
        "lora"
      )
    if not self.lora and self.data == "mix":
      yield (
        f"the arm {self.name!r} has data='mix', which is of arms with lora "
        "alone: choose 'real' or 'synthetic'"
      )


@dataclass(frozen=True, kw_only=True)
class TuneEncoder(HostLoop):
  """The block `config.tune_encoder`."""

  arms: Annotated[tuple[Arm, ...], unique_names(ZERO_SHOT)]
  seeds: Seeds  # of the shots, and of the order of the images
  epochs: Positive
  batch_size: Count
  optimizer: Annotated[Any, OPTIMIZER]
  test: Block  # real images, opened once, at the end
  pool: Block | None = None  # real images of the shots of data="real"
  # Images of each class; "all" takes the whole pool.
  shots: Count | Annotated[str, one_of(("all",))] | None = None
  strategy: Text | None = None  # of the images of data="synthetic"
  filter: Flag = False  # of those, takes only what `select` has kept
  log_every: Whole = 20  # steps between rows of metrics; 0: the last step
  soft_weight: Share = 0.5  # of the teacher, for generated images: the SCE
  temperature: Positive = 2.0  # of the teacher
  remat: Flag = False  # computes activations again, which saves memory

  @property
  def num_shots(self) -> int | None:
    """The real images of each class; None is all, as `few_shot.draw` has it."""
    return None if self.shots == "all" else self.shots

  def problems(self) -> Iterable[str]:
    real = [arm.name for arm in self.arms if arm.data in ("real", "mix")]
    if real and not (self.pool and self.shots):
      yield f"needs pool and shots for the arms {real}, which learn real images"
    lora = [arm.name for arm in self.arms if arm.lora]
    if lora and not self.num_shots:
      yield f"needs a number of shots for the steps of the arms {lora}"


# --- the image encoder -------------------------------------------------------


class Tower(NamedTuple):
  """An image encoder to tune."""

  module: Any
  variables: dict[str, Any]  # of it
  image_size: int  # px
  family: Family = encoders_clip.FAMILY
  fields: Mapping[str, Any] | None = None  # of both towers


def load_tower(
  weights: str, *, dtype: str = "float32", remat: bool = False
) -> Tower:
  """Loads the image tower of a CLIP, or of another of FAMILIES.

  Args:
    weights: as `load` of the encoder takes them.
    dtype: of the activations.
    remat: computes activations again for the gradients, which saves memory.

  Raises:
    UserError: about missing weights.
  """
  path = files.locate(weights, field="encoder.weights", family=[*FAMILIES])
  family = family_of(files.read_description(path)["kind"])
  _, variables, description = family.load_weights(os.fspath(path))
  fields = {"dtype": jnp.dtype(dtype), "remat": remat}
  whole = family.towers(**description["model"] | fields)
  return Tower(
    family.image_tower(whole),
    {name: value["visual"] for name, value in variables.items()},
    whole.image_size,
    family,
    description["model"],
  )


def fit(
  example: Any,
  rng: np.random.Generator,
  *,
  size: int,
  fit_image: Callable[[np.ndarray, int], np.ndarray],
) -> Any:
  """Resizes as the family of an encoder does."""
  del rng
  return example | {"image": fit_image(example["image"], size)}


def encode(
  tower: Tower, variables: Any, images: jax.Array, train: bool
) -> tuple[jax.Array, Any]:
  """Encodes uint8 images [n, s, s, 3] of the tower's size.

  Returns:
    Features float32 [n, d] and the new `batch_stats`, which are those of
    `variables` unless `train`, and empty where there are none.
  """
  features, updated = tower.module.apply(
    variables,
    tower.family.preprocess(images),
    train=train,
    mutable=["batch_stats"],
  )
  return features, updated.get("batch_stats", {})


def predictor(tower: Tower, batch_size: int = 256) -> Callable:
  """Returns a function of an encoder and its head, and images.

  It maps a dict of `encoder` (variables of the tower) and `head`, and a source
  of m rows with uint8 `image` [h, w, 3], to logits float32 [m, k].
  """

  @jax.jit
  def predict(state, images):
    # As encoders measure, so that tuned and untuned towers compare.
    with jax.default_matmul_precision("highest"):
      features, _ = encode(tower, state["encoder"], images, False)
      return logits_fn(state["head"], features)

  def logits(state, source):
    def outputs():
      for first in range(0, len(source), batch_size):
        rows = range(first, min(first + batch_size, len(source)))
        fit_image, size = tower.family.fit_image, tower.image_size
        images = [fit_image(source[i]["image"], size) for i in rows]
        # The last batch is filled up, so that one shape is compiled.
        images += [images[0]] * (batch_size - len(images))
        yield predict(state, np.stack(images)), len(rows)

    done = meshes.fetch_ahead(outputs())
    return np.concatenate([rows[:count] for rows, count in done])

  return logits


# --- its parts ---------------------------------------------------------------


def ladder(encoder_params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
  """Orders an encoder's parts from its output to its input.

  Args:
    encoder_params: of a ResNet with the parts `conv*`, `bn*`, `layer<i>_<j>`
      and `attnpool`.

  Returns:
    rung -> names of its parts: "head", "attnpool", "layer4", ..., "stem".
  """
  stages = sorted(
    {name.split("_")[0] for name in encoder_params if name.startswith("layer")},
    reverse=True,
  )
  rungs = {HEAD: (HEAD,)}
  if "attnpool" in encoder_params:
    rungs["attnpool"] = ("attnpool",)
  for stage in stages:
    parts = sorted(n for n in encoder_params if n.split("_")[0] == stage)
    rungs[stage] = tuple(parts)
  listed = {name for parts in rungs.values() for name in parts}
  rungs["stem"] = tuple(sorted(set(encoder_params) - listed))
  return rungs


def parts_up_to(encoder_params: Mapping[str, Any], rung: str) -> list[str]:
  """Returns the names of the parts from the head to a rung of `ladder`."""
  rungs = ladder(encoder_params)
  last = [*rungs].index(rung)
  return [name for parts in [*rungs.values()][: last + 1] for name in parts]


def share_tuned(params: Mapping[str, Any], tuned: Sequence[str]) -> float:
  """Returns the share of all parameters, head included, that is in `tuned`."""
  parts = {HEAD: params[HEAD], **params["encoder"]}
  size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
  return sum(size(parts[name]) for name in tuned) / size(parts)


# --- training ----------------------------------------------------------------


@flax.struct.dataclass
class TunedState:
  """All that changes in training, and the teacher that does not."""

  step: jax.Array  # []
  params: Any  # "encoder": nested dicts, and "head": a Head
  batch_stats: Any  # of the encoder; empty where it has no BatchNorm
  teacher: Head
  opt_state: optax.OptState


def encoder_tuning(
  tower: Tower,
  head: Head,
  tx: optax.GradientTransformation,
  *,
  tuned: Sequence[str],
  batch_norm: str,
  soft_weight: float,
  temperature: float,
) -> Objective:
  """Returns the objective of tuning parts of an encoder and its head.

  A batch holds uint8 `image` [n, s, s, 3] of the tower's size and `label` int
  [n].

  Args:
    tower: with the variables to start from.
    head: to start from; it is also the teacher, on the same features.
    tx: the optimizer of the parts that are tuned.
    tuned: names of parts: "head", or entries of the encoder's parameters.
    batch_norm: one of BATCH_NORMS.
    soft_weight: of the teacher's targets; 0 is plain cross entropy.
    temperature: of the teacher.

  Raises:
    ValueError: about an unknown batch_norm or part.
  """
  if batch_norm not in BATCH_NORMS:
    raise ValueError(f"batch_norm={batch_norm!r} is not one of {BATCH_NORMS}.")
  encoder = tower.variables
  parts = {HEAD, *encoder["params"]}
  if unknown := sorted(set(tuned) - parts):
    raise ValueError(
      f"There are no parts {unknown}; there are {sorted(parts)}."
    )
  tx = optax.multi_transform(
    {True: tx, False: optax.set_to_zero()},
    lambda params: {
      "encoder": {
        name: jax.tree.map(lambda _, name=name: name in tuned, value)
        for name, value in params["encoder"].items()
      },
      HEAD: jax.tree.map(lambda _: HEAD in tuned, params[HEAD]),
    },
  )
  train = batch_norm == "batch"

  def init(rng, batch):
    del rng, batch  # nothing is drawn
    # Copies, as a donated state must not hold one buffer twice.
    copy = lambda tree: jax.tree.map(jnp.array, tree)
    params = {"encoder": copy(dict(encoder["params"])), HEAD: copy(head)}
    stats = copy(encoder.get("batch_stats", {}))
    return TunedState(jnp.array(0), params, stats, copy(head), tx.init(params))

  def step(state, batch, rng):
    del rng  # all randomness is in the batch

    def loss_fn(params):
      variables = {"params": params["encoder"]}
      if state.batch_stats:
        variables["batch_stats"] = state.batch_stats
      features, stats = encode(tower, variables, batch["image"], train)
      logits = logits_fn(params[HEAD], features)
      losses = mixed_cross_entropy(
        logits,
        logits_fn(state.teacher, features),
        batch["label"],
        soft_weight=soft_weight,
        temperature=temperature,
      )
      return losses.mean(), (logits, stats)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, stats)), grads = grad_fn(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    state = state.replace(
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      batch_stats=stats if train else state.batch_stats,
      opt_state=opt_state,
    )
    top1 = jnp.mean(logits.argmax(-1) == batch["label"])
    return state, {"loss": loss, "top1": top1}

  return Objective(init, step)
