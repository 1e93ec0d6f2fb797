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

from synthjax.errors import unknown_names
from synthjax.train import color
from synthjax.train.mixing import erase
from synthjax.train.rand_augment import rand_augment
from synthjax.train.supervised import MEAN, STD, normalize

# (one image [h, w, 3], rng) -> image.
Change = Callable[[jax.Array, jax.Array], jax.Array]


def sometimes(prob: float, change: Change) -> Change:
  """Applies a change to an image with this probability."""

  def apply(image, rng):
    prob_rng, rng = jax.random.split(rng)
    wanted = jax.random.bernoulli(prob_rng, prob)
    return jnp.where(wanted, change(image, rng), image)

  return apply


def random_blur(
  image: jax.Array, rng: jax.Array, *, low: float = 0.1, high: float = 2.0
) -> jax.Array:
  """Blurs by a Gaussian of a random deviation, in pixels."""
  sigma = jax.random.uniform(rng, minval=low, maxval=high)
  return color.gaussian_blur(image, sigma)


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
  input pipeline are in `data.views`.

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


# In the order of the authors. Crops are the input pipeline's, but for images
# that are decoded once; put CROPS before them.
AUGMENTS = {
  "none": (),
  # He et al. (2023), for supervised training; crop_flip once cropped.
  "crop_flip": (flip, standardize),
  # Chen et al. (2020), after a crop of 20 to 100 % of the area.
  "moco_v2": (
    to_float,
    sometimes(
      0.8,
      partial(
        color.color_jitter,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
      ),
    ),
    sometimes(0.2, lambda image, rng: color.grayscale(image)),
    sometimes(0.5, random_blur),
    flip,
    standardize,
  ),
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
}


def make_augment(
  name: str, *, crop: bool = False, image_size: int | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
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
