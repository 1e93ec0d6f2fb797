"""The contrastive objective of CLIP (Radford et al. 2021, Figure 3)."""

import math
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from synthjax.training import loop
from synthjax.training.loop import Objective

MAX_LOGIT_SCALE = math.log(100)  # Section 2.5: it trained unstably above


@flax.struct.dataclass
class ContrastiveState:
  """All that changes in training."""

  step: jax.Array  # []
  params: Any  # of both towers, with `logit_scale` at the top
  ema: Any  # a running average of params; None without ema_decay
  opt_state: optax.OptState
  batch_stats: Any  # of BatchNorm; empty where the towers have none


def diagonal(batch: dict) -> jax.Array:
  """Matches each image with its own text alone: bool [n, n], as in CLIP."""
  return jnp.eye(len(batch["tokens"]), dtype=bool)


def same_text(batch: dict) -> jax.Array:
  """Matches each image with every equal text of the batch: bool [n, n]."""
  tokens = batch["tokens"]
  return (tokens[:, None] == tokens[None]).all(-1)


def same_concept(batch: dict) -> jax.Array:
  """Matches each image with the texts of all rows of its `concept` [n]."""
  return batch["concept"][:, None] == batch["concept"][None]


POSITIVES = {
  "diagonal": diagonal,
  "same_text": same_text,
  "same_concept": same_concept,
}


def cross_entropy(logits: jax.Array, positive: jax.Array) -> jax.Array:
  """Returns the mean of rows, whose targets are uniform over their positives.

  Args:
    logits: [n, m] float32, finite.
    positive: [n, m] bool, True at least once in each row.
  """
  target = positive / positive.sum(-1, keepdims=True)
  return -jnp.sum(target * jax.nn.log_softmax(logits), -1).mean()


def contrastive_loss(logits: jax.Array, positive: jax.Array) -> jax.Array:
  """Averages the two cross entropies, image to text and text to image.

  Args:
    logits: [n, n] float32, images by texts.
    positive: [n, n] bool, True where image and text belong together, at least
      once in each row and column. A row with several positives has a uniform
      target over them; with the diagonal alone this is CLIP's loss.

  Returns:
    [] float32, in nats.
  """

  image_to_text = cross_entropy(logits, positive)
  return (image_to_text + cross_entropy(logits.T, positive.T)) / 2


def contrastive(
  model: Any,
  tx: optax.GradientTransformation,
  *,
  ema_decay: float | None = None,
  positives: str = "same_text",
  preprocess: Callable[[jax.Array], jax.Array] | None = None,
) -> Objective:
  """Returns the objective that trains both towers of CLIP.

  A batch holds `images` [n, h, w, 3], float (normalised) or uint8 (needs
  `preprocess`), `tokens` int [n, l] and, for "same_concept", `concept` int
  [n]. Augmentation is left to the input pipeline, so a step draws nothing.

  Args:
    model: with Flax's `init(rng, images, tokens)` and `apply(variables,
      images, tokens)` -> logits [n, n], and a parameter `logit_scale`. One with
      BatchNorm is applied with `train=True`.
    tx: the optimizer.
    ema_decay: of the running average of the parameters, see `loop.follow`;
      None keeps none.
    positives: a key of POSITIVES. CLIP takes the other texts of a batch as
      negatives ("diagonal"), which is right while texts seldom repeat. Where
      several rows share a caption or a concept that would push equal texts
      apart; "same_text" and "same_concept" share the target among them.
    preprocess: normalises uint8 images.

  Raises:
    ValueError: for unknown `positives`, or uint8 images without `preprocess`.
  """
  if positives not in POSITIVES:
    raise ValueError(
      f"positives={positives!r} is unknown; choose one of {sorted(POSITIVES)}."
    )

  def normalised(images):
    if images.dtype != jnp.uint8:
      return images
    if preprocess is None:
      raise ValueError(
        "found uint8 images but no way to normalise them; give "
        "contrastive(preprocess=...), such as synthjax.models.clip.model."
        "preprocess."
      )
    return preprocess(images)

  def init(rng, batch):
    images = normalised(jnp.asarray(batch["images"][:1]))
    tokens = jnp.asarray(batch["tokens"][:1])
    variables = model.init(rng, images, tokens)
    params = variables["params"]
    # A copy, as a donated state must not hold one buffer twice.
    ema = None if ema_decay is None else jax.tree.map(jnp.copy, params)
    stats = variables.get("batch_stats", {})
    return ContrastiveState(jnp.array(0), params, ema, tx.init(params), stats)

  def step(state, batch, rng):
    del rng  # all randomness is in the batch
    images, tokens = normalised(batch["images"]), batch["tokens"]
    positive = POSITIVES[positives](batch)

    def loss_fn(params):
      variables, stats = {"params": params}, state.batch_stats
      if not stats:
        logits = model.apply(variables, images, tokens)
      else:
        logits, updated = model.apply(
          variables | {"batch_stats": stats},
          images,
          tokens,
          train=True,
          mutable=["batch_stats"],
        )
        stats = updated["batch_stats"]
      return contrastive_loss(logits, positive), (logits, stats)

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = grad_fn(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    scale = jnp.minimum(params["logit_scale"], MAX_LOGIT_SCALE)
    params = params | {"logit_scale": scale}

    ema = loop.follow(state.ema, params, state.step, decay=ema_decay)
    hit = lambda axis: jnp.take_along_axis(
      positive, jnp.expand_dims(logits.argmax(axis), axis), axis
    )
    metrics = {
      "loss": loss,
      "image_to_text_top1": hit(1).mean(),
      "text_to_image_top1": hit(0).mean(),
      "logit_scale": jnp.exp(scale),
    }
    step = state.step + 1
    return ContrastiveState(step, params, ema, opt_state, batch_stats), metrics

  return Objective(init, step)
