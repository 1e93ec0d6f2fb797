"""Changes of colour and sharpness, of one image on the device.

Images are float [h, w, 3] in [0, 1], as are the results; `jax.vmap` takes
batches. The definitions are those of Pillow and torchvision, whose results are
rounded to 256 levels after each change: these are within two levels of them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# ITU-R 601, as Pillow turns RGB into L.
LUMA = (0.299, 0.587, 0.114)


def luma(image: jax.Array) -> jax.Array:
  """Maps [h, w, 3] to its lightness [h, w, 1]."""
  r, g, b = (image[..., i : i + 1] for i in range(3))
  return LUMA[0] * r + LUMA[1] * g + LUMA[2] * b


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
  phase = lambda start: 2 - jnp.abs((sector + start) % 6 - 2)
  channel = lambda start: value - chroma * jnp.clip(phase(start), 0, 1)
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

  Three of them are one blend with another image, so that one pass makes
  whichever comes next: a `lax.switch` would compute all four under `vmap`.

  Args:
    image: [h, w, 3].
    order: [4] of 0 to 3, brightness, contrast, saturation and hue.
    factors: [4] of these four.
  """
  factors = jnp.asarray(factors)

  def change(image, which):
    gray = luma(image)
    # Of brightness, contrast and saturation.
    other = jnp.stack([0.0, 1.0, 0.0])[which % 3] * gray.mean()
    other = other + jnp.where(which == 2, gray, 0)
    blended = blend(image, other, factors[which])
    return jnp.where(which == 3, hue(image, factors[3]), blended), None

  return jax.lax.scan(change, image, order)[0]


def grayscale(image: jax.Array) -> jax.Array:
  """Gives all three channels the lightness."""
  return jnp.broadcast_to(luma(image), image.shape)


MAX_SIGMA = 2.0


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
  """Blurs by a Gaussian of deviation `sigma` pixels, at most MAX_SIGMA.

  The kernel ends at 3 MAX_SIGMA; the edge is repeated. Pillow's GaussianBlur
  has the same radius = sigma, and approximates the Gaussian by three boxes.
  """
  radius = round(3 * MAX_SIGMA)
  offsets = jnp.arange(-radius, radius + 1)
  kernel = jnp.exp(-jnp.square(offsets / sigma) / 2)
  kernel = kernel / kernel.sum()
  for axis in (0, 1):
    sides = [(radius, radius) if i == axis else (0, 0) for i in range(3)]
    padded = jnp.pad(image, sides, mode="edge")
    size = image.shape[axis]
    image = sum(
      kernel[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
      for i in range(2 * radius + 1)
    )
  return image
