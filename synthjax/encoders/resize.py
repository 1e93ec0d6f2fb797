"""Pillow's resize: on the host, or by matrix products on the device.

First come CLIP's, which is bicubic with a crop of the middle, and SigLIP's,
which is bilinear without a crop; both round. Then what clean-fid does in
floats.

Pillow's antialiased resize is separable: one matrix for the columns, one for
the rows, each followed by rounding to 8 bits. So a batch of images of one size
can go to the device as it is, and be resized there by matrix products. Pillow
sums in fixed point, of 22 bits behind the point. Ties are common (64 to 224 px
has few different weights), so the device does the same arithmetic: it gives the
same pixels.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

# Pillow's weights are whole multiples of 2^-22. Split into halves of 11 bits,
# their products with 8 bits and the sums of these are exact in float32. Both
# factors are exact in TF32, which has 11 bits, and in two bfloat16 of 8 bits;
# so "high" is enough: TF32 on NVIDIA, three products of bfloat16 on
# TPUs.
_BITS, _HALF = 22, 11


def fit_image(
  image: np.ndarray, size: int, crop: int | None = None
) -> np.ndarray:
  """Resizes the shorter side and crops the middle, as CLIP does.

  Args:
    image: uint8 [h, w, 3].
    size: px of the shorter side.
    crop: px of the middle that is kept; None is `size`.

  Returns:
    uint8 [crop, crop, 3], the image itself where it has that size already and
    nothing is to be resized.

  Raises:
    ValueError: for an image of another dtype or shape.
  """
  image = _checked(image)
  crop = size if crop is None else crop
  if image.shape[:2] == (size, size) == (crop, crop):
    return image
  (height, width), (top, left) = _resized(*image.shape[:2], size, crop)
  resized = _in_turn(image, height, width, Image.Resampling.BICUBIC)
  return np.asarray(resized)[top : top + crop, left : left + crop]


def fit_images(images: jax.Array, size: int) -> jax.Array:
  """Does the same to a batch of images of one size, under `jit` too.

  Args:
    images: uint8 [n, h, w, 3].
    size: px, of the crop as well.

  Returns:
    uint8 [n, size, size, 3].

  Raises:
    ValueError: for images of another dtype or shape.
  """
  height, width = _checked_batch(images).shape[1:3]
  if (height, width) == (size, size):
    return images
  resized, (top, left) = _resized(height, width, size, size)
  rows = bicubic_matrix(height, resized[0])[top : top + size]
  columns = bicubic_matrix(width, resized[1])[left : left + size]
  return _resample_both(images, rows, columns)


def square_image(image: np.ndarray, size: int) -> np.ndarray:
  """Resizes both sides to `size` bilinearly, as SigLIP does.

  Args:
    image: uint8 [h, w, 3].
    size: px of both sides, whatever the shape of the image.

  Returns:
    uint8 [size, size, 3].

  Raises:
    ValueError: for an image of another dtype or shape.
  """
  image = _checked(image)
  if image.shape[:2] == (size, size):
    return image
  return np.asarray(_in_turn(image, size, size, Image.Resampling.BILINEAR))


def square_images(images: jax.Array, size: int) -> jax.Array:
  """Does the same to a batch of images of one size, under `jit` too.

  Args:
    images: uint8 [n, h, w, 3].
    size: px of both sides.

  Returns:
    uint8 [n, size, size, 3].

  Raises:
    ValueError: for images of another dtype or shape.
  """
  height, width = _checked_batch(images).shape[1:3]
  if (height, width) == (size, size):
    return images
  rows, columns = (
    _whole(_weights(length, size, "bilinear")) for length in (height, width)
  )
  return _resample_both(images, rows, columns)


def stretch_image(image: np.ndarray, size: int) -> np.ndarray:
  """Resizes each channel to a square in floats, as clean-fid does.

  Args:
    image: uint8 [h, w, 3].
    size: px of both sides, whatever the shape of the image.

  Returns:
    float32 [size, size, 3] of 0 to 255, not rounded.

  Raises:
    ValueError: for an image of another dtype or shape.
  """
  channels = np.moveaxis(_checked(image).astype(np.float32), -1, 0)
  resized = [
    Image.fromarray(channel).resize((size, size), Image.Resampling.BICUBIC)
    for channel in channels  # of the mode "F"
  ]
  return np.stack(resized, -1).clip(0, 255)


def stretch_images(images: jax.Array, size: int) -> jax.Array:
  """Does the same to a batch of images of one size, under `jit` too.

  Args:
    images: [n, h, w, 3]; those of `stretch_image` stay as they are.
    size: px of both sides.

  Returns:
    float32 [n, size, size, 3], up to rounding those of `stretch_image`.
  """
  images = images.astype(jnp.float32)
  height, width = images.shape[1:3]
  if (height, width) == (size, size):
    return images
  product = partial(jnp.einsum, precision="highest")
  x = product("nhwc,vw->nhvc", images, _weights(width, size))
  x = product("nhwc,uh->nuwc", x, _weights(height, size))
  return jnp.clip(x, 0, 255)


def _checked(image: np.ndarray) -> np.ndarray:
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f"found an image {image.dtype} {image.shape}; needed uint8 [h, w, 3]."
    )
  return image


def _checked_batch(images: jax.Array) -> jax.Array:
  if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[3] != 3:
    raise ValueError(
      f"found images {images.dtype} {images.shape}; needed uint8 [n, h, w, 3]."
    )
  return images


def _in_turn(
  image: np.ndarray, height: int, width: int, how: Image.Resampling
) -> Image.Image:
  """Resizes the width first, in two calls.

  Pillow from 13 on may choose the other order, which rounds otherwise.
  """
  resized = Image.fromarray(image).resize((width, len(image)), how)
  return resized.resize((width, height), how)


def _resample_both(
  images: jax.Array, rows: np.ndarray, columns: np.ndarray
) -> jax.Array:
  """Resamples the columns first, as `_in_turn` does."""
  x = _resample("nhwc,vw->nhvc", images, columns)
  return _resample("nhwc,uh->nuwc", x, rows)


def _resample(axes: str, images: jax.Array, matrix: np.ndarray) -> jax.Array:
  """Multiplies uint8 images by weights of 2^-22 and rounds to uint8."""
  x = images.astype(jnp.float32)

  def product(weights):
    weights = jnp.asarray(weights, jnp.float32)
    return jnp.einsum(axes, x, weights, precision="high").astype(jnp.int32)

  high, low = _halves(matrix)
  total = (product(high) << _HALF) + product(low) + (1 << (_BITS - 1))
  return jnp.clip(total >> _BITS, 0, 255).astype(jnp.uint8)


def _halves(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Splits whole weights into those of 2^_HALF, and the rest.

  Each is of 11 bits, with its sign: at the edges of enlarged images, weights
  are above 2^22, and those of 2^_HALF even numbers.
  """
  nearest = lambda bits: (matrix + (1 << (bits - 1))) >> bits
  large = nearest(_HALF) > 1 << _HALF
  high = np.where(large, 2 * nearest(_HALF + 1), nearest(_HALF))
  return high, matrix - (high << _HALF)


