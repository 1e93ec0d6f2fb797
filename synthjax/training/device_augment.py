"""Augmentation on the device: recipes of what happens to uint8 batches.

Each image has a random key of its own, folded from the step's key and its
place in the batch, so that neither the batch's size nor the devices change
what happens to it.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.models.pixels import MEAN, STD, normalize
from synthjax.runtime.errors import unknown_names
from synthjax.training.mixup import erase
from synthjax.training.rand_augment import rand_augment

# --- changes of colour and sharpness, of one image on the device -------------
# Images are float [h, w, 3] in [0, 1], as are the results; `jax.vmap` takes
# batches. The definitions are those of Pillow and torchvision, whose results
# are rounded to 256 levels after each change: these are within two levels of
# them.

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

  torchvision's ColorJitter. The first three are blends with black, with the
  mean lightness and with the lightness of each pixel, with factors in [1 - x,
  1 + x], not below 0; the hue turns by up to a share `hue` of the circle.
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
  # Sums of a line that extends by the radius on both sides.
  offsets = np.arange(-radius, side + radius) - np.arange(side)[:, None]
  weights = jnp.exp(-jnp.square(offsets / sigma) / 2)
  weights = jnp.where(np.abs(offsets) <= radius, weights, 0)
  weights = weights / weights.sum(1, keepdims=True)
  # What it goes on with is the edge.
  before, after = weights[:, :radius].sum(1), weights[:, -radius:].sum(1)
  inner = weights[:, radius:-radius]
  return inner.at[:, 0].add(before).at[:, -1].add(after)


# --- augmentation of batches --------------------------------------------------
# (images [n, h, w, 3], rng) -> images.
Augment = Callable[[jax.Array, jax.Array], jax.Array]
# (one image [h, w, 3], rng) -> image.
Change = Callable[[jax.Array, jax.Array], jax.Array]


def sometimes(prob: float, change: Change) -> Change:
  """Applies a change to an image with this probability."""

  def apply(image, rng):
    prob_rng, rng = jax.random.split(rng)
    changes = jax.random.bernoulli(prob_rng, prob)
    return jnp.where(changes, change(image, rng), image)

  return apply


def random_blur(
  image: jax.Array, rng: jax.Array, *, low: float = 0.1, high: float = 2.0
) -> jax.Array:
  """Blurs by a Gaussian of a random deviation, in pixels."""
  sigma = jax.random.uniform(rng, minval=low, maxval=high)
  return gaussian_blur(image, sigma)


def random_resized_crop(
  image: jax.Array,
  rng: jax.Array,
  *,
  image_size: int | None = None,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
  attempts: int = 10,
) -> jax.Array:
  """Cuts out a random rectangle and resizes it bilinearly, with antialiasing.

  For images that are decoded once and seen in several views; those of the
  input pipeline are in `host_augment`.

  Args:
    image: uint8 [h, w, 3], or float.
    rng: of this image.
    image_size: side of the result; None keeps that of the image.
    scale: smallest and largest share of the area.
    ratio: narrowest and widest shape, width over height.
    attempts: at a rectangle that fits; without one the whole image is taken.
  """
  h, w, c = image.shape
  shape = (h, w) if image_size is None else (image_size, image_size)
  area_rng, ratio_rng, place_rng = jax.random.split(rng, 3)
  areas = (
    h
    * w
    * jax.random.uniform(
      area_rng, (attempts,), minval=scale[0], maxval=scale[1]
    )
  )
  low, high = map(math.log, ratio)
  ratios = jnp.exp(
    jax.random.uniform(ratio_rng, (attempts,), minval=low, maxval=high)
  )
  heights = jnp.rint(jnp.sqrt(areas / ratios))
  widths = jnp.rint(jnp.sqrt(areas * ratios))
  fits = (heights > 0) & (heights <= h) & (widths > 0) & (widths <= w)
  first = jnp.argmax(fits)
  cut = jnp.where(
    fits.any(), jnp.array([heights[first], widths[first]]), jnp.array([h, w])
  )
  free = jnp.array([h, w]) - cut
  corner = jnp.floor(jax.random.uniform(place_rng, (2,)) * (free + 1))
  corner = jnp.minimum(corner, free)
  factor = jnp.array(shape) / cut
  resized = jax.image.scale_and_translate(
    image.astype(jnp.float32),
    (*shape, c),
    (0, 1),
    factor,
    -corner * factor,
    method="linear",
    antialias=True,
    precision="highest",
  )
  if image.dtype != jnp.uint8:
    return resized
  return jnp.rint(jnp.clip(resized, 0, 255)).astype(jnp.uint8)


def flip(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Mirrors an image left to right, half of the time."""
  return jnp.where(jax.random.bernoulli(rng), image[:, ::-1], image)


