"""Mixup, CutMix and erasing against closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from synthjax.training import mixup
from synthjax.training.supervised import supervised

rng = jax.random.key(0)


def numbered(n, h=6, w=8):
  """Returns images [n, h, w, 1] filled with their number."""
  numbers = jnp.arange(n, dtype=float)[:, None, None, None]
  return jnp.broadcast_to(numbers, (n, h, w, 1))


def test_mixup_adds_the_reversed_batch():
  mixed = mixup.mixup(numbered(3), 0.75)
  want = 0.75 * np.arange(3) + 0.25 * np.arange(3)[::-1]
  np.testing.assert_allclose(mixed[:, 0, 0, 0], want)


@pytest.mark.parametrize(
  ("share", "center", "box", "own"),
  [
    # Half of the sides: 3 of 6 rows is cut to 2 x 1, 4 of 8 columns is 4.
    (0.75, (3, 4), (2, 2, 4, 6), 1 - 8 / 48),
    (0.75, (0, 0), (0, 0, 1, 2), 1 - 2 / 48),  # cut at the corner
    (0.75, (5, 7), (4, 5, 6, 8), 1 - 6 / 48),
    (1.0, (3, 4), (3, 4, 3, 4), 1.0),  # nothing
    (0.0, (3, 4), (0, 0, 6, 8), 0.0),  # all of it
  ],
)
def test_the_box_of_cutmix_and_its_share_are_those_counted_by_hand(
  share, center, box, own
):
  got, got_own = mixup.cut_box(
    jnp.array(share), jnp.array(center), height=6, width=8
  )
  assert tuple(got.tolist()) == box
  np.testing.assert_allclose(got_own, own, rtol=1e-6)
  images = numbered(2)
  pasted = mixup.paste(images, images[::-1], got)
  np.testing.assert_allclose((pasted[0] == 0).mean(), own, rtol=1e-6)
  np.testing.assert_allclose((pasted[1] == 1).mean(), own, rtol=1e-6)


def test_the_share_of_a_mixed_batch_is_what_its_images_show():
  """Means of images tell how much of each is its own, in both ways to mix."""
  images = numbered(4)
  mix = jax.jit(mixup.mix)
  shares, cut = [], 0
  for seed in range(60):
    mixed, share = mix(images, jax.random.key(seed))
    want = share * np.arange(4) + (1 - share) * np.arange(4)[::-1]
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), want, atol=1e-5)
    assert np.ptp(share) == 0  # one for the batch
    shares.append(float(share[0]))
    cut += set(np.unique(mixed)) <= {0, 1, 2, 3}
  assert 15 < cut < 45  # half of the time
  assert np.std(shares) > 0.2  # Beta(0.8, 0.8) and the flat Beta(1, 1)


def test_mixing_may_be_rare():
  images = numbered(4)
  mixed, share = mixup.mix(images, rng, prob=0.0)
  np.testing.assert_array_equal(share, 1)
  np.testing.assert_array_equal(mixed, images)
  mix = jax.jit(partial(mixup.mix, switch_prob=0.0))
  shares = [mix(images, jax.random.key(i))[1][0] for i in range(8)]
  assert len(set(map(float, shares))) == 8


def test_erasing_fills_rectangles_of_the_stated_shape_with_noise():
  h, w = 40, 30
  images = jnp.full((400, h, w, 3), 9.0)
  keys = jax.random.split(rng, 400)
  erased = np.asarray(jax.jit(jax.vmap(mixup.erase))(images, keys))
  changed = (erased != 9).all(-1)
  hit = changed.any((1, 2))
  assert 70 < hit.sum() < 130  # a quarter
  noise = erased[changed]
  assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
  for mask in changed[hit]:
    rows, columns = mask.any(1), mask.any(0)
    height, width = rows.sum(), columns.sum()
    assert mask.sum() == height * width  # one rectangle
    assert height < h and width < w
    # Rounding of both sides stretches the limits a little.
    assert 0.017 < height * width / (h * w) < 0.36
    assert 0.25 < height / width < 4.0


def test_an_erasure_that_cannot_fit_leaves_the_image():
  image = jnp.zeros((4, 400, 1))
  erase = partial(mixup.erase, prob=1.0, area=(0.9, 1.0), aspect=1.0)
  same = jax.jit(erase)(image, rng)
  np.testing.assert_array_equal(same, image)


# --- in training ------------------------------------------------------------


class Linear(nn.Module):
  """Logits of the pixels, without batch statistics."""

  @nn.compact
  def __call__(self, images, *, train):
    return nn.Dense(3)(images.reshape(len(images), -1))


def a_batch(n=8):
  draws = np.random.default_rng(0)
  images = draws.normal(size=(n, 2, 2, 3)).astype(np.float32)
  return {"image": images, "label": draws.integers(0, 3, n)}


def test_the_loss_of_a_mixed_batch_is_that_of_mixed_smoothed_targets():
  """timm's off and on values: 0.1 / 3 and 1 - 0.1 + 0.1 / 3."""
  batch, share = a_batch(), jnp.linspace(0.1, 0.9, 8)
  mix = lambda images, rng: (2 * images, share)
  objective = supervised(Linear(), optax.sgd(0.1), label_smoothing=0.1, mix=mix)
  state = objective.init(rng, batch)
  _, metrics = objective.step(state, batch, rng)
  logits = Linear().apply(state.variables, 2 * batch["image"], train=False)
  target = np.full((8, 3), 0.1 / 3)
  target[range(8), batch["label"]] = 1 - 0.1 + 0.1 / 3
  target = share[:, None] * target + (1 - share[:, None]) * target[::-1]
  want = -(target * jax.nn.log_softmax(logits)).sum(-1).mean()
  np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
