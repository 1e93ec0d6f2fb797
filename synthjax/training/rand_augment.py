"""RandAugment (Cubuk et al. 2020) as DeiT uses it: "rand-m9-mstd0.5-inc1".

timm's fifteen operations of increasing severity, two of them for each image,
each applied half of the time at a magnitude of N(9, 0.5) out of 10.

Under `vmap` a `lax.switch` would compute all fifteen for every image. But nine
of them map each value of a channel to another: they are one table [3, 256],
chosen from nine tables. Five more are one affine map of the pixels' places,
and colour and sharpness are a blend with a factor that is 1 for all others. So
each of the two operations costs one look-up, one warp and two blends.

Images are uint8 [h, w, 3] throughout, and all but the warps equal Pillow's
results to a level. The warps are bilinear where DeiT's are bicubic.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

OPERATIONS = (
  "auto_contrast",
  "equalize",
  "invert",
  "posterize",
  "solarize",
  "solarize_add",
  "contrast",
  "brightness",
  "color",
  "sharpness",
  "rotate",
  "shear_x",
  "shear_y",
  "translate_x",
  "translate_y",
)
MAX_LEVEL = 10

# ImageNet's mean colour shows where the image has moved away.
FILL = (124, 116, 104)


def rand_augment(
  image: jax.Array,
  rng: jax.Array,
  *,
  magnitude: float = 9,
  magnitude_std: float = 0.5,
  num_operations: int = 2,
  prob: float = 0.5,
  fill: Sequence[int] = FILL,
) -> jax.Array:
  """Applies random operations to a uint8 image [h, w, 3].

  Args:
    image: one image.
    rng: of this image.
    magnitude: mean of the operations', of MAX_LEVEL.
    magnitude_std: standard deviation of it.
    num_operations: drawn with replacement.
    prob: that a drawn operation is applied.
    fill: colour of what comes in from outside of the image.
  """

  def one(image, rng):
    rngs = jax.random.split(rng, 4)
    index = jax.random.randint(rngs[0], (), 0, len(OPERATIONS))
    level = magnitude + magnitude_std * jax.random.normal(rngs[1])
    level = jnp.clip(level, 0, MAX_LEVEL)
    sign = jax.random.rademacher(rngs[2], (), jnp.float32)
    index = jnp.where(jax.random.bernoulli(rngs[3], prob), index, -1)
    return apply(image, index, level, sign, fill=fill), None

  return jax.lax.scan(one, image, jax.random.split(rng, num_operations))[0]


def apply(
  image: jax.Array,
  index: jax.Array,
  level: jax.Array,
  sign: jax.Array,
  *,
  fill: Sequence[int] = FILL,
) -> jax.Array:
  """Applies one operation to a uint8 image [h, w, 3].

  Args:
    image: one image.
    index: [] of OPERATIONS; -1 leaves the image as it is.
    level: [] of MAX_LEVEL.
    sign: [] 1 or -1, of the operations that go two ways.
    fill: see `rand_augment`.
  """
  image, index = jnp.asarray(image), jnp.asarray(index)
  is_op = lambda name: index == OPERATIONS.index(name)
  share = jnp.asarray(level) / MAX_LEVEL
  factor = jnp.maximum(0.1, 1 + 0.9 * share * sign)
  # As one of them at most does anything, each may start from the image as it
  # came, which lies in memory: what is computed in between would be computed
  # anew for every neighbour that a warp or the smoothing reads.
  moved = warp(image, _affine(image.shape, is_op, share * sign), fill)
  made = _look_up(moved, _table(image, index, share, factor))
  factors = [jnp.where(is_op(n), factor, 1.0) for n in ("color", "sharpness")]
  made = blend(made, _gray(made), factors[0])
  return blend(made, _smooth(image), factors[1])


def blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
  """Returns factor image + (1 - factor) other as uint8, cut as by Pillow."""
  image, other = (x.astype(jnp.float32) for x in (image, other))
  return jnp.clip(other + factor * (image - other), 0, 255).astype(jnp.uint8)


# --- tables -----------------------------------------------------------------


def _look_up(image: jax.Array, table: jax.Array) -> jax.Array:
  """Maps uint8 [h, w, 3] by the table [3, 256] of its channels."""
  channels = [jnp.take(table[c], image[..., c]) for c in range(3)]
  return jnp.stack(channels, -1)


def _table(
  image: jax.Array, index: jax.Array, share: jax.Array, factor: jax.Array
) -> jax.Array:
  """Returns the table uint8 [3, 256] of an operation, or what changes none."""
  values = jnp.arange(256)
  count = lambda channel: jnp.bincount(channel.reshape(-1), length=256)
  counts = jax.vmap(count, in_axes=-1)(image)  # [3, 256]
  bits = 4 - (share * 4).astype(int)
  threshold = 256 - (share * 256).astype(int)
  added = jnp.minimum(values + (share * 110).astype(int), 255)
  mean = jnp.floor(_gray(image).mean() + 0.5)
  tables = {
    "auto_contrast": _auto_contrast(counts),
    "equalize": _equalize(counts),
    "invert": 255 - values,
    # Keeps the highest bits.
    "posterize": values >> (8 - bits) << (8 - bits),
    "solarize": jnp.where(values < threshold, values, 255 - values),
    "solarize_add": jnp.where(values < 128, added, values),
    "contrast": blend(values, mean, factor),
    "brightness": blend(values, jnp.zeros(()), factor),
  }
  chosen = [index == OPERATIONS.index(name) for name in tables]
  chosen = jnp.array([*chosen, ~jnp.any(jnp.array(chosen))], jnp.float32)
  every = jnp.stack(
    [jnp.broadcast_to(t, (3, 256)) for t in (*tables.values(), values)]
  )
  # As a product, which XLA computes once: chains of selections it would fuse
  # into the look-up and compute for each pixel.
  table = jnp.einsum(
    "k,kcv->cv", chosen, every.astype(jnp.float32), precision="highest"
  )
  return table.astype(jnp.uint8)


def _auto_contrast(counts: jax.Array) -> jax.Array:
  """Spreads each channel from its least and largest value to 0 and 255."""
  values = jnp.arange(256)
  low = jnp.argmax(counts > 0, axis=1)[:, None]
  high = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1)[:, None]
  spread = (values - low) * 255 // jnp.maximum(high - low, 1)
  return jnp.where(high > low, jnp.clip(spread, 0, 255), values)


def _equalize(counts: jax.Array) -> jax.Array:
  """Makes all values of each channel about as frequent, as Pillow does."""
  last = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1)[:, None]
  total = counts.sum(1, keepdims=True)
  step = (total - jnp.take_along_axis(counts, last, axis=1)) // 255
  below = jnp.cumsum(counts, axis=1) - counts
  table = (step // 2 + below) // jnp.maximum(step, 1)
  return jnp.where(step > 0, jnp.clip(table, 0, 255), jnp.arange(256))


# --- neighbourhoods ---------------------------------------------------------


def _gray(image: jax.Array) -> jax.Array:
  """Returns Pillow's L of uint8 [h, w, 3] as integers [h, w, 1]."""
  weights = jnp.array([19595, 38470, 7471])
  summed = (image.astype(jnp.int32) * weights).sum(-1, keepdims=True)
  return (summed + 0x8000) >> 16


