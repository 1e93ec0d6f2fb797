"""Tip-Adapter (Zhang et al. 2022): a cache of few-shot rows.

A row's cosines to the stored shots of each class, sharpened, are added to the
zero-shot logits. Only the two strengths of this are searched; Tip-Adapter-F
(`tune`) also trains the stored shots.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.adapt import linear_head
from synthjax.adapt.linear_head import Head
from synthjax.adapt.soft_targets import hard_cross_entropy
from synthjax.models.unit import unit_features
from synthjax.runtime.errors import UserError


@flax.struct.dataclass
class Cache:
  """The shots of each class; this is the one-hot product of the paper.

  With the shots of a class side by side, the product with one-hot values is a
  sum over `m`.
  """

  keys: jax.Array  # [k, m, d] float32, unit vectors until they are trained
  filled: jax.Array  # [k, m] bool; classes may have fewer than m shots


class Strengths(NamedTuple):
  """How the cache is weighed, by the letters of the paper."""

  beta: float  # sharpness of the cosines
  alpha: float  # of the cache against zero-shot


class Settings(NamedTuple):
  """The values of the authors' code for one data set."""

  initial: Strengths  # of Tip-Adapter-F's training
  search_scale: Strengths  # upper ends of the search
  num_epochs: int = 20  # of Tip-Adapter-F


SETTINGS = {
  "imagenet": Settings(Strengths(1, 1.17), Strengths(7, 3)),
  "caltech101": Settings(Strengths(1, 3), Strengths(12, 5)),
  "pets": Settings(Strengths(1, 1.17), Strengths(7, 3)),
  "cars": Settings(Strengths(1, 3), Strengths(20, 10)),
  "aircraft": Settings(Strengths(1, 5), Strengths(30, 30)),
  "sun397": Settings(Strengths(1, 1.17), Strengths(12, 10)),
  "dtd": Settings(Strengths(1, 2), Strengths(13, 13)),
  "eurosat": Settings(Strengths(1, 2), Strengths(12, 10), num_epochs=100),
}


class Searched(NamedTuple):
  """The result of a search over the strengths."""

  best: Strengths  # the first of the most accurate
  accuracy: jax.Array  # [], its share of right rows
  accuracies: jax.Array  # [betas, alphas]
  betas: jax.Array  # [betas]
  alphas: jax.Array  # [alphas]


def build_cache(
  features: np.ndarray, labels: np.ndarray, num_classes: int
) -> Cache:
  """Averages the augmented views of each shot into one key of unit length.

  The views are averaged as the encoder gives them, not as unit vectors.

  Args:
    features: [passes, n, d] of n shots; 10 passes in the paper.
    labels: [n] int in 0..num_classes-1.
    num_classes: k.

  Raises:
    UserError: for shapes that disagree or classes that do not exist.
  """
  features, labels = np.asarray(features, np.float32), np.asarray(labels)
  if features.ndim != 3 or labels.shape != features.shape[1:2]:
    raise UserError(
      f"Found shots of shape {features.shape} with labels {labels.shape}; "
      "needed [passes, n, d] and [n]: add an axis for a single pass, "
      "features[None]."
    )
  unknown = sorted(set(labels[(labels < 0) | (labels >= num_classes)].tolist()))
  if unknown or not len(labels):
    raise UserError(
      f"Found {len(labels)} shots, with the unknown classes {unknown[:10]}; "
      f"needed at least one shot, of the {num_classes} classes from 0 to "
      f"{num_classes - 1}: are the labels those of the label space?"
    )
  mean = features.mean(0)
  mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
  num_shots = np.bincount(labels, minlength=num_classes)
  filled = np.arange(num_shots.max()) < num_shots[:, None]  # [k, m]
  keys = np.zeros((*filled.shape, mean.shape[-1]), np.float32)
  keys[filled] = mean[np.argsort(labels, kind="stable")]
  return Cache(jnp.asarray(keys), jnp.asarray(filled))


def logits_fn(
  cache: Cache, head: Head, features: jax.Array, strengths: Strengths
) -> jax.Array:
  """Adds the cache to the zero-shot logits.

  Args:
    cache: see `build_cache`.
    head: zero-shot, from `linear_head.init_head`.
    features: [n, d], of any length.
    strengths: beta and alpha.

  Returns:
    [n, k]: head + alpha * sum_m exp(-beta (1 - cosine)).
  """
  beta, alpha = strengths
  affinity = affinity_fn(cache, unit_features(features))
  votes = cache_logits(affinity, beta).T  # [n, k]
  return linear_head.logits_fn(head, features) + alpha * votes


@flax.struct.dataclass
class TipAdapter:
  """What Tip-Adapter has learned: a cache, its strengths, and the head."""

  keys: jax.Array  # [k, m, d], see `Cache`
  filled: jax.Array  # [k, m], above 0 where there is a shot
  beta: jax.Array  # [m]
  alpha: jax.Array  # [m]
  weight: jax.Array  # [k, d] of the zero-shot head
  bias: jax.Array  # [k]

  def __call__(self, features: jax.Array) -> jax.Array:
    """Maps features [n, d], of any length, to logits [n, k]."""
    units = unit_features(features)
    affinity = affinity_fn(Cache(self.keys, self.filled > 0), units)
    votes = jnp.exp(self.beta[:, None, None] * (affinity - 1))  # [m, k, n]
    head = linear_head.logits_fn(Head(self.weight, self.bias), features)
    return head + jnp.einsum("m,mkn->nk", self.alpha, votes)


def make_adapter(cache: Cache, head: Head, strengths: Strengths) -> TipAdapter:
  """Returns what maps features to `logits_fn` of these."""
  beta, alpha = (jnp.full(cache.keys.shape[1], x) for x in strengths)
  return TipAdapter(
    cache.keys, cache.filled, beta, alpha, head.weight, head.bias
  )


