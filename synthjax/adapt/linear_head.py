"""A linear classifier on stored features, and how it is tuned.

Classifier tuning is Appendix C.5.1 of the paper. The encoder is frozen, so its
features are computed once, and a whole training is one `lax.scan` over the rows
to read: nothing waits for the host, and `vmap` trains several seeds at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Annotated, Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.adapt.soft_targets import mixed_cross_entropy
from synthjax.adapt.uncertainty import MEASURES
from synthjax.config.schema import (
  Block,
  Count,
  Flag,
  NotNegative,
  Positive,
  Seeds,
  Share,
  Text,
  one_of,
  unique_names,
)
from synthjax.data.pipeline import given
from synthjax.evals.arms import ZERO_SHOT
from synthjax.evals.scaling import MIN_SIZES, Scaling
from synthjax.models.unit import unit, unit_features
from synthjax.prompts.strategies import STRATEGIES


@dataclass(frozen=True, kw_only=True)
class Recipe:
  """How a head is tuned; the defaults are the paper's for generated images."""

  lr: Positive = 2e-3  # of the first step; half a cosine takes it to nearly 0
  weight_decay: NotNegative = 0.1  # decoupled
  clip_norm: Positive = 1.0  # of the gradient of weight and bias together
  temperature: Positive = 2.0  # of the teacher
  # False leaves the bias as it is, 0 in zero-shot: the paper's f = g^T W has
  # none, the released code does.
  bias: Flag = True
  decay_bias: Flag = True  # False decays the weight alone; released: both


@dataclass(frozen=True, kw_only=True)
class Training(Recipe):
  """A recipe with what else `learn` needs; see `fit`."""

  num_epochs: Count = 30
  batch_size: Count = 512
  soft_weight: Share = 0.5


CHANCE = "chance"


@dataclass(frozen=True, kw_only=True)
class Arm:
  """One way of making a training set and learning from it."""

  name: Text
  strategy: Annotated[str, one_of(STRATEGIES)]  # of the prompts
  filter: Flag  # takes only what `select` has kept
  soft_weight: Share  # 0 is CE, 0.5 the paper's SCE
  images_per_class: Count | None = None  # None takes all
  # Of those images: by chance, or what a head that has learned from all of them
  # is least sure of.
  choice: Annotated[str, one_of((CHANCE, *MEASURES))] = CHANCE
  # Those that a drawing of so many has, before the filter; None takes all.
  drawn_per_class: Count | None = None
  label_smoothing: Share | None = None  # of the hard loss

  @property
  def size(self) -> int | None:
    """Images of each class, where there is a number."""
    return self.images_per_class or self.drawn_per_class

  def problems(self):
    if self.choice != CHANCE and not self.images_per_class:
      yield (
        f"choice={self.choice!r} without images_per_class: say how many of "
        "each class it takes"
      )


@dataclass(frozen=True, kw_only=True)
class Tune(Recipe):
  """The block `config.tune`."""

  arms: Annotated[tuple[Arm, ...], unique_names(ZERO_SHOT)]
  seeds: Seeds  # of the order of the images, and of images drawn by seed
  test: Block | None = None  # real images, opened once, at the end
  test_parts: Mapping[str, Block] = field(default_factory=dict)
  validation: Block | None = None  # real images on which choices can be made
  num_epochs: Count = 30
  batch_size: Count = 512
  best_epoch_on_test: Flag = False  # also reports the released code's number
  scaling: Scaling | None = None  # forecasts what more images give

  def curves(self) -> dict[str, dict[str, int]]:
    """Returns arms that differ in their number of images: curve -> arm -> it.

    A curve has the name of its first arm.
    """
    curves: dict[Arm, dict[str, int]] = {}
    for arm in self.arms:
      sizes = dict(name="", images_per_class=arm.images_per_class and 1)
      sizes |= dict(drawn_per_class=arm.drawn_per_class and 1)
      if arm.size:
        curves.setdefault(replace(arm, **sizes), {})[arm.name] = arm.size
    return {next(iter(of_arm)): of_arm for of_arm in curves.values()}

  def problems(self):
    if self.scaling:
      if not self.validation or len(self.seeds) < 2:
        yield (
          "scaling decides by validation images and two seeds or more: give "
          "`validation`, as the test images are not for choosing, and `seeds`"
        )
      for curve, sizes in (self.curves() or {"none": {}}).items():
        if len({*sizes.values()}) < MIN_SIZES:
          yield (
            f"scaling forecasts from {MIN_SIZES} numbers of images or "
            f"more, and the curve of {curve!r} has {[*sizes.values()]}"
          )
    if not self.test and (self.test_parts or self.best_epoch_on_test):
      yield (
        "test_parts or best_epoch_on_test but no `test`: give real images for "
        "it, or leave both out"
      )


