"""Captioned drawings on the device: rows, views of them, and their captions."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.embedded import captions, world
from synthjax.training.rand_augment import warp

# Captions of a drawing, sampled once: more than a run of 1,000 epochs can tell
# from captions that are sampled at each visit.
VARIANTS = 32
WHITE = (255, 255, 255)

# (uint8 [h, w, 3], rng) -> uint8 of the same shape
View = Callable[[jax.Array, jax.Array], jax.Array]


def load(
  data: captions.Captioned,
  encode: Callable[[Sequence[str]], dict[str, np.ndarray]],
  *,
  seed: int,
  variants: int = VARIANTS,
  most: int | None = None,
) -> dict[str, np.ndarray]:
  """Loads drawings, each with several captions.

  Args:
    data: which drawings.
    encode: texts -> arrays [texts, ...], such as tokens. It gets each distinct
      text once.
    seed: of the captions.
    variants: captions of a drawing.
    most: drawings that are loaded; None is all. A few suffice to trace a step.

  Returns:
    `image` uint8 [n, 32, 32, 3], and the arrays of `encode` as
    [n, variants, ...].
  """
  source, rng = data.open(), np.random.default_rng(seed)
  rows = [source[i] for i in range(len(source))[:most]]
  texts = [
    world.sample_caption(
      captions.name_more(row, rng, share=data.name_share), rng
    )
    for row in rows
    for _ in range(variants)
  ]
  distinct, place = np.unique(texts, return_inverse=True)
  return {"image": np.stack([row["image"] for row in rows])} | {
    name: array[place].reshape(len(rows), variants, *array.shape[1:])
    for name, array in encode(distinct.tolist()).items()
  }


def draw(arrays: dict, rng: jax.Array, *, batch_size: int, view: View) -> dict:
  """Draws rows by chance, each with one of its captions, and views of them.

  Args:
    arrays: of `load`.
    rng: of this batch.
    batch_size: rows.
    view: of each image.
  """
  row_rng, text_rng, view_rng = jax.random.split(rng, 3)
  count, variants = arrays["tokens"].shape[:2]
  rows = jax.random.randint(row_rng, (batch_size,), 0, count)
  texts = jax.random.randint(text_rng, (batch_size,), 0, variants)
  batch = {
    name: array[rows, texts]
    for name, array in arrays.items()
    if name != "image"
  }
  batch["image"] = jax.vmap(view)(
    arrays["image"][rows], jax.random.split(view_rng, batch_size)
  )
  return batch


# --- views --------------------------------------------------------------------


def flip(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Mirrors an image left to right, half of the time."""
  return jnp.where(jax.random.bernoulli(rng), image[:, ::-1], image)


def shift(image: jax.Array, rng: jax.Array, *, most: int = 2) -> jax.Array:
  """Moves a drawing by up to `most` whole pixels, which keeps it sharp."""
  padded = jnp.pad(
    image, ((most, most), (most, most), (0, 0)), constant_values=255
  )
  y, x = jax.random.randint(rng, (2,), 0, 2 * most + 1)
  return jax.lax.dynamic_slice(padded, (y, x, 0), image.shape)


def jiggle(
  image: jax.Array,
  rng: jax.Array,
  *,
  shift: float = 0.06,
  scale: float = 0.12,
  degrees: float = 8.0,
) -> jax.Array:
  """Moves, scales and turns a drawing a little on its white ground.

  `data.pipeline.host_augment.jiggle` does so on the host, bicubically.

  Args:
    image: uint8 [h, w, 3].
    rng: of this image.
    shift: largest move, as a share of the side.
    scale: largest change of size, as a share.
    degrees: largest turn, either way.
  """
  h, w = image.shape[:2]
  draws = jax.random.uniform(rng, (4,), minval=-1.0)
  dx, dy = shift * draws[0] * w, shift * draws[1] * h
  factor, angle = 1 + scale * draws[2], jnp.deg2rad(degrees * draws[3])
  cos, sin = jnp.cos(angle) / factor, jnp.sin(angle) / factor
  cx, cy = w / 2, h / 2
  matrix = jnp.array(
    [
      [cos, sin, cx - cos * (cx + dx) - sin * (cy + dy)],
      [-sin, cos, cy + sin * (cx + dx) - cos * (cy + dy)],
    ]
  )
  return warp(image, matrix, WHITE)


def recolour(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Changes a drawing's colours, as another style might; white stays white.

  Each of these a quarter to half of the time: brightness, contrast and
  saturation change; the channels mix; all colour goes; lines grow or shrink.
  """
  rngs = jax.random.split(rng, 6)
  x = 1 - image.astype(jnp.float32) / 255  # ink on the ground

  def sometimes(rng, share, changed, x):
    return jnp.where(jax.random.bernoulli(rng, share), changed, x)

  amounts = jax.random.uniform(rngs[0], (2,), minval=0.6, maxval=1.4)
  gray = x.mean(-1, keepdims=True)
  toned = (gray + amounts[0] * (x - gray)) * amounts[1]
  x = sometimes(rngs[1], 0.5, toned, x)
  mix = 0.3 * jax.random.normal(rngs[2], (3, 3))
  mix = jnp.eye(3) + mix - mix.mean(0)  # gray stays gray
  x = sometimes(rngs[3], 0.3, x @ mix, x)
  x = sometimes(rngs[4], 0.1, jnp.broadcast_to(gray, x.shape), x)
  x = jnp.clip(x, 0, 1)
  widen, narrow = _spread(x, jax.lax.max, 0.0), _spread(x, jax.lax.min, 1.0)
  choice = jax.random.uniform(rngs[5])
  x = jnp.where(choice < 0.15, widen, jnp.where(choice > 0.85, narrow, x))
  return jnp.rint(255 * (1 - x)).astype(jnp.uint8)


def cut_out(
  image: jax.Array, rng: jax.Array, *, share: float = 0.5
) -> jax.Array:
  """Erases a rectangle of up to half of each side, a share of the time."""
  h, w = image.shape[:2]
  often, size, place = jax.random.split(rng, 3)
  sides = jax.random.uniform(size, (2,), minval=0.15, maxval=0.5)
  sides = sides * jnp.array([h, w])
  first = jax.random.uniform(place, (2,)) * (jnp.array([h, w]) - sides)
  y, x = jnp.arange(h)[:, None], jnp.arange(w)[None]
  within = (y >= first[0]) & (y < first[0] + sides[0])
  within &= (x >= first[1]) & (x < first[1] + sides[1])
  within &= jax.random.bernoulli(often, share)
  return jnp.where(within[..., None], jnp.uint8(255), image)


def shrink(images: jax.Array, side: int) -> jax.Array:
  """Averages uint8 [n, h, w, 3] down to [n, side, side, 3], rounding."""
  n, h, w, c = images.shape
  blocks = images.reshape(n, side, h // side, side, w // side, c)
  return jnp.rint(blocks.astype(jnp.float32).mean((2, 4))).astype(jnp.uint8)


def _spread(x: jax.Array, join: Callable, start: float) -> jax.Array:
  """Joins each value of [h, w, 3] with its neighbours, two by two."""
  return jax.lax.reduce_window(x, start, join, (2, 2, 1), (1, 1, 1), "SAME")
