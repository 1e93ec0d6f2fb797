"""Augmentation on the host: how rows become images of a batch.

Rows come with pixels or with an encoded image; see `codecs`. Both give the same
views; only a large JPEG is decoded at less than its size where the view is much
smaller.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from synthjax.data.pipeline import codecs
from synthjax.data.pipeline.image_files import to_square
from synthjax.data.pipeline.loader import Transform
from synthjax.data.pipeline.rows import Example
from synthjax.runtime.errors import UserError, unknown_names

# --- drawings on a white ground -----------------------------------------------

WHITE = (255, 255, 255)


def flip(example: Example, rng: np.random.Generator) -> Example:
  """Mirrors the uint8 image [h, w, 3] left to right, half of the time."""
  image = example["image"]
  return example | {"image": image[:, ::-1] if rng.random() < 0.5 else image}


def jiggle(
  example: Example,
  rng: np.random.Generator,
  *,
  shift: float = 0.06,
  scale: float = 0.12,
  degrees: float = 8.0,
) -> Example:
  """Moves, scales and turns a drawing a little on its white ground.

  Args:
    example: with uint8 `image` [h, w, 3].
    rng: of this example.
    shift: largest move, as a share of the side.
    scale: largest change of size, as a share.
    degrees: largest turn, either way.
  """
  image = example["image"]
  h, w = image.shape[:2]
  dx, dy = rng.uniform(-shift, shift, 2) * (w, h)
  factor = 1 + rng.uniform(-scale, scale)
  angle = math.radians(rng.uniform(-degrees, degrees))
  # Pillow asks where each output pixel comes from.
  cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
  cx, cy = w / 2, h / 2
  offset_x = cx - cos * (cx + dx) - sin * (cy + dy)
  offset_y = cy + sin * (cx + dx) - cos * (cy + dy)
  moved = Image.fromarray(image).transform(
    (w, h),
    Image.Transform.AFFINE,
    (cos, sin, offset_x, -sin, cos, offset_y),
    Image.Resampling.BICUBIC,
    fillcolor=WHITE,
  )
  return example | {"image": np.asarray(moved)}


# --- images of any kind -------------------------------------------------------


def resize(
  example: Example, rng: np.random.Generator, *, image_size: int
) -> Example:
  """Makes the image a square of this side, unless it is one."""
  del rng
  image = _fit(codecs.pixels(example), image_size)
  return codecs.with_pixels(example, image)


def shift(
  example: Example, rng: np.random.Generator, *, share: float = 1 / 8
) -> Example:
  """Moves the image by up to a share of its side; the edge is repeated.

  This is CIFAR's usual crop of a padded image, but a white ground stays white.
  """
  image = example["image"]
  h, w = image.shape[:2]
  most = round(share * min(h, w))
  padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
  y, x = rng.integers(0, 2 * most + 1, 2)
  return example | {"image": padded[y : y + h, x : x + w]}


def random_resized_crop(
  example: Example,
  rng: np.random.Generator,
  *,
  image_size: int,
  scale: tuple[float, float] = (0.08, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Example:
  """Cuts out a random rectangle and resizes it, as is usual for ImageNet.

  Args:
    example: with uint8 `image` [h, w, 3], or `encoded`.
    rng: of this example.
    image_size: side of the result.
    scale: smallest and largest share of the area.
    ratio: narrowest and widest shape, width over height.
  """
  image = codecs.open_image(example)
  box = draw_box(image.height, image.width, rng, scale=scale, ratio=ratio)
  if box is None:
    return resize(example, rng, image_size=image_size)
  cut = codecs.crop(image, box, image_size)
  return codecs.with_pixels(example, cut)


def draw_box(
  h: int,
  w: int,
  rng: np.random.Generator,
  *,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> codecs.Box | None:
  """Draws the rectangle of `random_resized_crop`; None if ten did not fit."""
  for _ in range(10):
    area = h * w * rng.uniform(*scale)
    shape = math.exp(rng.uniform(*map(math.log, ratio)))
    height = round(math.sqrt(area / shape))
    width = round(math.sqrt(area * shape))
    if 0 < height <= h and 0 < width <= w:
      y, x = map(int, rng.integers(0, (h - height + 1, w - width + 1)))
      return x, y, x + width, y + height
  return None


def shot_view(
  example: Example,
  *,
  seed: Sequence[int],
  scale: tuple[float, float] = (0.5, 1.0),
) -> np.ndarray:
  """Returns a view of a shot: a random crop, mirrored half of the time.

  Args:
    example: with uint8 `image` [h, w, 3], or `encoded`.
    seed: the same for the same view.
    scale: smallest and largest share of the area; by default Tip-Adapter's.

  Returns:
    uint8 [s, s, 3], where s is the shorter side.
  """
  rng = np.random.default_rng(tuple(seed))
  size = min(codecs.open_image(example).size)
  cut = random_resized_crop(example, rng, image_size=size, scale=scale)
  return flip(cut, rng)["image"]


# name -> transforms before and after the image has its size.
VIEWS = {
  "none": ((), ()),
  "drawing": ((), (flip, jiggle)),
  "shift": ((), (flip, shift)),
  "photo": ((random_resized_crop,), (flip,)),
}


def transforms(
  name: str, *, image_size: int, num_classes: int
) -> list[Transform]:
  """Returns the transforms that turn a row into one of a training batch.

  Args:
    name: of the augmentation, a key of VIEWS.
    image_size: px.
    num_classes: that labels are checked against.

  Returns:
    For `loader.train_batches`; rows keep uint8 `image` [h, w, 3] and int32
    `label` alone.
  """
  if name not in VIEWS:
    raise unknown_names("augmentation", [name], VIEWS)
  before, after = VIEWS[name]
  return [
    *(partial(transform, image_size=image_size) for transform in before),
    partial(resize, image_size=image_size),
    *after,
    partial(image_and_label, num_classes=num_classes),
  ]


def image_and_label(
  example: Example, rng: np.random.Generator, *, num_classes: int
) -> Example:
  """Drops all but the image and the label.

  Raises:
    UserError: for a label of no class, which the loss would not notice.
  """
  del rng
  label = int(example["label"])
  if not 0 <= label < num_classes:
    raise UserError(
      f"An image has the label {label}, but the label space has {num_classes} "
      f"classes, from 0 to {num_classes - 1}: was it drawn for another space?"
    )
  return {"image": _contiguous(example["image"]), "label": np.int32(label)}


def in_order(
  source: Sequence[Example],
  *,
  image_size: int,
  batch_size: int = 256,
  crop: float = 1.0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields uint8 [n, h, w, 3] and labels int [n]: all rows once, in order.

  Args:
    source: rows of image and label.
    image_size: px of the squares.
    batch_size: of all but the last batch.
    crop: see `middle`.
  """
  for start in range(0, len(source), batch_size):
    images, labels = [], []
    for i in range(start, min(start + batch_size, len(source))):
      row = source[i]
      images.append(middle(codecs.pixels(row), image_size, crop))
      labels.append(row["label"])
    yield np.stack(images), np.array(labels)


def middle(image: np.ndarray, image_size: int, crop: float = 1.0) -> np.ndarray:
  """Resizes the middle square of uint8 [h, w, 3], and cuts out its middle.

  Args:
    image: to see as a test does.
    image_size: px of the result.
    crop: the share of a side that the middle has, which is cut out; with
      0.875, an image is resized to 256 px for 224.
  """
  whole = round(image_size / crop)
  first = round((whole - image_size) / 2)
  kept = slice(first, first + image_size)
  return _fit(image, whole)[kept, kept]


def _contiguous(image: np.ndarray) -> np.ndarray:
  if image.flags.c_contiguous:
    return image
  copy = np.empty(image.shape, image.dtype)
  # NumPy copies mirrored pixels of three bytes a third as fast as channels.
  for channel in range(image.shape[-1]):
    copy[..., channel] = image[..., channel]
  return copy


def _fit(image: np.ndarray, image_size: int) -> np.ndarray:
  if image.shape[:2] == (image_size, image_size):
    return image
  return np.asarray(to_square(Image.fromarray(image), image_size))
