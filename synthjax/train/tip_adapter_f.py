"""Tip-Adapter-F (Zhang et al. 2022): trains the shots that Tip-Adapter stores.

As in classifier tuning, a whole training is one `lax.scan` on stored features.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from synthjax.train.classifier import Head, unit
from synthjax.train.soft_targets import hard_cross_entropy
from synthjax.train.tip_adapter import Cache, Strengths, logits_fn


class TunedCache(NamedTuple):
  """What Tip-Adapter-F's training leaves.

  The dicts have the key "validation" where that was given, and
  "best_epoch_on_test" where `best_epoch_on_test` was.
  """

  cache: Cache  # after the last step
  losses: jax.Array  # [steps]
  accuracies: dict[str, jax.Array]  # [epochs]
  best: dict[str, Cache]  # of the first epoch with the highest accuracy


@partial(jax.jit, static_argnames="num_epochs")
def tune(
  cache: Cache,
  head: Head,
  features: jax.Array,
  labels: jax.Array,
  *,
  index: jax.Array,
  strengths: Strengths,
  lr: float = 1e-3,
  weight_decay: float = 0.01,
  validation: tuple[jax.Array, jax.Array] | None = None,
  best_epoch_on_test: tuple[jax.Array, jax.Array] | None = None,
  num_epochs: int = 20,
) -> TunedCache:
  """Trains the keys of a cache: Tip-Adapter-F.

  AdamW (eps 1e-4) and a cosine schedule, stepped in each iteration; the head
  and the strengths stay as they are, and keys keep no unit length. The authors
  report the higher of two test accuracies: of the epoch that is best on the
  test set, and of its cache after a `search` on validation.

  Args:
    cache: to start from.
    head: zero-shot.
    features: [n, d] of the shots, of any length; augmented anew they are
      `passes.flatten_passes`.
    labels: [n] int.
    index: [steps, batch] int, -1 for no row: `classifier.epochs_index` or
      `passes.passes_index`; 256 rows in a batch.
    strengths: such as `SETTINGS["eurosat"].initial`.
    lr: of the first step; it falls to nearly 0 along half a cosine.
    weight_decay: decoupled.
    validation: features [v, d] and labels [v], classified after each epoch.
    best_epoch_on_test: the same of the test set, to reproduce what the authors
      report; a number chosen so is no estimate of the error on new images.
    num_epochs: into which the steps are divided.

  Raises:
    ValueError: if num_epochs does not divide the steps.
  """
  num_steps = len(index)
  if num_steps % num_epochs:
    raise ValueError(
      f"found an index of {num_steps} steps for num_epochs={num_epochs}; give "
      "the number of epochs that the index was drawn for."
    )
  splits = {"validation": validation, "best_epoch_on_test": best_epoch_on_test}
  splits = {name: rows for name, rows in splits.items() if rows is not None}
  labels = jnp.asarray(labels)
  units = unit(jnp.asarray(features, jnp.float32))
  schedule = lambda i: lr * (1 + jnp.cos(jnp.pi * i / num_steps)) / 2
  tx = optax.adamw(schedule, eps=1e-4, weight_decay=weight_decay)

  def loss_fn(keys, rows):
    logits = logits_fn(cache.replace(keys=keys), head, units[rows], strengths)
    losses = hard_cross_entropy(logits, labels[rows])
    return jnp.mean(losses, where=rows >= 0)

  def step(carry, rows):
    keys, opt_state = carry
    loss, grads = jax.value_and_grad(loss_fn)(keys, rows)
    updates, opt_state = tx.update(grads, opt_state, keys)
    return (optax.apply_updates(keys, updates), opt_state), loss

  def epoch(carry, index):
    state, best = carry
    state, losses = jax.lax.scan(step, state, index)
    tuned, accuracies = cache.replace(keys=state[0]), {}
    for name, (x, y) in splits.items():
      right = logits_fn(tuned, head, x, strengths).argmax(-1) == y
      accuracies[name] = right.mean()
    best = {
      name: jax.tree.map(
        partial(jnp.where, accuracies[name] > best[name][0]),
        (accuracies[name], tuned),
        best[name],
      )
      for name in splits
    }
    return (state, best), (losses, accuracies)

  best = {name: (jnp.array(-1.0), cache) for name in splits}
  carry = ((cache.keys, tx.init(cache.keys)), best)
  index = jnp.asarray(index).reshape(num_epochs, -1, index.shape[1])
  (state, best), (losses, accuracies) = jax.lax.scan(epoch, carry, index)
  return TunedCache(
    cache.replace(keys=state[0]),
    losses.reshape(-1),
    accuracies,
    {name: found for name, (_, found) in best.items()},
  )
