"""Scenes of embedded drawings on painted grounds, to train detectors on.

A scene is composed when its row is read, from the seed and its number alone.
Rows are as those of `synthjax.detection.voc`: a box holds the visible pixels of
its object and no more.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from synthjax.data.pipeline.rows import Detection, Example
from synthjax.embedded import world
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

SIZES = ((128, 128), (112, 144), (144, 112), (96, 160), (160, 96))  # (h, w)
MAX_OBJECTS = 6
LENGTHS = (20, 64)  # of the longer side of an object, before it is turned
MAX_TURN = 30  # degrees, either way

MIN_VISIBLE = 0.4  # share of an object that must be in sight
DIFFICULT = 0.6  # an object with a smaller visible share is marked difficult
_TRIES = 8  # to find a place for an object

_WHITE = 250  # the lowest channel that still is ground
_MIN_PIXELS = 50  # of the 1,024 of a drawing
_MARGIN = ((1, 1), (1, 1), (0, 0))  # clear, for the edges to fade into
_AROUND = tuple((i, j) for i in range(3) for j in range(3))
_SPLITS = ("train", "validation", "test")


def open_scenes(
  split: str,
  count: int,
  *,
  seed: int = 0,
  space: Any = "emoji16",
) -> Detection:
  """Opens scenes of one split.

  A scene has 1 to 6 objects of equally likely classes, some mirrored, turned,
  at the border or below others.

  Args:
    split: "train", "validation" or "test", which draw from different styles and
      concepts.
    count: of scenes; more of them begin with the same ones.
    seed: of all scenes.
    space: a LabelSpace of the embedded set, or its name.

  Returns:
    A source of rows of image uint8 [h, w, 3], boxes float32 [k, 4], labels
    int32 [k], difficult bool [k], id str and size.

  Raises:
    UserError: for another split, a count below 1, or a class of which the
      split has no drawing.
  """
  if split not in _SPLITS:
    raise UserError(
      f"There are no scenes of the split {split!r}; allowed: "
      f"{', '.join(_SPLITS)}."
    )
  if count < 1:
    raise UserError(
      f"There is nothing to read in {count} scenes; give 1 or more."
    )
  space = spaces.load_space(space) if isinstance(space, str) else space
  drawings = world.open_split(split, space=space)
  by_class: list[list[tuple[str, int]]] = [[] for _ in space.classes]
  for (style, row, _), label in zip(
    drawings.rows, drawings.labels, strict=True
  ):
    if _cutout(style, row) is not None:
      by_class[label].append((style, row))
  if bare := [c.name for c in space.classes if not by_class[c.id]]:
    raise UserError(
      f"The split {split!r} has no drawing of {', '.join(bare)}: choose a "
      "label space without these classes."
    )
  # Sizes are drawn separately, as batches need them without composing scenes.
  key = (seed, _SPLITS.index(split))
  chance = np.random.default_rng(key).random(count)
  sizes = np.array(SIZES, np.int32)[(chance * len(SIZES)).astype(int)]
  compose = functools.partial(_compose, by_class, sizes, key, f"{split}-{seed}")
  return Detection(
    size=count,
    read=compose,
    annotate=functools.partial(_annotate, compose),
    sizes=sizes,
    max_objects=MAX_OBJECTS,
  )


def _annotate(compose: Any, index: int) -> Example:
  return {k: v for k, v in compose(index).items() if k != "image"}


def _compose(
  by_class: Sequence[Sequence[tuple[str, int]]],
  sizes: np.ndarray,
  key: tuple[int, int],
  prefix: str,
  index: int,
) -> Example:
  """Paints a scene, from the farthest object to the nearest."""
  rng = np.random.default_rng((*key, index))
  height, width = (int(side) for side in sizes[index])
  scene = paint(height, width, rng)  # float32 [h, w, 3]
  # Which object a pixel shows, from 1; and how large each object is.
  owner, areas, labels = np.zeros((height, width), np.int8), [], []
  for _ in range(rng.integers(1, MAX_OBJECTS + 1)):
    label = int(rng.integers(len(by_class)))
    style, row = by_class[label][rng.integers(len(by_class[label]))]
    colour, alpha = _turned(style, row, rng)
    area = int((alpha >= 0.5).sum())
    if place := _place(owner, areas, alpha, area, rng):
      inside, shown = place
      over = alpha[shown][..., None]
      scene[inside] += over * (colour[shown] - scene[inside])
      areas.append(area)
      labels.append(label)
      owner[inside][alpha[shown] >= 0.5] = len(areas)
  boxes = ndimage.find_objects(owner, max_label=len(areas))
  visible = np.bincount(owner.ravel(), minlength=len(areas) + 1)[1:]
  return {
    "image": np.clip(scene + 0.5, 0, 255).astype(np.uint8),
    "boxes": np.array(
      [(x.start, y.start, x.stop, y.stop) for y, x in boxes], np.float32
    ).reshape(-1, 4),
    "labels": np.array(labels, np.int32),
    "difficult": visible < DIFFICULT * np.array(areas),
    "id": f"{prefix}-{index:06d}",
    "size": (height, width),
  }


def _turned(
  style: str, row: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Mirrors, scales and turns a drawing at random.

  Returns:
    Colours float32 [h, w, 3] and alpha float32 [h, w], without empty borders.
  """
  cut = _cutout(style, row)
  length = np.exp(rng.uniform(*np.log(LENGTHS)))
  mirror, angle = rng.random() < 0.5, rng.uniform(-MAX_TURN, MAX_TURN)
  if mirror:
    cut = cut[:, ::-1]
  scale = length / (max(cut.shape[:2]) - 2)  # a margin on either side
  size = [max(1, round(side * scale)) for side in cut.shape[1::-1]]
  # "RGBa" has colours times alpha, so that nothing bleeds in from outside.
  image = Image.fromarray(np.ascontiguousarray(cut), "RGBA").convert("RGBa")
  image = image.resize(size, Image.Resampling.BICUBIC)
  image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True)
  pixels = np.asarray(image).astype(np.float32)
  alpha = pixels[..., 3] / 255
  colour = pixels[..., :3] / np.maximum(alpha, 1e-3)[..., None]
  tight = _tight(alpha >= 0.5)
  return colour[tight], alpha[tight]