@flax.struct.dataclass
class Head:
  """A linear classifier of features of unit length."""

  weight: jax.Array  # [k, d] float32; rows of length 100 in zero-shot CLIP
  bias: jax.Array  # [k]

  def __call__(self, features: jax.Array) -> jax.Array:
    """Maps features [n, d], of any length, to logits [n, k]."""
    return logits_fn(self, features)


class Rows(NamedTuple):
  """A training set: stored features, their labels, and the order of reading.

  All fields but the steps may differ between the sets of one training:
  few-shot tuning adds 1.0 of the plain loss of real rows to that of synthetic
  ones.
  """

  features: Any  # [n, d] float32
  labels: Any  # [n] int
  index: Any  # [steps, batch] int, -1 for no row; see `epochs_index`
  soft_weight: float = 0.5  # 0 is plain cross entropy
  label_smoothing: float | None = None  # of the plain loss
  weight: float = 1.0  # of the set's loss in the sum


class Tuned(NamedTuple):
  """The result of a training."""

  head: Head  # after the last step
  losses: jax.Array  # [steps]
  accuracies: jax.Array | None  # [epochs], of the validation rows


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
  mean = unit_features(text_features).mean(1)
  return Head(logit_scale * unit(mean), jnp.zeros(len(text_features)))


def logits_fn(head: Head, features: jax.Array) -> jax.Array:
  """Maps features [n, d], of any length, to logits [n, k]."""
  return linear_logits(head, unit_features(features))


def linear_logits(head: Head, features: jax.Array) -> jax.Array:
  """Maps features [n, d], of the length that they have, to logits [n, k]."""
  # Rows have length 100: bfloat16 products would be wrong by whole units.
  product = jnp.einsum("nd,kd->nk", features, head.weight, precision="highest")
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
  sets: Sequence[Rows],
  head: Head,
  recipe: Recipe = Recipe(),
  *,
  teacher: Head | None = None,
  validation: tuple[jax.Array, jax.Array] | None = None,
  num_epochs: int = 1,
  progress: jax.Array | None = None,
) -> Tuned:
  """Tunes a head with AdamW and a cosine schedule without warm-up.

  All of it is one compiled function, which neither another seed nor another
  number compiles anew. Several seeds train at once under `jax.vmap`:

    jax.vmap(lambda index: tune([Rows(features, labels, index)], head))(indices)

  Args:
    sets: of rows, whose losses are added; each index has as many steps.
    head: to start from.
    recipe: of the optimizer and the teacher.
    teacher: frozen; the initial head if None, as in the paper.
    validation: features [m, d] and labels [m], classified after each epoch.
    num_epochs: into which the steps are divided for validation.
    progress: [steps], how far along the half cosine each step is, where 1 has
      the rate 0; by default step i of S is at i / S.

  Raises:
    ValueError: if sizes disagree.
  """
  numbers = {f.name: getattr(recipe, f.name) for f in fields(Recipe)}
  return _tune_compiled(
    sets, head, teacher, validation, progress, num_epochs=num_epochs, **numbers
  )


