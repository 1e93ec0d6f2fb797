"""Changes of colour and sharpness, of one image on the device.

Images are float [h, w, 3] in [0, 1], as are the results; `jax.vmap` takes
batches. The definitions are those of Pillow and torchvision, whose results are
rounded to 256 levels after each change: these are within two levels of them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# ITU-R 601, as Pillow turns RGB into L.
LUMA = (0.299, 0.587, 0.114)


def luma(image: jax.Array) -> jax.Array:
  """Maps [h, w, 3] to its lightness [h, w, 1]."""
  # As a product, which XLA computes once; a sum it would fuse into whatever
  # reads it, three times for each of a chain of changes.
  weights = jnp.array(LUMA, image.dtype)[:, None]
  return jnp.matmul(image, weights, precision="highest")


def blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
  """Returns factor image + (1 - factor) other, within [0, 1]."""
  return jnp.clip(other + factor * (image - other), 0, 1)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Darkens towards black (factor 0) or brightens (above 1)."""
  return blend(image, jnp.zeros_like(image), factor)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Takes all pixels towards the mean lightness of the image, or from it."""
  return blend(image, luma(image).mean(), factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
  """Takes each pixel towards its own lightness, or from it."""
  return blend(image, luma(image), factor)


def hue(image: jax.Array, shift: jax.Array) -> jax.Array:
  """Turns the hue by a share of the circle, in [-0.5, 0.5].

  Saturation and value of HSV stay. Pillow turns a hue of 256 steps.
  """
  value, least = image.max(-1), image.min(-1)
  chroma = value - least
  r, g, b = (image[..., i] for i in range(3))
  safe = jnp.where(chroma > 0, chroma, 1)
  sector = jnp.where(
    value == r,
    (g - b) / safe,
    jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe),
  )
  sector = sector + 6 * shift  # of six, from red over green and blue

  # Around the circle each channel stays high for two sectors, falls over one,
  # stays low for two and rises over one.
  def channel(start):
    place = (sector + start) / 6
    place = 6 * (place - jnp.floor(place))
    return value - chroma * jnp.clip(2 - jnp.abs(place - 2), 0, 1)

  return jnp.stack([channel(5), channel(3), channel(1)], -1)


def color_jitter(
  image: jax.Array,
  rng: jax.Array,
  *,
  brightness: float,
  contrast: float,
  saturation: float,
  hue: float,
) -> jax.Array:
  """Changes brightness, contrast, saturation and hue in a random order.

  torchvision's ColorJitter. The first three have factors in [1 - x, 1 + x], not
  below 0; the hue turns by up to a share `hue` of the circle either way.
  """
  order_rng, factor_rng = jax.random.split(rng)
  order = jax.random.permutation(order_rng, 4)
  ranges = jnp.array([brightness, contrast, saturation, hue])
  low = jnp.array([*jnp.maximum(1 - ranges[:3], 0), -hue])
  high = jnp.array([*(1 + ranges[:3]), hue])
  factors = jax.random.uniform(factor_rng, (4,), minval=low, maxval=high)
  return jitter(image, order, factors)


def jitter(
  image: jax.Array, order: jax.Array, factors: Sequence[float]
) -> jax.Array:
  """Applies the four changes of `color_jitter` with given factors.

  A `lax.switch` would compute all four for each place in the order, under
  `vmap`. But three of them are a blend with another image, which a factor of 1
  makes do nothing: all come once before the turn of the hue, the costly one,
  and once after it, and each counts in its place alone.

  Args:
    image: [h, w, 3].
    order: [4] of 0 to 3, brightness, contrast, saturation and hue.
    factors: [4] of these four.
  """
  factors = jnp.asarray(factors)
  at = jnp.argmax(order == 3)  # when the hue turns

  def change(image, which, counts):
    gray = luma(image)
    other = jnp.where(which == 1, gray.mean(), 0.0)
    other = jnp.where(which == 2, gray, other)
    return blend(image, other, jnp.where(counts, factors[which], 1.0))

  for i in range(3):
    image = change(image, order[i], i < at)
  image = hue(image, factors[3])
  for i in range(1, 4):
    image = change(image, order[i], i > at)
  return image


def grayscale(image: jax.Array) -> jax.Array:
  """Gives all three channels the lightness."""
  return jnp.broadcast_to(luma(image), image.shape)


MAX_SIGMA = 2.0


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Blurs by a Gaussian of deviation `sigma` pixels, at most MAX_SIGMA.

  The kernel ends at 3 MAX_SIGMA; the edge is repeated. Pillow's GaussianBlur
  has the same radius = sigma, and approximates the Gaussian by three boxes.

  As matrix products: sums over shifted images would compute anew, for each of
  their terms, whatever XLA fuses before them.
  """
  rows, columns = (_blur_matrix(side, sigma) for side in image.shape[:2])
  blurred = jnp.einsum("yh,hwc->ywc", rows, image, precision="highest")
  return jnp.einsum("xw,ywc->yxc", columns, blurred, precision="highest")


def _blur_matrix(side: int, sigma: jax.Array) -> jax.Array:
  """Returns the weights [side, side] of the places of a line."""
  radius = round(3 * MAX_SIGMA)
  # Of a line that goes on by the radius on both sides.
  offsets = np.arange(-radius, side + radius) - np.arange(side)[:, None]
  weights = jnp.exp(-jnp.square(offsets / sigma) / 2)
  weights = jnp.where(np.abs(offsets) <= radius, weights, 0)
  weights = weights / weights.sum(1, keepdims=True)
  # What it goes on with is the edge.
  before, after = weights[:, :radius].sum(1), weights[:, -radius:].sum(1)
  inner = weights[:, radius:-radius]
  return inner.at[:, 0].add(before).at[:, -1].add(after)
