"""Multi-positive contrast: StableRep (Tian et al. 2023).

Images of one prompt are positives of each other. An image is compared with all
others of its batch; the target is uniform over those of its prompt. There is
neither a queue nor a second encoder, and an image needs no second view.

A batch holds its prompts one after the other, each with as many images: see
`data.pipeline.loader.grouped`. As in the authors' code, BatchNorm has separate
statistics for the first image of each prompt, for the second, and so on: the
statistics say nothing of which images belong together.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from synthjax.config.schema import Arguments, Count, Positive
from synthjax.models.pixels import normalize
from synthjax.models.unit import unit
from synthjax.training.contrastive import cross_entropy
from synthjax.training.device_augment import Augment
from synthjax.training.loop import Objective
from synthjax.training.pretraining import WithoutLabels


class Projector(nn.Module):
  """Maps features to the space that is compared in, by two hidden layers."""

  hidden: int
  dim: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Maps float32 [n, c] to [n, dim]."""
    # As in PyTorch: uniform within 1 / sqrt(c).
    init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    dense = partial(nn.Dense, kernel_init=init)
    norm = partial(
      nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5
    )
    for i in (1, 2):
      x = dense(self.hidden, name=f"layer{i}")(x)
      x = nn.relu(norm(name=f"bn{i}")(x))
    return dense(self.dim, name="layer3")(x)


@flax.struct.dataclass
class MultiPositiveState:
  """All that changes in training."""

  step: jax.Array  # []
  encoder: Any  # variables of the backbone, which is kept
  projector: Any  # variables of what follows it
  opt_state: optax.OptState


def compare(
  features: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """Compares all images of a batch (Section 3.2), for `cross_entropy`.

  Args:
    features: unit vectors [n, m, d], m images of each of n prompts.
    temperature: of the cosines.

  Returns:
    Logits [n m, n m], out of reach where an image meets itself, and the
    positives, bool [n m, n m]: the m - 1 others of its prompt.

  Raises:
    ValueError: for single images, which have no positive.
  """
  n, m, _ = features.shape
  if m < 2:
    raise ValueError(
      f"{m} image of each prompt has no positive: give 2 or more."
    )
  flat = features.reshape(n * m, -1)
  cosines = jnp.einsum("id,jd->ij", flat, flat, precision="highest")
  prompt, itself = jnp.arange(n * m) // m, jnp.eye(n * m, dtype=bool)
  positive = (prompt[:, None] == prompt) & ~itself
  return jnp.where(itself, -1e9, cosines / temperature), positive


def multi_positive(
  encoder: Any,
  tx: optax.GradientTransformation,
  *,
  per_prompt: int,
  hidden: Count = 4096,
  dim: Count = 256,
  temperature: Positive = 0.1,
  augment: Augment = lambda images, rng: images,
) -> Objective:
  """Returns the objective of StableRep.

  A batch holds `image` [n m, h, w, 3], uint8 or normalised float, the m images
  of a prompt beside each other.

  Args:
    encoder: with Flax's `init(rng, images, train=)` and `apply(variables,
      images, train=, mutable=, rngs=)` -> features [n, c].
    tx: the optimizer.
    per_prompt: m, at least 2.
    hidden: width of both hidden layers of the projector.
    dim: of the space that is compared in.
    temperature: of the cosines.
    augment: (images, rng) -> images, on the device.
  """
  projector = Projector(hidden, dim)

  def init(rng, batch):
    rng, projector_rng, augment_rng = jax.random.split(rng, 3)
    images = normalize(augment(jnp.asarray(batch["image"][:1]), augment_rng))
    variables = dict(encoder.init(rng, images, train=False))
    features = jax.eval_shape(encoder.apply, variables, images)
    projected = dict(projector.init(projector_rng, jnp.zeros(features.shape)))
    params = variables["params"], projected["params"]
    return MultiPositiveState(
      jnp.array(0), variables, projected, tx.init(params)
    )

  def project(variables, projected, images, rng):
    """Maps [n, h, w, 3] to unit vectors [n, dim], and moves the statistics."""
    features, stats = encoder.apply(
      variables,
      images,
      train=True,
      mutable=["batch_stats"],
      rngs={"dropout": rng},
    )
    z, projected_stats = projector.apply(
      projected, features, train=True, mutable=["batch_stats"]
    )
    return unit(z), (dict(stats), dict(projected_stats))

  def step(state, batch, rng):
    augment_rng, dropout_rng = jax.random.split(rng)
    images = normalize(augment(jnp.asarray(batch["image"]), augment_rng))
    images = images.reshape(-1, per_prompt, *images.shape[1:])
    rngs = jax.random.split(dropout_rng, per_prompt)

    def loss_fn(params):
      variables = state.encoder | {"params": params[0]}
      projected = state.projector | {"params": params[1]}
      of_each = jax.vmap(
        partial(project, variables, projected), in_axes=(1, 0), out_axes=(1, 0)
      )
      features, stats = of_each(images, rngs)  # [n, m, dim]
      stats = jax.tree.map(lambda s: s.mean(0), stats)
      logits, positive = compare(features, temperature=temperature)
      top1 = jnp.take_along_axis(positive, logits.argmax(-1)[:, None], 1).mean()
      return cross_entropy(logits, positive), (top1, stats)

    params = state.encoder["params"], state.projector["params"]
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (top1, stats)), grads = grad_fn(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    params = optax.apply_updates(params, updates)
    state = MultiPositiveState(
      step=state.step + 1,
      encoder={"params": params[0]} | stats[0],
      projector={"params": params[1]} | stats[1],
      opt_state=opt_state,
    )
    return state, {"loss": loss, "top1": top1}

  return Objective(
    init,
    step,
    trained="encoder",
    average=None,
    weights=lambda state: state.encoder,
    has_classifier=False,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiPositive(WithoutLabels):
  """Pre-training with objective="multi_positive": any model, without a head."""

  multi_positive: Annotated[
    Any, Arguments(multi_positive, ("encoder", "tx", "per_prompt", "augment"))
  ] = partial(multi_positive)

  def make_objective(
    self,
    make_model: Callable[..., Any],
    *,
    num_classes: int,
    tx: optax.GradientTransformation,
  ) -> Objective:
    del num_classes  # no label is used
    return self.multi_positive(
      make_model(num_classes=None, **self.model),
      tx,
      per_prompt=self.per_prompt,
      augment=self.augmenter(),
    )

  def problems(self) -> Iterable[str]:
    yield from super().problems()
    if (self.per_prompt or 1) < 2:
      yield (
        f"objective='multi_positive' compares images of one prompt, and finds "
        f"per_prompt={self.per_prompt}: give 2 or more; the paper has 6"
      )
