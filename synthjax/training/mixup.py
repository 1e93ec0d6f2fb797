"""Mixup and CutMix of batches, and the erasing of rectangles.

A mixer maps images [n, h, w, c] to mixed ones and the share [n] of each that
is its own; the rest is of the image at the same place of the reversed batch,
which is how timm pairs a batch with itself. `supervised(mix=...)` mixes the
targets in the same shares. Smoothed targets, timm's "off" and "on" values, mix
to the same: both are linear.
"""

import math

import jax
import jax.numpy as jnp

from synthjax.config.schema import NotNegative, Share


def mixup(images: jax.Array, share: jax.Array) -> jax.Array:
  """Returns share images + (1 - share) reversed images (Zhang et al. 2018)."""
  return share * images + (1 - share) * images[::-1]


def cut_box(
  share: jax.Array, center: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  """Returns the box that CutMix takes from the other image, and its own share.

  Args:
    share: [] of the area that shall be the image's own.
    center: [2] y and x, a pixel.
    height: of the images.
    width: of the images.

  Returns:
    [4] y0, x0, y1, x1, of a box of `sqrt(1 - share)` times the sides around the
    centre, cut at the border; and the share that is left outside of it.
  """
  sides = jnp.array([height, width])
  half = (sides * jnp.sqrt(1 - share)).astype(int) // 2
  low = jnp.clip(center - half, 0, sides)
  high = jnp.clip(center + half, 0, sides)
  area = jnp.prod(high - low)
  return jnp.concatenate([low, high]), 1 - area / (height * width)


def paste(images: jax.Array, others: jax.Array, box: jax.Array) -> jax.Array:
  """Returns images [n, h, w, c] with the box y0, x0, y1, x1 of the others."""
  _, h, w, _ = images.shape
  y, x = jnp.arange(h)[:, None], jnp.arange(w)
  inside = (y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3])
  return jnp.where(inside[..., None], others, images)


def mix(
  images: jax.Array,
  rng: jax.Array,
  *,
  mixup_alpha: NotNegative = 0.8,
  cutmix_alpha: NotNegative = 1.0,
  switch_prob: Share = 0.5,
  prob: Share = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """Applies mixup or CutMix to the whole batch, with one share for all.

  Args:
    images: [n, h, w, c], normalised.
    rng: of this batch.
    mixup_alpha: of the Beta(alpha, alpha) distribution of mixup's share.
    cutmix_alpha: of that of CutMix (Yun et al. 2019).
    switch_prob: how often CutMix is chosen.
    prob: how often anything is mixed at all.

  Returns:
    [n, h, w, c], and the share [n] of each image that is its own.
  """
  n, h, w, _ = images.shape
  rngs = jax.random.split(rng, 5)
  use_cutmix = jax.random.bernoulli(rngs[0], switch_prob)
  mixes = jax.random.bernoulli(rngs[1], prob)
  alpha = jnp.where(use_cutmix, cutmix_alpha, mixup_alpha)
  share = jnp.where(mixes, jax.random.beta(rngs[2], alpha, alpha), 1.0)
  center = jax.random.randint(rngs[3], (2,), 0, jnp.array([h, w]))
  box, cut_share = cut_box(share, center, h, w)
  # One of the two is made: neither mixes images and boxes that are not used.
  images = jax.lax.cond(
    use_cutmix,
    lambda: paste(images, images[::-1], box),
    lambda: mixup(images, share),
  )
  share = jnp.where(use_cutmix, cut_share, share)
  return images, jnp.broadcast_to(share, (n,))


def erase(
  image: jax.Array,
  rng: jax.Array,
  *,
  prob: float = 0.25,
  area: tuple[float, float] = (0.02, 1 / 3),
  aspect: float = 0.3,
  attempts: int = 10,
) -> jax.Array:
  """Fills a random rectangle with noise (Zhong et al. 2017; timm's "pixel").

  Args:
    image: [h, w, c], normalised, as the noise is standard normal.
    rng: of this image.
    prob: how often.
    area: smallest and largest share of the image.
    aspect: least height over width; 1 / aspect is the largest.
    attempts: at a rectangle that fits; without one the image stays.
  """
  h, w, _ = image.shape
  prob_rng, area_rng, aspect_rng, place_rng, noise_rng = jax.random.split(
    rng, 5
  )
  areas = jax.random.uniform(
    area_rng, (attempts,), minval=area[0] * h * w, maxval=area[1] * h * w
  )
  limit = math.log(aspect)
  aspects = jnp.exp(
    jax.random.uniform(aspect_rng, (attempts,), minval=limit, maxval=-limit)
  )
  heights = jnp.rint(jnp.sqrt(areas * aspects)).astype(int)
  widths = jnp.rint(jnp.sqrt(areas / aspects)).astype(int)
  fits = (heights < h) & (widths < w)
  first = jnp.argmax(fits)
  size = jnp.array([heights[first], widths[first]])
  corner = jax.random.randint(
    place_rng, (2,), 0, jnp.maximum(jnp.array([h, w]) - size, 0) + 1
  )
  wanted = jax.random.bernoulli(prob_rng, prob) & fits.any()
  box = jnp.concatenate([corner, corner + jnp.where(wanted, size, 0)])
  noise = jax.random.normal(noise_rng, image.shape, image.dtype)
  return paste(image[None], noise[None], box)[0]
