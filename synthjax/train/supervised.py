"""Supervised classification of images, with all statistics in the state."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.train.objective import Objective

# Of ImageNet, for pixels in [0, 1]; DeiT uses them for other sets as well.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Augment = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class SupervisedState:
  """All that changes in training."""

  step: jax.Array  # []
  variables: Any  # params, and batch_stats where the model has BatchNorm
  ema: Any  # a running average of all variables; None without ema_decay
  opt_state: optax.OptState


def normalize(
  images: jax.Array,
  mean: tuple[float, ...] = MEAN,
  std: tuple[float, ...] = STD,
) -> jax.Array:
  """Maps uint8 [n, h, w, 3] to float32; floats pass as they are."""
  if images.dtype != jnp.uint8:
    return images
  return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)


def flip(images: jax.Array, rng: jax.Array) -> jax.Array:
  """Mirrors images [n, h, w, c] left to right, each half of the time."""
  mirrored = jax.random.bernoulli(rng, shape=(len(images), 1, 1, 1))
  return jnp.where(mirrored, images[:, :, ::-1], images)


def shift(images: jax.Array, rng: jax.Array, *, pixels: int = 4) -> jax.Array:
  """Moves each of images [n, h, w, c] by up to `pixels` in both directions.

  What comes in repeats the edge: the same as the usual crop of a padded image,
  but a white or grey background stays one.
  """
  n, h, w, c = images.shape
  sides = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
  padded = jnp.pad(images, sides, mode="edge")
  corners = jax.random.randint(rng, (n, 2), 0, 2 * pixels + 1)
  crop = lambda image, yx: jax.lax.dynamic_slice(image, (*yx, 0), (h, w, c))
  return jax.vmap(crop)(padded, corners)


def flip_and_shift(images: jax.Array, rng: jax.Array) -> jax.Array:
  """Mirrors and moves images [n, h, w, c]."""
  flip_rng, shift_rng = jax.random.split(rng)
  return shift(flip(images, flip_rng), shift_rng)


AUGMENTS = {
  "none": lambda images, rng: images,
  "flip": flip,
  "shift": shift,
  "flip_and_shift": flip_and_shift,
}


def supervised(
  model: Any,
  tx: optax.GradientTransformation,
  *,
  label_smoothing: float = 0.0,
  ema_decay: float | None = None,
  augment: Augment = flip_and_shift,
  preprocess: Callable[[jax.Array], jax.Array] = normalize,
) -> Objective:
  """Returns the objective of cross entropy with labels.

  A batch holds `image` [n, h, w, 3], uint8 or normalised float, and `label`
  int [n].

  Args:
    model: with Flax's `init(rng, images, train=)` and `apply(variables, images,
      train=, mutable=, rngs=)` -> logits [n, k].
    tx: the optimizer.
    label_smoothing: share of the target spread over all k classes.
    ema_decay: of the running average of the variables; None keeps none. The
      first steps average over less: min(ema_decay, (1 + step) / (10 + step)).
    augment: (images, rng) -> images, on the device; a value of AUGMENTS.
    preprocess: images -> float32, after augmentation.
  """

  def init(rng, batch):
    images = preprocess(jnp.asarray(batch["image"][:1]))
    variables = dict(model.init(rng, images, train=False))
    # A copy, as a donated state must not hold one buffer twice.
    ema = None if ema_decay is None else jax.tree.map(jnp.copy, variables)
    opt_state = tx.init(variables["params"])
    return SupervisedState(jnp.array(0), variables, ema, opt_state)

  def step(state, batch, rng):
    augment_rng, dropout_rng = jax.random.split(rng)
    images = preprocess(augment(batch["image"], augment_rng))
    labels = batch["label"]
    params = state.variables["params"]

    def loss_fn(params):
      logits, stats = model.apply(
        state.variables | {"params": params},
        images,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": dropout_rng},
      )
      targets = jax.nn.one_hot(labels, logits.shape[-1])
      targets = optax.smooth_labels(targets, label_smoothing)
      loss = optax.softmax_cross_entropy(logits, targets).mean()
      return loss, (logits, stats)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, stats)), grads = grad_fn(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates)} | stats

    ema = state.ema
    if ema is not None:
      decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
      ema = optax.incremental_update(variables, ema, 1 - decay)

    metrics = {"loss": loss, "top1": jnp.mean(logits.argmax(-1) == labels)}
    state = SupervisedState(state.step + 1, variables, ema, opt_state)
    return state, metrics

  return Objective(init, step)


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

  Args:
    predict: see `predictor`.
    variables: `state.variables` or `state.ema`.
    images: [n, h, w, 3], uint8 or normalised float; at least one.
    batch_size: of all batches: the last is filled up with zeros, so that no
      second size is compiled.

  Returns:
    [n, k] float32.
  """
  logits = []
  for start in range(0, len(images), batch_size):
    batch = np.asarray(images[start : start + batch_size])
    sides = [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)]
    padded = predict(variables, np.pad(batch, sides))
    logits.append(np.asarray(padded)[: len(batch)])
  return np.concatenate(logits)