def mean(adapters: Sequence[TipAdapter]) -> TipAdapter:
  """Returns one whose logits are the mean of those of adapters.

  Their caches lie side by side, and each votes with its share.
  """
  join = lambda name, axis: np.concatenate(
    [getattr(adapter, name) for adapter in adapters], axis
  )
  average = lambda name: np.mean([getattr(a, name) for a in adapters], 0)
  return TipAdapter(
    join("keys", 1),
    join("filled", 1),
    join("beta", 0),
    join("alpha", 0) / len(adapters),
    average("weight"),
    average("bias"),
  )


def affinity_fn(cache: Cache, units: jax.Array) -> jax.Array:
  """Returns the cosines [m, k, n] of units [n, d]; -inf where no shot is."""
  cosine = jnp.einsum("nd,kmd->mkn", units, cache.keys, precision="highest")
  return jnp.where(cache.filled.T[..., None], cosine, -jnp.inf)


def cache_logits(affinity: jax.Array, beta: jax.Array) -> jax.Array:
  """Maps cosines [m, k, n] to the cache's logits [k, n]."""
  return jnp.exp(beta * (affinity - 1)).sum(0)


@partial(jax.jit, static_argnames=("steps", "block"))
def search(
  cache: Cache,
  head: Head,
  features: jax.Array,
  labels: jax.Array,
  *,
  scale: Strengths,
  steps: tuple[int, int] = (200, 20),
  block: int = 128,
) -> Searched:
  """Tries a grid of strengths on validation rows.

  Value i of a strength is 0.1 + i (scale - 0.1) / steps, so that the scale
  itself is never tried. The first of several best ones counts, in the order of
  the authors' loop: beta outside, alpha inside.

  Args:
    cache: see `build_cache`.
    head: zero-shot.
    features: [n, d] of the validation rows, of any length.
    labels: [n] int.
    scale: upper ends, such as `SETTINGS["eurosat"].search_scale`.
    steps: numbers of betas and alphas.
    block: rows at a time, which bounds the memory: 4 * block * shots bytes;
      few also keep it in a CPU's cache.

  Raises:
    ValueError: if there are no rows.
  """
  betas, alphas = (
    0.1 + jnp.arange(num) * (end - 0.1) / num
    for num, end in zip(steps, scale, strict=True)
  )
  if not (n := len(features)):
    raise ValueError("found no validation rows to search on; needed some.")
  units = unit_features(features)
  zero_shot = linear_head.logits_fn(head, units)  # [n, k]
  # Rows that fill up the last block have the label -1, which is never right.
  pad = lambda x, value: jnp.pad(
    x, [(0, -n % block)] + [(0, 0)] * (x.ndim - 1), constant_values=value
  ).reshape(-1, block, *x.shape[1:])

  def count_block(rows):
    units, zero_shot, labels = rows
    affinity = affinity_fn(cache, units)  # once for all strengths

    def count_beta(beta):
      votes = cache_logits(affinity, beta)  # [k, block]
      count = lambda alpha: count_right(zero_shot.T + alpha * votes, labels)
      return jax.lax.map(count, alphas)

    return jax.lax.map(count_beta, betas)  # [betas, alphas] int

  rows = (pad(units, 0.0), pad(zero_shot, 0.0), pad(jnp.asarray(labels), -1))
  counts = jax.lax.map(count_block, rows).sum(0)
  i, j = jnp.unravel_index(counts.argmax(), counts.shape)
  accuracies = counts / n
  best = Strengths(betas[i], alphas[j])
  return Searched(best, accuracies[i, j], accuracies, betas, alphas)


def count_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Counts the columns of [k, n] whose first largest logit is at labels [n].

  A label of -1 is never right. The same as counting argmax(0) == labels, but
  comparisons are vectorised on CPUs, where argmax is ten times slower.
  """
  row = jnp.arange(len(logits))[:, None]
  at_label = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[None], axis=0)
  before, after = row < labels, row > labels
  beaten = (before & (logits >= at_label)) | (after & (logits > at_label))
  return jnp.sum(~beaten.any(0) & (labels >= 0))


# --- Tip-Adapter-F ------------------------------------------------------------


class TunedCache(NamedTuple):
  """The result of Tip-Adapter-F's training."""

  cache: Cache  # after the last step
  losses: jax.Array  # [steps]


@jax.jit
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
) -> TunedCache:
  """Trains the keys of a cache (Tip-Adapter-F), in one `lax.scan`.

  AdamW (eps 1e-4) and a cosine schedule, stepped in each iteration; the head
  and the strengths stay as they are, and keys keep no unit length. The authors
  report the higher of two test accuracies: of the epoch that is best on the
  test set, and of its cache after a `search` on validation. We report the last
  epoch's.

  Args:
    cache: to start from.
    head: zero-shot.
    features: [n, d] of the shots, of any length; of several augmentation passes
      see `few_shot_methods.flatten_passes`.
    labels: [n] int.
    index: [steps, batch] int, -1 for no row, 256 rows in a batch:
      `linear_head.epochs_index` or `few_shot_methods.passes_index`.
    strengths: such as `SETTINGS["eurosat"].initial`.
    lr: of the first step; it falls to nearly 0 along half a cosine.
    weight_decay: decoupled.
  """
  num_steps = len(index)
  labels = jnp.asarray(labels)
  units = unit_features(features)
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

  carry = (cache.keys, tx.init(cache.keys))
  (keys, _), losses = jax.lax.scan(step, carry, jnp.asarray(index))
  return TunedCache(cache.replace(keys=keys), losses)
