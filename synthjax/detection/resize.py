"""Resizes images together with their boxes, as detectors are trained."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from synthjax.data.pipeline.rows import Example


def resized(
  sizes: np.ndarray, short_sides: np.ndarray | int, max_size: int
) -> np.ndarray:
  """Returns heights and widths of images after resizing, int32 [..., 2].

  The shorter side gets the given length, unless the longer side would exceed
  `max_size`: that is then the length of the longer side. Halves are rounded up,
  as in Detectron2.

  Args:
    sizes: [..., 2] heights and widths.
    short_sides: [...] or one for all.
    max_size: of the longer side.
  """
  sizes = np.asarray(sizes, np.float64)
  short = np.asarray(short_sides, np.float64)[..., None]
  least = sizes.min(-1, keepdims=True)
  scaled = np.where(sizes == least, short, short / least * sizes)
  longest = scaled.max(-1, keepdims=True)
  scaled = np.where(longest > max_size, max_size / longest * scaled, scaled)
  return np.maximum(np.floor(scaled + 0.5), 1).astype(np.int32)


def all_resized(
  sizes: np.ndarray, short_sides: Sequence[int], max_size: int
) -> np.ndarray:
  """Returns every size that can be drawn, equally likely: [n * k, 2]."""
  return np.concatenate([resized(sizes, s, max_size) for s in short_sides])


def resize(
  example: Example, short_side: int, max_size: int, *, flip: bool = False
) -> Example:
  """Resizes an image and its boxes bilinearly, then mirrors both if asked.

  Args:
    example: a row of image uint8 [h, w, 3], boxes float32 [k, 4], ...
    short_side: length of the shorter side.
    max_size: of the longer side.
    flip: mirrors left and right.
  """
  image = example["image"]
  old = image.shape[:2]
  height, width = resized(old, short_side, max_size).tolist()
  if (height, width) != old:
    resample = Image.Resampling.BILINEAR
    image = np.asarray(Image.fromarray(image).resize((width, height), resample))
  factor = np.array([width / old[1], height / old[0]] * 2)
  boxes = example["boxes"] * factor
  if flip:
    image = image[:, ::-1]
    boxes = np.stack(
      [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], -1
    )
  return example | {"image": image, "boxes": boxes.astype(np.float32)}


def to_original(
  boxes: np.ndarray, size: np.ndarray, original_size: np.ndarray
) -> np.ndarray:
  """Maps boxes [k, 4] of a resized image back to it, clipped: float32 [k, 4].

  Args:
    boxes: x0, y0, x1, y1 in pixels of the resized image.
    size: [2] height and width of the resized image.
    original_size: [2] height and width of the original image.
  """
  factor = np.asarray(original_size, np.float64) / np.asarray(size)
  scaled = np.asarray(boxes, np.float64) * factor[[1, 0, 1, 0]]
  limit = np.asarray(original_size)[[1, 0, 1, 0]]
  return np.clip(scaled, 0, limit).astype(np.float32)