@partial(jax.jit, static_argnames=("num_epochs", "bias", "decay_bias"))
def _tune_compiled(
  sets: Sequence[Rows],
  head: Head,
  teacher: Head | None,
  validation: tuple[jax.Array, jax.Array] | None,
  progress: jax.Array | None,
  *,
  num_epochs: int,
  lr: float,
  weight_decay: float,
  clip_norm: float,
  temperature: float,
  bias: bool,
  decay_bias: bool,
) -> Tuned:
  num_steps = _check(sets, head, num_epochs, progress)
  teacher = head if teacher is None else teacher
  # What no step changes is computed once, and not for each seed.
  units = [unit_features(rows.features) for rows in sets]
  teacher_logits = [linear_logits(teacher, x) for x in units]
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
        linear_logits(head, x[index]),
        t[index],
        jnp.asarray(rows.labels)[index],
        soft_weight=rows.soft_weight,
        temperature=temperature,
        label_smoothing=rows.label_smoothing,
      )
      total += rows.weight * jnp.mean(loss, where=index >= 0)
    return total

  def step(carry, indices):
    head, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(head, indices)
    updates, opt_state = tx.update(clip(grads, clip_norm), opt_state, head)
    return (optax.apply_updates(head, updates), opt_state), loss

  def epoch(state, indices):
    state, losses = jax.lax.scan(step, state, indices)
    if validation is None:
      return state, (losses, None)
    return state, (losses, accuracy_fn(state[0], *validation))

  indices = [
    jnp.asarray(rows.index).reshape(num_epochs, -1, np.shape(rows.index)[1])
    for rows in sets
  ]
  state = (head, tx.init(head))
  state, (losses, accuracies) = jax.lax.scan(epoch, state, indices)
  return Tuned(state[0], losses.reshape(-1), accuracies)


def fit(
  features: np.ndarray,
  labels: np.ndarray,
  head: Head,
  recipe: Recipe = Recipe(),
  *,
  num_epochs: int = 30,
  batch_size: int = 512,
  seed: int = 0,
  soft_weight: float = 0.5,
  label_smoothing: float | None = None,
  validation: tuple[np.ndarray, np.ndarray] | None = None,
) -> Tuned:
  """Tunes a head on one set of features, as the task `tune` does.

  Args:
    features: [n, d], of images.
    labels: int [n].
    head: to start from, and the teacher.
    recipe: of the optimizer and the teacher.
    num_epochs: over all features.
    batch_size: at most n is taken.
    seed: of the order of the features.
    soft_weight: 0 is cross entropy, 0.5 the paper's soft targets.
    label_smoothing: of the plain loss.
    validation: features [m, d] and labels [m], classified after each epoch.

  Raises:
    UserError: about labels that do not fit the features or the head.
    ValueError: if sizes disagree.
  """
  labels = given.labels(
    "labels", labels, count=len(features), num_classes=len(head.weight)
  )
  index = epochs_index(
    len(labels),
    batch_size=min(batch_size, len(labels)),
    num_epochs=num_epochs,
    seed=seed,
  )
  rows = Rows(
    np.asarray(features, np.float32),
    labels,
    index,
    soft_weight,
    label_smoothing=label_smoothing,
  )
  return tune(
    [rows], head, recipe, num_epochs=num_epochs, validation=validation
  )


def learn(
  images: tuple[np.ndarray, np.ndarray],
  head: Head,
  training: Training,
  seed: int,
) -> Head:
  """Returns the head that `fit` tunes, on the host.

  Args:
    images: features [n, d] and labels int [n].
    head: to start from, and the teacher.
    training: how.
    seed: of the order of the features.
  """
  tuned = fit(
    *images,
    head,
    training,
    num_epochs=training.num_epochs,
    batch_size=training.batch_size,
    seed=seed,
    soft_weight=training.soft_weight,
  )
  return jax.device_get(tuned.head)


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