def _smooth(image: jax.Array) -> jax.Array:
  """Averages 3x3 pixels, the middle one five times; the border stays."""
  x = image.astype(jnp.int32)
  h, w, _ = x.shape
  nine = sum(
    x[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)
  )
  inner = (2 * (nine + 4 * x[1:-1, 1:-1]) + 13) // 26  # of 13, rounded
  return x.at[1:-1, 1:-1].set(inner)


# --- warps ------------------------------------------------------------------


def _affine(shape: tuple, is_op, amount: jax.Array) -> jax.Array:
  """Returns the map [2, 3] of an operation, or what moves nothing.

  It maps the place (x, y, 1) of a pixel to where it is taken from; the corner
  of the image is (0, 0), and pixels have their centres at halves.
  """
  h, w, _ = shape
  of = lambda name, value: jnp.where(is_op(name), value, 0.0)
  angle = of("rotate", -jnp.deg2rad(30 * amount))  # counterclockwise
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  shear_x, shear_y = (of(f"shear_{axis}", 0.3 * amount) for axis in "xy")
  move_x = of("translate_x", 0.45 * w * amount)
  move_y = of("translate_y", 0.45 * h * amount)
  # Shears leave the corner where it is, turns the centre.
  cx, cy = w / 2, h / 2
  return jnp.array(
    [
      [cos, sin + shear_x, cx - cos * cx - sin * cy + move_x],
      [shear_y - sin, cos, cy + sin * cx - cos * cy + move_y],
    ]
  )


def warp(image: jax.Array, matrix: jax.Array, fill: Sequence[int]) -> jax.Array:
  """Moves the pixels of a uint8 image [h, w, 3], bilinearly.

  Args:
    image: one image.
    matrix: [2, 3], as Pillow's: where (x, y, 1) of the result comes from.
    fill: colour where that is outside of the image.
  """
  h, w, _ = image.shape
  x, y = jnp.meshgrid(jnp.arange(w) + 0.5, jnp.arange(h) + 0.5)
  from_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
  from_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
  inside = (from_x >= 0) & (from_x < w) & (from_y >= 0) & (from_y < h)
  left, top = jnp.floor(from_x - 0.5), jnp.floor(from_y - 0.5)
  right, down = (
    (from_x - 0.5 - left)[..., None],
    (from_y - 0.5 - top)[..., None],
  )

  def pixel(dy, dx):
    row = jnp.clip(top + dy, 0, h - 1).astype(int)
    column = jnp.clip(left + dx, 0, w - 1).astype(int)
    return image[row, column].astype(jnp.float32)

  upper = pixel(0, 0) + right * (pixel(0, 1) - pixel(0, 0))
  lower = pixel(1, 0) + right * (pixel(1, 1) - pixel(1, 0))
  moved = jnp.rint(upper + down * (lower - upper)).astype(jnp.uint8)
  return jnp.where(inside[..., None], moved, jnp.array(fill, jnp.uint8))
