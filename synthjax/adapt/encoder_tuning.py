"""Tunes an image encoder together with its classifier, or a part of it.

For what stored features cannot show: what BatchNorm does to tuning (Table 6 of
the paper), and how much of the encoder to tune (Table 3).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from synthjax.adapt.linear_head import Head, logits_fn
from synthjax.adapt.soft_targets import mixed_cross_entropy
from synthjax.runtime.errors import (
  BLOCK,
  BLOCK_LIST,
  COUNT,
  FLAG,
  NOT_NEGATIVE,
  POSITIVE,
  SEEDS,
  SHARE,
  TEXT,
  WHOLE,
  one_of,
)
from synthjax.training.loop import Objective

# (variables, images, train) -> features [n, d], and the new batch_stats.
Encode = Callable[[Any, jax.Array, bool], tuple[jax.Array, Any]]

# "frozen" normalises by the running statistics, which stay as they are;
# "batch" by those of the batch, and updates the running ones.
BATCH_NORMS = ("frozen", "batch")

HEAD = "head"  # the rung of the classifier


@flax.struct.dataclass
class TunedState:
  """All that changes in training, and the teacher that does not."""

  step: jax.Array  # []
  params: Any  # "encoder": nested dicts, and "head": a Head
  batch_stats: Any  # of the encoder; empty where it has no BatchNorm
  teacher: Head
  opt_state: optax.OptState


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


def share_tuned(params: Mapping[str, Any], tuned: Sequence[str]) -> float:
  """Returns the share of all parameters, head included, that is in `tuned`."""
  sizes = {
    name: sum(leaf.size for leaf in jax.tree.leaves(value))
    for name, value in _parts(params).items()
  }
  return sum(sizes[name] for name in tuned) / sum(sizes.values())


def encoder_tuning(
  encode: Encode,
  encoder: Mapping[str, Any],
  head: Head,
  tx: optax.GradientTransformation,
  *,
  tuned: Sequence[str],
  batch_norm: str = "frozen",
  soft_weight: float = 0.5,
  temperature: float = 2.0,
) -> Objective:
  """Returns the objective of tuning parts of an encoder and its head.

  A batch holds `image` [n, h, w, 3] as `encode` takes it and `label` int [n].

  Args:
    encode: applies the encoder.
    encoder: its variables to start from: params, and batch_stats if any.
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
  known = {HEAD, *encoder["params"]}
  if unknown := sorted(set(tuned) - known):
    raise ValueError(
      f"There are no parts {unknown}; there are {sorted(known)}."
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
      features, stats = encode(variables, batch["image"], train)
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


def _parts(params: Mapping[str, Any]) -> dict[str, Any]:
  return {HEAD: params[HEAD], **params["encoder"]}


# --- how an image encoder is tuned, from fields of plain data ----------------
# The fields are those of the task `tune_encoder`.

REQUIRED = {
  "arms": BLOCK_LIST,  # what is compared
  "seeds": SEEDS,  # of the shots, and of the order of the images
  "epochs": POSITIVE,
  "batch_size": COUNT,
  "optimizer": BLOCK,  # see train.recipe.make_optimizer
  "test": BLOCK,  # real images, opened once, at the end
}
OPTIONAL = {
  "pool": BLOCK,  # real images that the shots of data="real" are drawn from
  "shots": COUNT,  # of each class
  "strategy": TEXT,  # of the images of data="synthetic"
  "filter": FLAG,  # of those, takes only what `select` has kept
  "soft_weight": SHARE,  # of the teacher, for generated images; 0.5: the SCE
  "temperature": POSITIVE,
  "remat": FLAG,  # computes activations again, which saves memory
  "log_every": WHOLE,
  "checkpoint_every": COUNT,
}
KNOWN = REQUIRED | OPTIONAL
ARM_REQUIRED = {
  "name": TEXT,
  "data": one_of(("real", "synthetic")),
  "up_to": TEXT,  # the last rung of `encoder_tuning.ladder` that is tuned
  "batch_norm": one_of(BATCH_NORMS),
}
ARM = ARM_REQUIRED | {"lr": NOT_NEGATIVE}  # where it is not the optimizer's


class Arm(NamedTuple):
  """What is tuned, and on what."""

  name: str
  data: str
  up_to: str
  batch_norm: str
  lr: float | None = None