def to_float(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Maps uint8 to [0, 1]."""
  del rng
  return image.astype(jnp.float32) / 255


def standardize(image: jax.Array, rng: jax.Array) -> jax.Array:
  """Subtracts ImageNet's mean of [0, 1] or uint8, and divides by deviations."""
  del rng
  if image.dtype == jnp.uint8:
    return normalize(image)
  return (image - jnp.array(MEAN)) / jnp.array(STD)


_MOCO_V2 = (
  to_float,
  sometimes(
    0.8,
    partial(
      color_jitter,
      brightness=0.4,
      contrast=0.4,
      saturation=0.4,
      hue=0.1,
    ),
  ),
  sometimes(0.2, lambda image, rng: grayscale(image)),
  sometimes(0.5, random_blur),
  flip,
  standardize,
)
# In the order of the authors. Crops are the input pipeline's, but for images
# that are decoded once; put CROPS before them.
AUGMENTS = {
  "none": (),
  # He et al. (2023), for supervised training; crop_flip once cropped.
  "crop_flip": (flip, standardize),
  # Chen et al. (2020), after a crop of 20 to 100 % of the area.
  "moco_v2": _MOCO_V2,
  # Tian et al. (2023): the same after a crop of 8 to 100 %. Their switch that
  # lowers the resolution of some images is off: it gained nothing on ImageNet.
  "stablerep": _MOCO_V2,
  # Touvron et al. (2021), before `mixing.mix`. Their colour jitter of 0.3 is
  # unused, as timm leaves it out where there is RandAugment.
  "deit": (flip, rand_augment, standardize, erase),
  # What they finetune with on small sets: no erasing.
  "deit_finetune": (flip, rand_augment, standardize),
}
CROPS = {
  "crop_flip": random_resized_crop,
  "deit": random_resized_crop,
  "deit_finetune": random_resized_crop,
  "moco_v2": partial(random_resized_crop, scale=(0.2, 1.0)),
  "stablerep": random_resized_crop,
}


def make_augment(
  name: str, *, crop: bool = False, image_size: int | None = None
) -> Augment:
  """Returns (images uint8 [n, h, w, 3], rng) -> images, a recipe's changes.

  Args:
    name: a key of AUGMENTS. All but "none" return normalised float32.
    crop: cuts a random rectangle on the device first, as the recipe's authors
      do; without it the images have been cropped already.
    image_size: side that a crop is resized to; None keeps that of the images.

  Raises:
    UserError: for an unknown name, or a crop of a recipe that has none.
  """
  if name not in AUGMENTS:
    raise unknown_names("augmentation on the device", [name], AUGMENTS)
  changes = list(AUGMENTS[name])
  if crop:
    if name not in CROPS:
      raise unknown_names("augmentation with a crop", [name], CROPS)
    changes.insert(0, partial(CROPS[name], image_size=image_size))
  return partial(augment, changes)


def augment(
  changes: Sequence[Change], images: jax.Array, rng: jax.Array
) -> jax.Array:
  """Applies changes to images [n, h, w, 3], each with a key of its own."""

  def one(image, place):
    key = jax.random.fold_in(rng, place)
    for i, change in enumerate(changes):
      image = change(image, jax.random.fold_in(key, i))
    return image

  return jax.vmap(one)(images, jnp.arange(len(images)))
