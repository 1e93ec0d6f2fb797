"""Tests of the contrastive objective."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from synthjax.training import contrastive as contrastive_lib
from synthjax.training.contrastive import contrastive, contrastive_loss


class Towers(nn.Module):
  """The smallest model of the objective's shape."""

  @nn.compact
  def __call__(self, images, tokens):
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    a = nn.Dense(4, name="image")(images.reshape(len(images), -1))
    b = nn.Embed(9, 4, name="text")(tokens).mean(1)
    scale = self.param("logit_scale", nn.initializers.constant(1.0), ())
    return jnp.exp(scale) * unit(a) @ unit(b).T


def a_batch():
  images = jax.random.normal(jax.random.key(3), (4, 2, 2, 3))
  tokens = jnp.array([[1, 2], [3, 4], [1, 2], [5, 6]])
  return {"images": images, "tokens": tokens, "concept": jnp.arange(4) // 2}


def test_the_loss_of_a_hand_counted_case():
  logits = jnp.log(jnp.array([[3.0, 1.0], [2.0, 2.0]]))
  # Rows: p = 3/4 and 1/2. Columns: 3/5 and 2/3.
  rows = -(np.log(3 / 4) + np.log(1 / 2)) / 2
  columns = -(np.log(3 / 5) + np.log(2 / 3)) / 2
  loss = contrastive_loss(logits, jnp.eye(2, dtype=bool))
  np.testing.assert_allclose(loss, (rows + columns) / 2, rtol=1e-6)
  # With both texts right for both images, targets are one half each.
  both = -np.log([3 / 4, 1 / 4, 1 / 2, 1 / 2, 3 / 5, 2 / 5, 1 / 3, 2 / 3])
  loss = contrastive_loss(logits, jnp.ones((2, 2), bool))
  np.testing.assert_allclose(loss, both.mean(), rtol=1e-6)


def test_distinct_texts_give_the_loss_of_clip():
  logits = jax.random.normal(jax.random.key(0), (5, 5))
  tokens = jnp.arange(10).reshape(5, 2)
  positive = contrastive_lib.same_text({"tokens": tokens})
  labels = jnp.arange(5)
  want = optax.softmax_cross_entropy_with_integer_labels
  want = (want(logits, labels).mean() + want(logits.T, labels).mean()) / 2
  np.testing.assert_allclose(
    contrastive_loss(logits, positive), want, rtol=1e-6
  )


def test_positives_are_the_rows_that_share_a_text_or_a_concept():
  batch = a_batch()
  eye = np.eye(4, dtype=bool)
  text, concept = eye.copy(), eye.copy()
  text[0, 2] = text[2, 0] = True
  concept[0, 1] = concept[1, 0] = concept[2, 3] = concept[3, 2] = True
  want = {"diagonal": eye, "same_text": text, "same_concept": concept}
  assert want.keys() == contrastive_lib.POSITIVES.keys()
  for name, positive in want.items():
    got = contrastive_lib.POSITIVES[name](batch)
    np.testing.assert_array_equal(got, positive, err_msg=name)


def test_training_matches_images_with_their_texts():
  objective = contrastive(Towers(), optax.adam(0.05), ema_decay=0.5)
  batch = a_batch()
  state = objective.init(jax.random.key(0), batch)
  step = jax.jit(objective.step, donate_argnums=0)
  for _ in range(60):
    state, metrics = step(state, batch, jax.random.key(0))
  assert int(state.step) == 60
  # Two rows share a text, so that no loss is below their entropy, ln(2) / 2.
  assert 0.34 < metrics["loss"] < 0.6
  assert metrics["image_to_text_top1"] == metrics["text_to_image_top1"] == 1


def test_the_logit_scale_stops_at_one_hundred():
  objective = contrastive(Towers(), optax.sgd(-1e4))  # away from the optimum
  up = contrastive(Towers(), optax.sgd(1e4))
  batch = a_batch()
  state = objective.init(jax.random.key(0), batch)
  scales = [
    float(o.step(state, batch, jax.random.key(0))[1]["logit_scale"])
    for o in (objective, up)
  ]
  assert max(scales) == pytest.approx(100)
  assert min(scales) < np.e  # the other step went down, unclamped


def test_the_average_follows_the_parameters():
  batch = a_batch()
  objective = contrastive(Towers(), optax.sgd(0.1), ema_decay=0.99)
  first = objective.init(jax.random.key(0), batch)
  state, _ = objective.step(first, batch, jax.random.key(0))
  # The first step averages with min(0.99, 1 / 10).
  want = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, first.ema, state.params)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.ema, want
  )
  without = contrastive(Towers(), optax.sgd(0.1))
  assert without.init(jax.random.key(0), batch).ema is None


def test_uint8_images_need_a_way_to_normalise_them():
  batch = a_batch() | {"images": np.full((4, 2, 2, 3), 51, np.uint8)}
  with pytest.raises(ValueError, match="preprocess"):
    contrastive(Towers(), optax.sgd(0.1)).init(jax.random.key(0), batch)
  objective = contrastive(
    Towers(), optax.sgd(0.1), preprocess=lambda images: images / 255
  )
  state = objective.init(jax.random.key(0), batch)
  floats = batch | {"images": np.full((4, 2, 2, 3), 0.2, np.float32)}
  _, a = objective.step(state, batch, jax.random.key(0))
  _, b = objective.step(state, floats, jax.random.key(0))
  np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)


def test_unknown_positives_name_the_known_ones():
  with pytest.raises(ValueError, match="'pairs'.*diagonal.*same_text"):
    contrastive(Towers(), optax.sgd(0.1), positives="pairs")
