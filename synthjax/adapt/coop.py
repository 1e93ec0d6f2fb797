"""CoOp (Zhou et al. 2022): learns the words around a class name.

A few context vectors, shared by all classes, stand between the start of a text
and the class name; the encoder that reads them is frozen. On stored image
features a whole training is one `lax.scan`, as in classifier tuning.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from synthjax.adapt.linear_head import Head, logits_fn
from synthjax.adapt.soft_targets import hard_cross_entropy
from synthjax.encoders.clip import NUM_CONTEXT
from synthjax.models.unit import unit_features

# By shots; on ImageNet always 50.
NUM_EPOCHS = {1: 50, 2: 100, 4: 100, 8: 200, 16: 200}

# The share of the area that a crop of an image has.
CROP = (0.08, 1.0)

# (embeddings [k, l, w], end [k]) -> features [k, d], read at position `end`:
# `jax.tree_util.Partial(function, variables)`, through which jit takes the
# frozen weights as arguments instead of compiling them in as constants.
Encode = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Prompts:
  """The embedded texts of all classes, with room for the context."""

  embeddings: jax.Array  # [k, l, w]: SOS, context, name, ".", EOS, padding
  end: jax.Array  # [k] int, the position of EOS


class Learned(NamedTuple):
  """The result of a training."""

  context: jax.Array  # [c, w] after the last step, which CoOp evaluates
  losses: jax.Array  # [steps]


def init_context(
  rng: jax.Array, width: int, num_context: int = NUM_CONTEXT
) -> jax.Array:
  """Draws the context [num_context, width] from N(0, 0.02^2)."""
  return 0.02 * jax.random.normal(rng, (num_context, width))


def insert_context(prompts: Prompts, context: jax.Array) -> jax.Array:
  """Returns the embeddings [k, l, w] with context [c, w] after their start."""
  return prompts.embeddings.at[:, 1 : 1 + len(context)].set(context)


def head_of(
  encode: Encode, prompts: Prompts, context: jax.Array, logit_scale: float
) -> Head:
  """Reads a context into a classifier of image features.

  Args:
    encode: see `Encode`.
    prompts: of k classes.
    context: [c, w].
    logit_scale: the factor on cosines, already exp.

  Returns:
    The head for `linear_head.logits_fn`: logit_scale * cosine, no bias.
  """
  features = encode(insert_context(prompts, context), prompts.end)  # [k, d]
  weight = logit_scale * unit_features(features)
  return Head(weight, jnp.zeros(len(weight)))


def learning_rate(
  lr: float, *, num_epochs: int, num_steps: int, warmup_lr: float = 1e-5
) -> Callable[[jax.Array], jax.Array]:
  """Returns step -> rate: one epoch at warmup_lr, then a cosine by epoch.

  The cosine spans all epochs and begins after the warm-up, so that it is cut
  off one epoch before it would reach 0, as in the authors' scheduler.
  """

  def rate(step):
    epoch = step // (num_steps // num_epochs)
    cosine = lr * (1 + jnp.cos(jnp.pi * (epoch - 1) / num_epochs)) / 2
    return jnp.where(epoch < 1, warmup_lr, cosine)

  return rate


@partial(jax.jit, static_argnames="num_epochs")
def tune(
  encode: Encode,
  prompts: Prompts,
  context: jax.Array,
  features: jax.Array,
  labels: jax.Array,
  *,
  index: jax.Array,
  num_epochs: int,
  logit_scale: float,
  lr: float = 2e-3,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Learned:
  """Learns a context by SGD, stepped by the epoch.

  Args:
    encode: of the frozen text encoder, see `Encode`. For many classes give
      `Partial(jax.checkpoint(function), variables)`, which stores less.
    prompts: of k classes.
    context: [c, w] to start from.
    features: [n, d] of images, of any length; of several augmentation passes
      see `few_shot_methods.flatten_passes`.
    labels: [n] int.
    index: [steps, batch] int, -1 for no row, 32 rows in a batch:
      `linear_head.epochs_index` or `few_shot_methods.passes_index`.
    num_epochs: into which the steps are divided; see NUM_EPOCHS.
    logit_scale: the factor on cosines, already exp.
    lr: the highest.
    momentum: of SGD.
    weight_decay: joins the gradient, as in PyTorch.

  Raises:
    ValueError: if num_epochs does not divide the steps.
  """
  num_steps = len(index)
  if num_steps % num_epochs:
    raise ValueError(
      f"found an index of {num_steps} steps for num_epochs={num_epochs}; give "
      "the number of epochs that the index was drawn for."
    )
  labels = jnp.asarray(labels)
  units = unit_features(features)
  schedule = learning_rate(lr, num_epochs=num_epochs, num_steps=num_steps)
  tx = optax.chain(
    optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum)
  )

  def loss_fn(context, rows):
    head = head_of(encode, prompts, context, logit_scale)
    losses = hard_cross_entropy(logits_fn(head, units[rows]), labels[rows])
    return jnp.mean(losses, where=rows >= 0)

  def step(carry, rows):
    context, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(context, rows)
    updates, opt_state = tx.update(grads, opt_state, context)
    return (optax.apply_updates(context, updates), opt_state), loss

  carry = (context, tx.init(context))
  (context, _), losses = jax.lax.scan(step, carry, jnp.asarray(index))
  return Learned(context, losses)
