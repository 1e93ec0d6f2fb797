"""Momentum contrast, version 2 (He et al. 2020; Chen et al. 2020).

The trained encoder (f_q, of the queries) learns to distinguish an image's two
views from the views of other images: from a queue of features that a slowly
moving copy of it (f_k, of the keys) has computed of earlier images.

The authors train on eight devices, each with the BatchNorm statistics of its
own 32 images, and shuffle the keys between the devices, as statistics that a
query and its key share would give the answer away. Here the batch is split
into groups of as many images, wherever they lie: on any number of devices the
step is the same.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any

import flax
import jax
import jax.numpy as jnp
import optax

from synthjax.config.schema import Arguments, Count, Positive, Share
from synthjax.models.pixels import normalize
from synthjax.models.unit import unit
from synthjax.runtime.errors import UserError
from synthjax.training.loop import Objective
from synthjax.training.pretraining import WithoutLabels


@flax.struct.dataclass
class MocoState:
  """All that changes in training."""

  step: jax.Array  # []
  query: Any  # variables of f_q, trained by gradients
  key: Any  # variables of f_k; its params are a running average of f_q's
  queue: jax.Array  # [queue_size, dim] unit vectors
  pointer: jax.Array  # [] row of the oldest, where the next keys go
  opt_state: optax.OptState


def moco(
  encoder: Any,
  tx: optax.GradientTransformation,
  *,
  queue_size: Count = 65536,
  dim: Count = 128,
  momentum: Share = 0.999,
  temperature: Positive = 0.2,
  num_groups: Count = 8,
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  preprocess: Callable[[jax.Array], jax.Array] = normalize,
) -> Objective:
  """Returns the objective of MoCo v2.

  A batch holds the two views of each image, `query` and `key` [n, h, w, 3],
  uint8 or normalised float; or `image` alone, of which `augment` makes both.

  Args:
    encoder: with Flax's `init(rng, images, train=)` and `apply(variables,
      images, train=, mutable=)` -> [n, dim], not normalised: a ResNet with
      `head="mlp"` and `num_classes=dim`.
    tx: the optimizer.
    queue_size: K, a multiple of the batch.
    dim: of the space that is compared in.
    momentum: m, of the parameters of f_k.
    temperature: T.
    num_groups: of the batch, each with BatchNorm statistics of its own. The
      running statistics move by the mean over the groups; the authors keep
      those of their first device, the same in the mean and noisier.
    augment: (images, rng) -> images, on the device.
    preprocess: images -> float32, after augmentation.

  Raises:
    UserError: when compiled, about sizes that do not fit the batch.
  """

  def views(batch, rng):
    pair = ("query", "key") if "query" in batch else ("image", "image")
    for name, view_rng in zip(pair, jax.random.split(rng), strict=True):
      images = jnp.asarray(batch[name])
      yield preprocess(images if augment is None else augment(images, view_rng))

  def encode(variables, images):
    """Maps [n, h, w, 3] to unit vectors [n, dim], and moves the statistics."""
    groups = images.reshape(num_groups, -1, *images.shape[1:])
    apply = lambda x: encoder.apply(
      variables, x, train=True, mutable=["batch_stats"]
    )
    features, stats = jax.vmap(apply)(groups)  # [groups, n / groups, dim]
    stats = jax.tree.map(lambda s: s.mean(0), dict(stats))
    return unit(features.reshape(len(images), -1)), stats

  def init(rng, batch):
    rng, queue_rng, view_rng = jax.random.split(rng, 3)
    images = next(views(jax.tree.map(lambda x: x[:1], batch), view_rng))
    query = dict(encoder.init(rng, images, train=False))
    out = jax.eval_shape(encoder.apply, query, images).shape
    if out != (1, dim):
      raise UserError(
        f"The encoder maps an image to {out[1:]}, but dim={dim}: give it "
        f"num_classes={dim}."
      )
    return MocoState(
      step=jnp.array(0),
      query=query,
      # A copy, as a donated state must not hold one buffer twice.
      key=jax.tree.map(jnp.copy, query),
      queue=unit(jax.random.normal(queue_rng, (queue_size, dim))),
      pointer=jnp.array(0),
      opt_state=tx.init(query["params"]),
    )

  def step(state, batch, rng):
    _check_sizes(batch, queue_size=queue_size, num_groups=num_groups)
    view_rng, order_rng = jax.random.split(rng)
    query_images, key_images = views(batch, view_rng)
    params = state.query["params"]
    # As in the authors' code, f_k moves before it encodes, and its parameters
    # alone: its statistics are those of the keys.
    average = optax.incremental_update(
      params, state.key["params"], 1 - momentum
    )
    key = state.key | {"params": average}
    order = jax.random.permutation(order_rng, len(key_images))
    k, key_stats = encode(key, key_images[order])
    k = k[jnp.argsort(order)]  # [n, dim]

    def loss_fn(params):
      q, stats = encode(state.query | {"params": params}, query_images)
      positive = jnp.einsum("nd,nd->n", q, k, precision="highest")
      negative = jnp.einsum("nd,md->nm", q, state.queue, precision="highest")
      logits = jnp.column_stack([positive, negative]) / temperature
      loss = -jax.nn.log_softmax(logits)[:, 0].mean()  # 0 is the positive
      return loss, (logits, stats)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, query_stats)), grads = grad_fn(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    state = MocoState(
      step=state.step + 1,
      query={"params": optax.apply_updates(params, updates)} | query_stats,
      key=key | key_stats,
      queue=jax.lax.dynamic_update_slice(state.queue, k, (state.pointer, 0)),
      pointer=(state.pointer + len(k)) % queue_size,
      opt_state=opt_state,
    )
    return state, {"loss": loss, "top1": jnp.mean(logits.argmax(-1) == 0)}

  return Objective(
    init,
    step,
    trained="query",
    average="key",
    weights=lambda state: state.query,  # as the authors: f_q
    has_classifier=False,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moco(WithoutLabels):
  """Pre-training with objective="moco": a ResNet with an MLP head."""

  moco: Annotated[
    Any, Arguments(moco, ("encoder", "tx", "augment", "preprocess"))
  ] = partial(moco)

  def make_objective(
    self,
    make_model: Callable[..., Any],
    *,
    num_classes: int,
    tx: optax.GradientTransformation,
  ) -> Objective:
    del num_classes  # no label is used
    dim = self.moco.keywords.get("dim", 128)
    try:
      encoder = make_model(num_classes=dim, **self.model | {"head": "mlp"})
    except UserError as error:
      raise UserError(
        "objective='moco' trains a ResNet, whose `head` can be 'mlp': choose "
        f"another config.pretrain.model than {self.model}. {error}"
      ) from error
    return self.moco(encoder, tx, augment=self.augmenter())

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    if not self.crops:
      yield (
        "the two views of objective='moco' are made on the device: give "
        "device_augment='moco_v2' and augment='none'"
      )


def _check_sizes(batch: dict, *, queue_size: int, num_groups: int) -> None:
  """Raises UserError about a batch that fits neither queue nor groups."""
  n = len(batch["query"] if "query" in batch else batch["image"])
  problems = []
  if queue_size % n:
    near = max(queue_size // n, 1) * n
    problems.append(
      f"queue_size={queue_size} is not a multiple of the batch of {n}: try "
      f"{near}."
    )
  if n % num_groups:
    problems.append(
      f"The batch of {n} does not split into num_groups={num_groups}: choose "
      f"one of {[g for g in range(1, n + 1) if n % g == 0]}."
    )
  elif n == num_groups and n > 1:
    problems.append(
      f"num_groups={num_groups} leaves one image to a group, which has no "
      "statistics: MoCo's groups have 32."
    )
  if problems:
    raise UserError("MoCo's sizes do not fit: " + " ".join(problems))
