"""Classifier tuning (Appendix C.5.1): a linear head on stored features.

The encoder is frozen, so its features are computed once and a whole training
is one `lax.scan` over the rows to read: nothing waits for the host, and `vmap`
trains several seeds at once.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

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
)


@flax.struct.dataclass
class Head:
  """A linear classifier of features of unit length."""

  weight: jax.Array  # [k, d] float32; rows of length 100 in zero-shot CLIP
  bias: jax.Array  # [k]


class Rows(NamedTuple):
  """Stored features, what to learn from them, and in which order.

  All fields but the steps may differ between the sets of one training:
  few-shot tuning adds 1.0 of the plain loss of real rows to that of synthetic
  ones.
  """

  features: Any  # [n, d] float32
  labels: Any  # [n] int
  index: Any  # [steps, batch] int, -1 for no row; see `epochs_index`
  soft_weight: float = 0.5  # 0 is plain cross entropy
  loss_weight: float = 1.0
  label_smoothing: float | None = None  # of the plain loss


class Tuned(NamedTuple):
  """What a training leaves."""

  head: Head  # after the last step
  losses: jax.Array  # [steps]
  accuracies: jax.Array | None  # [epochs], of the validation rows
  best_head: Head | None  # of the first epoch with the highest accuracy


def init_head(text_features: jax.Array, logit_scale: float) -> Head:
  """Builds the zero-shot classifier from the texts of each class.

  Args:
    text_features: [k, t, d]: k classes, each in t templates, of any length.
    logit_scale: the factor on cosines, already exp (about 100 in CLIP).

  Returns:
    The head whose logits are logit_scale * cosine(feature, class), where a
    class is the mean of the unit vectors of its texts.
  """
  if text_features.ndim != 3:
    raise ValueError(
      f"found text features {text_features.shape}, needed [classes, templates, "
      "d]; add an axis for a single template: features[:, None]."
    )
  mean = unit(jnp.asarray(text_features, jnp.float32)).mean(1)
  return Head(logit_scale * unit(mean), jnp.zeros(len(text_features)))


def unit(x: jax.Array) -> jax.Array:
  """Scales the last axis to length 1."""
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def logits_fn(head: Head, features: jax.Array) -> jax.Array:
  """Maps features [n, d], of any length, to logits [n, k]."""
  return _linear(head, unit(features))


def _linear(head, units):
  # Rows have length 100: bfloat16 products would be wrong by whole units.
  product = jnp.einsum("nd,kd->nk", units, head.weight, precision="highest")
  return product + head.bias


def epochs_index(
  num_examples: int, *, batch_size: int, num_epochs: int, seed: int
) -> np.ndarray:
  """Draws the rows of each step: each epoch is a new order of all rows.

  Args:
    num_examples: to draw from.
    batch_size: of all batches but the last of an epoch, which keeps the rest.
    num_epochs: at least 1.
    seed: of the orders.

  Returns:
    [num_epochs * batches, batch_size] int32, filled up with -1.

  Raises:
    ValueError: if there is nothing to draw from.
  """
  if min(num_examples, batch_size, num_epochs) < 1:
    raise ValueError(
      f"found num_examples={num_examples}, batch_size={batch_size}, "
      f"num_epochs={num_epochs}; all three must be at least 1: was every image "
      "filtered out?"
    )
  rng = np.random.default_rng(seed)
  num_batches = -(-num_examples // batch_size)
  index = np.full((num_epochs, num_batches * batch_size), -1, np.int32)
  for epoch in index:
    epoch[:num_examples] = rng.permutation(num_examples)
  return index.reshape(-1, batch_size)


def cycled_index(
  num_examples: int, *, batch_size: int, num_steps: int, seed: int
) -> np.ndarray:
  """Draws the rows of num_steps steps, in a new order whenever exhausted.

  Few-shot tuning goes on so with its few real rows, while the synthetic ones
  count the epochs.

  Returns:
    [num_steps, batch_size] int32, filled up with -1.
  """
  num_batches = -(-num_examples // batch_size)
  num_epochs = -(-num_steps // num_batches)
  index = epochs_index(
    num_examples, batch_size=batch_size, num_epochs=num_epochs, seed=seed
  )
  return index[:num_steps]


def tune(
  features: jax.Array,
  labels: jax.Array,
  head: Head,
  *,
  index: jax.Array,
  soft_weight: float = 0.5,
  label_smoothing: float | None = None,
  **kwargs,
) -> Tuned:
  """Tunes a head on one set of rows: `tune_sets` has all other arguments."""
  rows = Rows(
    features, labels, index, soft_weight, label_smoothing=label_smoothing
  )
  return tune_sets([rows], head, **kwargs)


@partial(jax.jit, static_argnames=("num_epochs", "bias", "decay_bias"))
def tune_sets(
  sets: Sequence[Rows],
  head: Head,
  *,
  teacher: Head | None = None,
  lr: float = 2e-3,
  weight_decay: float = 0.1,
  clip_norm: float = 1.0,
  temperature: float = 2.0,
  validation: tuple[jax.Array, jax.Array] | None = None,
  num_epochs: int = 1,
  progress: jax.Array | None = None,
  bias: bool = True,
  decay_bias: bool = True,
) -> Tuned:
  """Tunes a head with AdamW and a cosine schedule without warm-up.

  The defaults are the zero-shot recipe. All of it is one compiled function,
  which neither another seed nor another number compiles anew. Several seeds
  train at once under `jax.vmap`:

    jax.vmap(lambda index: tune(features, labels, head, index=index))(indices)

  Args:
    sets: of rows, whose losses are added; each index has as many steps.
    head: to start from.
    teacher: frozen; the initial head if None, as in the paper.
    lr: of the first step; it falls to nearly 0 along half a cosine.
    weight_decay: decoupled, on the weight, and on the bias if `decay_bias`.
    clip_norm: of the gradient of weight and bias together.
    temperature: of the teacher.
    validation: features [m, d] and labels [m], classified after each epoch.
    num_epochs: into which the steps are divided for validation.
    progress: [steps], how far along the half cosine each step is, where 1 has
      the rate 0; by default step i of S is at i / S.
    bias: False leaves the bias as it is, 0 in zero-shot: the paper's f = g^T W
      has none, the released code does.
    decay_bias: False decays the weight alone; the released code decays both.

  Returns:
    The tuned head, and `best_head` if there is validation.

  Raises:
    ValueError: if sizes disagree.
  """
  num_steps = _check(sets, head, num_epochs, progress)
  teacher = head if teacher is None else teacher
  # What no step changes is computed once, and not for each seed.
  units = [unit(jnp.asarray(rows.features, jnp.float32)) for rows in sets]
  teacher_logits = [_linear(teacher, x) for x in units]
  schedule = lambda i: lr * (1 + jnp.cos(jnp.pi * i / num_steps)) / 2
  if progress is not None:
    along = jnp.asarray(progress, jnp.float32)
    schedule = lambda i: lr * (1 + jnp.cos(jnp.pi * along[i])) / 2
  decayed = None if bias and decay_bias else Head(True, False)
  tx = optax.adamw(schedule, eps=1e-8, weight_decay=weight_decay, mask=decayed)

  def loss_fn(head, indices):
    if not bias:  # its gradient is 0, and AdamW leaves it where it is
      head = head.replace(bias=jax.lax.stop_gradient(head.bias))
    total = 0.0
    for rows, x, t, index in zip(
      sets, units, teacher_logits, indices, strict=True
    ):
      loss = mixed_cross_entropy(
        _linear(head, x[index]),
        t[index],
        jnp.asarray(rows.labels)[index],
        soft_weight=rows.soft_weight,
        temperature=temperature,
        label_smoothing=rows.label_smoothing,
      )
      total += rows.loss_weight * jnp.mean(loss, where=index >= 0)
    return total

  def step(carry, indices):
    head, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(head, indices)
    updates, opt_state = tx.update(clip(grads, clip_norm), opt_state, head)
    return (optax.apply_updates(head, updates), opt_state), loss

  def epoch(carry, indices):
    state, best = carry
    state, losses = jax.lax.scan(step, state, indices)
    if validation is None:
      return (state, None), (losses, None)
    head, (best_accuracy, best_head) = state[0], best
    accuracy = accuracy_fn(head, *validation)
    better = accuracy > best_accuracy
    best_head = jax.tree.map(partial(jnp.where, better), head, best_head)
    best = jnp.maximum(accuracy, best_accuracy), best_head
    return (state, best), (losses, accuracy)

  indices = [
    jnp.asarray(rows.index).reshape(num_epochs, -1, np.shape(rows.index)[1])
    for rows in sets
  ]
  best = None if validation is None else (jnp.array(-1.0), head)
  carry = ((head, tx.init(head)), best)
  (state, best), (losses, accuracies) = jax.lax.scan(epoch, carry, indices)
  best_head = None if best is None else best[1]
  return Tuned(state[0], losses.reshape(-1), accuracies, best_head)


def accuracy_fn(
  head: Head, features: jax.Array, labels: jax.Array
) -> jax.Array:
  """Returns the share [] of features [m, d] whose largest logit is labels."""
  return (logits_fn(head, features).argmax(-1) == labels).mean()


def clip(grads: Any, max_norm: float) -> Any:
  """Scales to at most max_norm, with the 1e-6 that PyTorch adds to the norm."""
  scale = jnp.minimum(1, max_norm / (optax.tree.norm(grads) + 1e-6))
  return jax.tree.map(lambda g: g * scale, grads)


def _check(sets, head, num_epochs, progress) -> int:
  """Returns the number of steps, or says which sizes disagree."""
  steps = {len(rows.index) for rows in sets}
  if len(steps) != 1 or steps.pop() % num_epochs:
    raise ValueError(
      f"found indices of {[len(rows.index) for rows in sets]} steps for "
      f"num_epochs={num_epochs}; give all sets as many steps, and a number of "
      "epochs that divides them."
    )
  if progress is not None and len(progress) != len(sets[0].index):
    raise ValueError(
      f"found progress of {len(progress)} steps for an index of "
      f"{len(sets[0].index)}; give one number for each step."
    )
  for rows in sets:
    n, d = rows.features.shape
    if d != head.weight.shape[1] or rows.labels.shape != (n,):
      raise ValueError(
        f"found features {(n, d)} and labels {rows.labels.shape} for a head "
        f"{head.weight.shape}; needed [n, d], [n] and [classes, d]: are head "
        "and features from the same encoder?"
      )
  return len(sets[0].index)


# --- how classifiers are tuned on stored features, from fields of plain data
# The fields are those of the task `tune`.

REQUIRED = {
  "arms": BLOCK_LIST,  # what is compared
  # Of the order of the images, and of the images if there are several.
  "seeds": SEEDS,
}
OPTIONAL = {
  "test": BLOCK,  # real images, opened once, at the end; or heads alone
  "test_parts": BLOCK,  # name -> real images reported beside them
  "validation": BLOCK,  # real images on which choices can be made
  "num_epochs": COUNT,
  "batch_size": COUNT,
  "best_epoch_on_test": FLAG,  # also reports the paper's own number
}
PASSED_ON = {  # to `classifier.tune_sets`
  "lr": POSITIVE,
  "weight_decay": NOT_NEGATIVE,
  "clip_norm": POSITIVE,
  "temperature": POSITIVE,
  "bias": FLAG,  # False: as in the paper's text; the released code has one
  "decay_bias": FLAG,
}
KNOWN = REQUIRED | OPTIONAL | PASSED_ON
ARM_REQUIRED = {
  "name": TEXT,
  "strategy": TEXT,
  "filter": FLAG,
  "soft_weight": SHARE,
}
ARM = ARM_REQUIRED | {
  "images_per_class": COUNT,  # so many by chance; all by default
  "label_smoothing": SHARE,  # of the hard loss
}


class Arm(NamedTuple):
  """One way of making a training set and learning from it."""

  name: str
  strategy: str  # of the prompts
  filter: bool  # takes only what `select` has kept
  soft_weight: float  # 0 is CE, 0.5 the paper's SCE
  images_per_class: int | None = None
  label_smoothing: float | None = None
