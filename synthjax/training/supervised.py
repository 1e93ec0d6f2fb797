"""Supervised classification of images, with all statistics in the state."""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.config.schema import Arguments, BelowOne, Share
from synthjax.models.pixels import normalize
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.training import mixup
from synthjax.training.device_augment import Augment
from synthjax.training.loop import Objective
from synthjax.training.pretraining import Pretraining
from synthjax.training.recipes import Recipe

Mix = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(Recipe):
  """Fields of a training with labels."""

  label_smoothing: Share = 0.0
  mix: Annotated[Any, Arguments(mixup.mix, ("images", "rng"))] = None

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    if self.mix is not None and self.device_augment is None:
      yield "mix is of normalised images: give a device_augment, such as 'deit'"

  def supervised(
    self, model: Any, tx: optax.GradientTransformation, **options: Any
  ) -> Objective:
    """Returns `supervised` with these fields and other options."""
    return supervised(
      model,
      tx,
      label_smoothing=self.label_smoothing,
      augment=self.augmenter(),
      mix=self.mix,
      **options,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(Labelled, Pretraining):
  """Pre-training with objective="supervised": trains a classifier."""

  ema_decay: BelowOne | None = None

  def make_objective(
    self,
    make_model: Callable[..., Any],
    *,
    num_classes: int,
    tx: optax.GradientTransformation,
  ) -> Objective:
    model = make_model(num_classes=num_classes, **self.model)
    return self.supervised(model, tx, ema_decay=self.ema_decay)


@flax.struct.dataclass
class SupervisedState:
  """All that changes in training."""

  step: jax.Array  # []
  variables: Any  # params, and batch_stats where the model has BatchNorm
  ema: Any  # a running average of all variables; None without ema_decay
  opt_state: optax.OptState


def supervised(
  model: Any,
  tx: optax.GradientTransformation,
  *,
  label_smoothing: float = 0.0,
  ema_decay: float | None = None,
  augment: Augment = lambda images, rng: images,
  preprocess: Callable[[jax.Array], jax.Array] = normalize,
  mix: Mix | None = None,
  num_micro_batches: int = 1,
  trained: Collection[str] | None = None,
) -> Objective:
  """Returns the objective of cross entropy with labels.

  A batch holds `image` [n, h, w, 3], uint8 or normalised float, and `label`
  int [n], or in its place `target` [n, k], which sums to 1 over the classes.

  Args:
    model: with Flax's `init(rng, images, train=)` and `apply(variables, images,
      train=, mutable=, rngs=)` -> logits [n, k].
    tx: the optimizer.
    label_smoothing: share of the target spread over all k classes.
    ema_decay: of the running average of the variables; None keeps none. The
      first steps average over less: min(ema_decay, (1 + step) / (10 + step)).
    augment: (images, rng) -> images, on the device, such as of
      `device_augment.make_augment`; nothing by default.
    preprocess: images -> float32, after augmentation.
    mix: (images, rng) -> images and the share of each that is its own [n]; the
      rest is of the batch in reverse, and so are the targets. Last of all that
      changes images; see `mixup`.
    num_micro_batches: parts whose gradients are computed one after another
      and averaged: less memory. Without BatchNorm and dropout the step is that
      of the whole batch; BatchNorm sees one part at a time.
    trained: submodules that alone are trained, as in a linear probe; BatchNorm
      and drop path then are those of evaluation. None trains all.

  Raises:
    UserError: when compiled, about a batch that does not split into parts.
  """

  if trained is not None:
    label = lambda params: {k: k in trained for k in params}
    tx = optax.multi_transform({True: tx, False: optax.set_to_zero()}, label)

  def init(rng, batch):
    images = preprocess(augment(jnp.asarray(batch["image"][:1]), rng))
    variables = dict(model.init(rng, images, train=False))
    # A copy, as a donated state must not hold one buffer twice.
    ema = None if ema_decay is None else jax.tree.map(jnp.copy, variables)
    opt_state = tx.init(variables["params"])
    return SupervisedState(jnp.array(0), variables, ema, opt_state)

  def loss_fn(params, variables, part, rng):
    if trained is not None:
      frozen = jax.lax.stop_gradient(params)
      params = {k: (params if k in trained else frozen)[k] for k in params}
    logits, stats = model.apply(
      variables | {"params": params},
      part["image"],
      train=trained is None,
      mutable=["batch_stats"],
      rngs={"dropout": rng},
    )
    targets = _smooth(part["target"], logits.shape[-1], label_smoothing)
    if mix is not None:
      other = _smooth(part["other"], logits.shape[-1], label_smoothing)
      share = part["share"][:, None]
      targets = share * targets + (1 - share) * other
    loss = optax.softmax_cross_entropy(logits, targets).mean()
    top1 = jnp.mean(logits.argmax(-1) == targets.argmax(-1))
    return loss, ({"loss": loss, "top1": top1}, stats)

  grad_fn = jax.grad(loss_fn, has_aux=True)

  def step(state, batch, rng):
    augment_rng, dropout_rng = jax.random.split(rng)
    images = preprocess(augment(batch["image"], augment_rng))
    target = batch["target"] if "target" in batch else batch["label"]
    whole = {"image": images, "target": target}
    if mix is not None:
      images, share = mix(images, jax.random.fold_in(rng, 2))
      whole |= {"image": images, "share": share, "other": target[::-1]}
    params, variables = state.variables["params"], state.variables
    if num_micro_batches == 1:
      grads, (metrics, stats) = grad_fn(params, variables, whole, dropout_rng)
    else:
      grads, metrics, stats = _accumulate(
        grad_fn, variables, _split(whole, num_micro_batches), dropout_rng
      )
    updates, opt_state = tx.update(grads, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates)} | stats

    ema = state.ema
    if ema is not None:
      decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
      ema = optax.incremental_update(variables, ema, 1 - decay)
    state = SupervisedState(state.step + 1, variables, ema, opt_state)
    return state, metrics

  return Objective(
    init,
    step,
    trained="variables",
    weights=lambda s: s.variables if s.ema is None else s.ema,
  )


