"""RoIAlign (He et al. 2017, Section 3) as two matrix products for each region.

A bin is the mean of bilinear samples on a regular grid. The mean and the
interpolation separate into the two axes. So for features F of one channel the
bins are A_y F A_x^T: row o of A_y [output, h] holds the weights of all rows of
features in bin row o. The gradient is two products again, while the gradient of
gathered samples is a scatter, which is slow on every accelerator. With the
adaptive number of samples both passes are also faster on a CPU.
"""

import jax
import jax.numpy as jnp

CHUNK = 32  # regions at once; pooled along one axis, each is output/h of a map


def roi_align(
  features: jax.Array,
  rois: jax.Array,
  *,
  output: int = 14,
  scale: float = 1 / 16,
  sampling: int = 0,
  max_samples: int = 6,
) -> jax.Array:
  """Pools regions of an image to one size.

  The "aligned" variant: pixel coordinates are those of corners, and features
  sit in the middle of their cells, half a cell further. Samples further than a
  cell outside the features count as 0, others outside as on the border. A
  region without extent has no samples, and its bins are 0, if `sampling` is 0.

  Args:
    features: [h, w, c].
    rois: [r, 4] boxes in pixels; they get no gradient.
    output: bins along each axis.
    scale: features per pixel, 1 / stride.
    sampling: samples in a bin along each axis. 0 takes as many as a bin has
      cells, rounded up, along the axis: ceil(extent of the region / output).
    max_samples: the most that 0 takes. 6 is never short for output=14, a stride
      of 16 and images of up to 1344 px.

  Returns:
    [r, output, output, c] of the features' dtype.
  """
  h, w, c = features.shape
  r = len(rois)
  # The positions need float32 even where the features are bfloat16.
  x0, y0, x1, y1 = jax.lax.stop_gradient(jnp.asarray(rois, jnp.float32)).T
  shared = dict(
    output=output, scale=scale, sampling=sampling, max_samples=max_samples
  )
  rows = _weights(y0, y1, h, **shared).astype(features.dtype)
  columns = _weights(x0, x1, w, **shared).astype(features.dtype)

  def pool(weights):
    rows, columns = weights  # [k, output, h], [k, output, w]
    some = jnp.einsum("koh,hwc->kowc", rows, features)
    # One matrix for each bin row: XLA then runs plain batched products, whose
    # transpose is no slower. Without it the gradient takes four times as long.
    columns = jnp.broadcast_to(columns[:, None], (len(rows), output, output, w))
    return jnp.matmul(columns, some)  # [k, output, output, c]

  chunk = min(CHUNK, r)
  split = lambda a: jnp.pad(a, ((0, -r % chunk), (0, 0), (0, 0))).reshape(
    -1, chunk, *a.shape[1:]
  )
  pooled = jax.lax.map(pool, (split(rows), split(columns)))
  return pooled.reshape(-1, output, output, c)[:r]


def _weights(
  start: jax.Array,
  end: jax.Array,
  length: int,
  *,
  output: int,
  scale: float,
  sampling: int,
  max_samples: int,
) -> jax.Array:
  """Returns the weights of the features in each bin, along one axis.

  Args:
    start: [r] of the regions, in pixels.
    end: [r].
    length: n, the number of features along the axis.
    output: as for `roi_align`.
    scale: as for `roi_align`.
    sampling: as for `roi_align`.
    max_samples: as for `roi_align`.

  Returns:
    [r, output, n] float32.
  """
  start, end = start * scale - 0.5, end * scale - 0.5
  extent = end - start  # [r]
  if sampling:
    num, max_samples = jnp.full_like(start, sampling), sampling
  else:
    # Counts up to ceil(extent / output). The compiler turns a division by a
    # constant into a product, by which 84 / 14 is above 6 and rounds up to 7.
    num = (extent[:, None] > output * jnp.arange(max_samples)).sum(1)
  start, num = start[:, None, None], num[:, None, None]
  bin_size = extent[:, None, None] / output
  i = jnp.arange(output)[:, None]
  k = jnp.arange(max_samples)
  step = bin_size / jnp.maximum(num, 1)
  position = start + i * bin_size + (k + 0.5) * step  # [r, output, k]

  counted = (k < num) & (position >= -1) & (position <= length)
  share = jnp.where(counted, 1 / jnp.maximum(num, 1), 0)
  # A tent of width 2 around the sample is linear interpolation.
  position = jnp.clip(position, 0, length - 1)[..., None]
  tent = jnp.maximum(1 - jnp.abs(position - jnp.arange(length)), 0)
  return (share[..., None] * tent).sum(2)