def _place(
  owner: np.ndarray,
  areas: Sequence[int],
  alpha: np.ndarray,
  area: int,
  rng: np.random.Generator,
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
  """Finds a place where enough of the new object and of all others is visible.

  Returns:
    The slices of the scene and of the object that meet; None if some tries find
    no such place.
  """
  height, width = owner.shape
  h, w = alpha.shape
  solid = alpha >= 0.5
  count = np.bincount(owner.ravel(), minlength=len(areas) + 1)
  for _ in range(_TRIES):
    # A quarter of either side may lie outside.
    top = int(rng.integers(-(h // 4), height - h + h // 4 + 1))
    left = int(rng.integers(-(w // 4), width - w + w // 4 + 1))
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + h, height), min(left + w, width)
    inside = slice(y0, y1), slice(x0, x1)
    shown = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
    if solid[shown].sum() < MIN_VISIBLE * area:
      continue
    hidden = np.bincount(owner[inside][solid[shown]], minlength=len(areas) + 1)
    visible = (count - hidden)[1:]
    if (visible >= MIN_VISIBLE * np.array(areas)).all():
      return inside, shown
  return None


# --- cutting the drawings out of their white ground -------------------------


def _cutout(style: str, row: int) -> np.ndarray | None:
  """Returns a drawing as uint8 [h, w, 4] with alpha, without its ground.

  The ground is the white that reaches the border. A drawing that is white
  itself gives None.
  """
  return _cutouts(style)[row]


@functools.cache
def _cutouts(style: str) -> list[np.ndarray | None]:
  drawings = world.images(style)
  white = drawings.min(-1) >= _WHITE  # [n, 32, 32]
  # A margin joins all white of the border; no image touches the next.
  padded = np.pad(white, ((0, 0), (1, 1), (1, 1)), constant_values=True)
  flat = np.zeros((3, 3, 3), int)
  flat[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
  regions, _ = ndimage.label(padded, flat)
  solid = (regions != regions[:, :1, :1])[:, 1:-1, 1:-1]
  pixels = _soften(drawings, solid)
  masks = pixels[..., 3] >= 128
  return [
    np.pad(p[_tight(m)], _MARGIN) if m.sum() >= _MIN_PIXELS else None
    for p, m in zip(pixels, masks, strict=True)
  ]


def _soften(drawings: np.ndarray, solid: np.ndarray) -> np.ndarray:
  """Returns drawings [n, h, w, 3] with the alpha of their edges added.

  A pixel at an edge mixes object and white. The object's share is its darkness
  relative to the darkest of its neighbours.
  """
  # A drawing ends in a margin of ground, so that no image sees the next.
  ground = np.pad(~solid, ((0, 0), (1, 1), (1, 1)), constant_values=True)
  dark = np.where(solid, 255 - drawings.min(-1), np.uint8(0))
  padded = np.pad(dark, ((0, 0), (1, 1), (1, 1)))
  h, w = dark.shape[1:]
  near = [(slice(None), slice(i, i + h), slice(j, j + w)) for i, j in _AROUND]
  edge = solid & functools.reduce(np.logical_or, (ground[n] for n in near))
  darkest = functools.reduce(np.maximum, (padded[n] for n in near))
  share = dark / np.maximum(darkest, np.float32(1))
  alpha = np.where(edge, share, solid.astype(np.float32))[..., None]
  clear = 255 - (255 - drawings.astype(np.float32)) / np.maximum(alpha, 0.02)
  pixels = np.concatenate([clear, 255 * alpha], -1)
  return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def _tight(mask: np.ndarray) -> tuple[slice, slice]:
  """Returns the rows and columns that a mask [h, w] lies in."""
  return ndimage.find_objects(mask.astype(np.int8), max_label=1)[0]


# --- painted grounds ---------------------------------------------------------

# From dark to light; RGB.
_PALETTES = np.array(
  [
    [(38, 66, 24), (82, 118, 48), (148, 172, 92)],  # grass
    [(24, 44, 26), (52, 82, 44), (108, 130, 78)],  # forest
    [(148, 118, 78), (196, 168, 122), (230, 210, 172)],  # sand
    [(58, 42, 30), (104, 78, 56), (150, 122, 94)],  # soil
    [(76, 78, 82), (122, 122, 122), (172, 170, 164)],  # stone
    [(18, 52, 84), (44, 98, 136), (124, 170, 190)],  # water
    [(176, 190, 206), (214, 222, 232), (240, 244, 248)],  # snow
    [(92, 54, 28), (142, 94, 54), (188, 144, 98)],  # wood
    [(108, 48, 38), (154, 82, 64), (192, 132, 108)],  # brick
    [(150, 142, 128), (188, 180, 164), (218, 212, 198)],  # wall
  ],
  np.float32,
)
# From the horizon up.
_SKIES = np.array(
  [
    [(206, 220, 232), (96, 150, 208)],  # day
    [(238, 178, 130), (96, 104, 154)],  # dusk
    [(206, 208, 210), (150, 158, 168)],  # overcast
  ],
  np.float32,
)


def paint(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints a random ground: float32 [h, w, 3], 0 to 255."""
  kind = rng.choice((_patches, _stripes, _landscape))
  scene = kind(height, width, rng)
  # Light falls from a side, and a camera adds its grain.
  slope = rng.uniform(-30, 30, 2).astype(np.float32)
  y, x = _axes(height, width)
  light = slope[0] * (y - 0.5) + slope[1] * (x - 0.5)
  grain = rng.standard_normal((height, width), np.float32) * rng.uniform(1, 5)
  return np.clip(scene + (light + grain)[..., None], 0, 255)


def _patches(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints a surface without direction, such as grass."""
  value = _noise(height, width, rng, rng.uniform(0.4, 0.85))
  return _shade(value, _PALETTES[rng.integers(len(_PALETTES))])


def _stripes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints a surface with a grain, such as wood or ripples."""
  y, x = _axes(height, width)
  angle, count = rng.uniform(0, np.pi), rng.uniform(2, 14)
  along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
  bend = _noise(height, width, rng, 0.5)
  wave = np.sin(2 * np.pi * (np.float32(count) * along + 2 * bend))
  fine = _noise(height, width, rng, 0.8)
  value = np.float32(rng.uniform(0.1, 0.3)) * wave + 0.25 + 0.5 * fine
  return _shade(value, _PALETTES[rng.integers(len(_PALETTES))])


def _landscape(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """Paints a sky above a ground that meet in an uneven line."""
  y, _ = _axes(height, width)
  low, high = _SKIES[rng.integers(len(_SKIES))]
  horizon = np.float32(rng.uniform(0.25, 0.6))
  rough = np.float32(rng.uniform(0.02, 0.3))
  line = horizon + rough * (_noise(1, width, rng, 0.5) - 0.5)  # [1, w]
  up = np.clip(1 - y / horizon, 0, 1)[..., None]
  clouds = np.clip(_noise(height, width, rng, 0.6) - 0.5, 0, 1)[..., None]
  sky = low + (high - low) * up
  sky = sky + np.float32(rng.uniform(0, 1.2)) * clouds * (245 - sky)
  ground = _patches(height, width, rng)
  # An edge of two pixels, as a camera would blur it.
  below = np.clip((y - line) * height / 2 + 0.5, 0, 1)[..., None]
  return sky + below * (ground - sky)


def _shade(value: np.ndarray, palette: np.ndarray) -> np.ndarray:
  """Maps [h, w] from 0 to 1 to the colours of a palette [3, 3]."""
  value = np.clip(value, 0, 1)[..., None] * 2
  dark, middle, light = palette
  lower = dark + np.minimum(value, 1) * (middle - dark)
  return lower + np.maximum(value - 1, 0) * (light - middle)


def _noise(
  height: int, width: int, rng: np.random.Generator, keep: float
) -> np.ndarray:
  """Sums octaves of noise, [h, w], mostly within 0 and 1.

  Args:
    height: h.
    width: w.
    rng: draws the noise.
    keep: amplitude of an octave beside the one before; more is rougher.
  """
  total, power = np.zeros((1, 1), np.float32), 0.0
  for octave in range(1, 6):
    cells = 2**octave + 1
    # Each octave is laid over the enlarged ones before: the last step alone
    # has the size of the scene.
    total = _enlarge(total, min(cells, height), cells)
    grid = rng.standard_normal(total.shape, np.float32)
    total = total + np.float32(keep**octave) * grid
    power += keep ** (2 * octave)
  total = _enlarge(total, height, width)
  return 0.5 + total * np.float32(0.3 / np.sqrt(power))


def _enlarge(values: np.ndarray, height: int, width: int) -> np.ndarray:
  image = Image.fromarray(values)
  return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _axes(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns y [h, 1] and x [1, w] from 0 to 1."""
  y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
  return y, np.linspace(0, 1, width, dtype=np.float32)[None]