def _smooth(target: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
  """Returns targets [n, k] of labels [n]; those [n, k] stay as they are."""
  if target.ndim == 2:
    return target
  return optax.smooth_labels(jax.nn.one_hot(target, num_classes), smoothing)


def _split(batch: dict, parts: int) -> dict:
  """Splits all arrays [n, ...] of a batch into [parts, n / parts, ...].

  Part i holds the rows i, i + parts, ...: wherever a device has a run of rows,
  each part has an equal share of them.
  """
  n = len(batch["image"])
  if n % parts:
    near = [p for p in range(1, n + 1) if n % p == 0]
    raise UserError(
      f"A batch of {n} does not split into num_micro_batches={parts} parts; "
      f"choose one of {near}."
    )
  rows = lambda x: jnp.swapaxes(
    x.reshape(n // parts, parts, *x.shape[1:]), 0, 1
  )
  return jax.tree.map(rows, batch)


def _accumulate(
  grad_fn: Callable, variables: dict, parts: dict, rng: jax.Array
) -> tuple[Any, dict, dict]:
  """Returns the mean gradients and metrics of parts, and the last statistics.

  Args:
    grad_fn: (params, variables, part, rng) -> gradients, (metrics, stats).
    variables: of the model.
    parts: arrays [parts, n, ...].
    rng: part i draws from fold_in(rng, i).
  """
  num_parts = len(parts["image"])

  def one(carry, inputs):
    variables, total = carry
    i, part = inputs
    grads, (metrics, stats) = grad_fn(
      variables["params"], variables, part, jax.random.fold_in(rng, i)
    )
    total = jax.tree.map(jnp.add, total, grads)
    return (variables | dict(stats), total), metrics

  zeros = jax.tree.map(jnp.zeros_like, variables["params"])
  carry, metrics = jax.lax.scan(
    one, (variables, zeros), (jnp.arange(num_parts), parts)
  )
  variables, total = carry
  grads = jax.tree.map(lambda g: g / num_parts, total)
  stats = {k: v for k, v in variables.items() if k != "params"}
  return grads, jax.tree.map(lambda m: m.mean(0), metrics), stats


def predictor(
  model: Any, *, preprocess: Callable[[jax.Array], jax.Array] = normalize
) -> Callable[[Any, jax.Array], jax.Array]:
  """Returns a compiled (variables, images [n, h, w, 3]) -> logits [n, k]."""

  @jax.jit
  def predict(variables, images):
    return model.apply(variables, preprocess(images), train=False)

  return predict


def evaluate(
  predict: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  images: np.ndarray,
  *,
  batch_size: int = 256,
) -> np.ndarray:
  """Computes the logits of many images, a batch at a time.

  Batches are split over this process's devices. With several processes, all
  call it together, and each computes everything for itself.

  Args:
    predict: see `predictor`.
    variables: `state.variables` or `state.ema`, wherever they lie.
    images: [n, h, w, 3], uint8 or normalised float; at least one.
    batch_size: of all batches, or what splits above: the last is filled up
      with zeros, so that no second size is compiled.

  Returns:
    [n, k] float32.
  """
  mesh = meshes.make_mesh(local=True)
  variables, split = meshes.to_own(mesh, variables), meshes.split(mesh)
  batch_size += -batch_size % mesh.size
  logits = []
  for start in range(0, len(images), batch_size):
    batch = np.asarray(images[start : start + batch_size])
    sides = [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)]
    padded = jax.device_put(np.pad(batch, sides), split)
    logits.append(np.asarray(predict(variables, padded))[: len(batch)])
  return np.concatenate(logits)


def evaluate_all(
  predict: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  batches: Iterable[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what `predict` makes of all batches.

  Args:
    predict: of `predictor`.
    variables: of its model.
    batches: uint8 images [n, h, w, 3] and labels [n], such as of `in_order`.

  Returns:
    Logits or features [all, k], and labels [all].
  """
  variables = meshes.to_own(meshes.make_mesh(local=True), variables)
  outputs, labels = [], []
  for images, found in batches:
    outputs.append(evaluate(predict, variables, images))
    labels.append(found)
  return np.concatenate(outputs), np.concatenate(labels)