def bicubic_matrix(length: int, new_length: int) -> np.ndarray:
  """Returns the weights of Pillow's antialiased bicubic along one axis.

  Args:
    length: px before.
    new_length: px after.

  Returns:
    int32 [new_length, length] in units of 2^-22; those of a row sum to 1, up to
    rounding.
  """
  return _whole(_weights(length, new_length))


def _whole(weights: np.ndarray) -> np.ndarray:
  """Returns weights in units of 2^-22, rounded as Pillow does."""
  exact = weights * (1 << _BITS)
  return np.trunc(exact + np.copysign(0.5, exact)).astype(np.int32)


def _weights(
  length: int, new_length: int, kernel: str = "bicubic"
) -> np.ndarray:
  """Returns the weights [new_length, length] in float64; rows sum to 1."""
  function, support = _KERNELS[kernel]
  scale = length / new_length
  stretch = max(scale, 1.0)  # a smaller image averages over more pixels
  matrix = np.zeros((new_length, length))
  for row, weights in enumerate(matrix):
    center, reach = (row + 0.5) * scale, support * stretch
    first = max(int(center - reach + 0.5), 0)
    last = min(int(center + reach + 0.5), length)
    values = function((np.arange(first, last) + 0.5 - center) / stretch)
    weights[first:last] = values / values.sum()
  return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
  """Evaluates the cubic kernel of Keys (1981), with a = -0.5."""
  x = np.abs(x)
  near = (1.5 * x - 2.5) * x**2 + 1
  far = -0.5 * (((x - 5) * x + 8) * x - 4)
  return np.where(x < 1, near, np.where(x < 2, far, 0.0))


# Functions of the distance in pixels of the coarser grid, and how far they
# reach each way.
_KERNELS = {
  "bicubic": (_cubic, 2.0),
  "bilinear": (lambda x: np.maximum(1 - np.abs(x), 0.0), 1.0),
}


def _resized(height: int, width: int, size: int, crop: int):
  """Returns height and width after the resize, and the crop's top and left.

  Torchvision's arithmetic: the longer side is rounded down, the offset to the
  nearest even.
  """
  short = min(height, width)
  height, width = int(size * height / short), int(size * width / short)
  return (height, width), (
    round((height - crop) / 2),
    round((width - crop) / 2),
  )
