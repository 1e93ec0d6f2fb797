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
from synthjax.training import loop, mixup
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
  mix: Mix | None = None,
  trained: Collection[str] | None = None,
) -> Objective:
  """Returns the objective of cross entropy with labels.

  A batch holds `image` [n, h, w, 3], uint8 or normalised float, and `label`
  int [n].

  Args:
    model: with Flax's `init(rng, images, train=)` and `apply(variables, images,
      train=, mutable=, rngs=)` -> logits [n, k].
    tx: the optimizer.
    label_smoothing: share of the target spread over all k classes.
    ema_decay: of the running average of the variables, see `loop.follow`; None
      keeps none.
    augment: (images, rng) -> images, on the device, such as of
      `device_augment.make_augment`; nothing by default.
    mix: (images, rng) -> images and the share [n] of each that is its own; the
      reversed batch has the rest, and so have the targets. It is the last that
      changes images; see `mixup`.
    trained: submodules that alone are trained, as in a linear probe; BatchNorm
      and drop path then are those of evaluation. None trains all.
  """
  if trained is not None:
    label = lambda params: {k: k in trained for k in params}
    tx = optax.multi_transform({True: tx, False: optax.set_to_zero()}, label)

  def init(rng, batch):
    images = normalize(augment(jnp.asarray(batch["image"][:1]), rng))
    variables = dict(model.init(rng, images, train=False))
    # A copy, as a donated state must not hold one buffer twice.
    ema = None if ema_decay is None else jax.tree.map(jnp.copy, variables)
    opt_state = tx.init(variables["params"])
    return SupervisedState(jnp.array(0), variables, ema, opt_state)

  def loss_fn(params, variables, images, labels, share, rng):
    if trained is not None:
      frozen = jax.lax.stop_gradient(params)
      params = {k: (params if k in trained else frozen)[k] for k in params}
    logits, stats = model.apply(
      variables | {"params": params},
      images,
      train=trained is None,
      mutable=["batch_stats"],
      rngs={"dropout": rng},
    )
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(one_hot, label_smoothing)
    if share is not None:
      share = share[:, None]
      targets = share * targets + (1 - share) * targets[::-1]
    loss = optax.softmax_cross_entropy(logits, targets).mean()
    top1 = jnp.mean(logits.argmax(-1) == targets.argmax(-1))
    return loss, ({"loss": loss, "top1": top1}, stats)

  grad_fn = jax.grad(loss_fn, has_aux=True)

  def step(state, batch, rng):
    augment_rng, dropout_rng = jax.random.split(rng)
    images, share = normalize(augment(batch["image"], augment_rng)), None
    if mix is not None:
      images, share = mix(images, jax.random.fold_in(rng, 2))
    params, variables = state.variables["params"], state.variables
    grads, (metrics, stats) = grad_fn(
      params, variables, images, batch["label"], share, dropout_rng
    )
    updates, opt_state = tx.update(grads, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates)} | stats

    ema = loop.follow(state.ema, variables, state.step, decay=ema_decay)
    state = SupervisedState(state.step + 1, variables, ema, opt_state)
    return state, metrics

  return Objective(
    init,
    step,
    trained="variables",
    weights=lambda s: s.variables if s.ema is None else s.ema,
  )


def predictor(model: Any) -> Callable[[Any, jax.Array], jax.Array]:
  """Returns a compiled (variables, images [n, h, w, 3]) -> logits [n, k]."""

  @jax.jit
  def predict(variables, images):
    return model.apply(variables, normalize(images), train=False)

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
  batches = [(images, np.zeros(len(images)))]
  return evaluate_all(predict, variables, batches, batch_size=batch_size)[0]


def evaluate_all(
  predict: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  batches: Iterable[tuple[np.ndarray, np.ndarray]],
  *,
  batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the outputs of `predict` for all batches.

  Args:
    predict: of `predictor`.
    variables: of its model.
    batches: uint8 images [n, h, w, 3] and labels [n], such as of `in_order`.
    batch_size: see `evaluate`.

  Returns:
    Logits or features [all, k], and labels [all].
  """
  mesh = meshes.make_mesh(local=True)
  variables, split = meshes.to_own(mesh, variables), meshes.split(mesh)
  batch_size, labels = batch_size + -batch_size % mesh.size, []

  def outputs():
    for images, batch_labels in batches:
      labels.append(batch_labels)
      for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        sides = [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)]
        padded = jax.device_put(np.pad(batch, sides), split)
        yield predict(variables, padded), len(batch)

  done = [rows[:count] for rows, count in meshes.fetch_ahead(outputs())]
  return np.concatenate(done), np.concatenate(labels)
