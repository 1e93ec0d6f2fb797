"""RoIAlign and its gradient against plain loops over samples."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.detection import faster_rcnn as pooling
from synthjax.detection.faster_rcnn import roi_align

H, W, C, OUTPUT, SCALE = 9, 13, 3, 3, 1 / 16
f32 = np.float32


def corners(y, x, h, w):
  """Yields (row, column, weight) of a bilinear sample; none if out of reach."""
  if y < -1 or y > h or x < -1 or x > w:
    return
  y, x = max(y, f32(0)), max(x, f32(0))
  top, left = min(int(y), h - 1), min(int(x), w - 1)
  bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
  dy = y - top if bottom > top else f32(0)
  dx = x - left if right > left else f32(0)
  yield top, left, (1 - dy) * (1 - dx)
  yield top, right, (1 - dy) * dx
  yield bottom, left, dy * (1 - dx)
  yield bottom, right, dy * dx


def contributions(roi, h, w, sampling):
  """Yields (bin row, bin column, row, column, weight) of a RoI's samples."""
  x0, y0, x1, y1 = (f32(v) * f32(SCALE) - f32(0.5) for v in roi)
  bin_h, bin_w = (y1 - y0) / f32(OUTPUT), (x1 - x0) / f32(OUTPUT)
  num_y = sampling or math.ceil(bin_h)
  num_x = sampling or math.ceil(bin_w)
  for o in range(OUTPUT):
    for p in range(OUTPUT):
      for i in range(num_y):
        y = y0 + f32(o) * bin_h + f32(i + 0.5) * bin_h / f32(num_y)
        for j in range(num_x):
          x = x0 + f32(p) * bin_w + f32(j + 0.5) * bin_w / f32(num_x)
          for row, column, weight in corners(y, x, h, w):
            yield o, p, row, column, weight / (num_y * num_x)


def plain_roi_align(features, rois, grads, sampling):
  """Returns the bins [r, o, o, c] and the features' gradient [h, w, c]."""
  bins = np.zeros((len(rois), OUTPUT, OUTPUT, features.shape[-1]))
  adjoint = np.zeros(features.shape)
  for r, roi in enumerate(rois):
    for o, p, row, column, weight in contributions(
      roi, *features.shape[:2], sampling
    ):
      bins[r, o, p] += weight * features[row, column]
      adjoint[row, column] += weight * grads[r, o, p]
  return bins, adjoint


def make_rois(rng, num):
  """Random, integer, empty, inverted and out-of-image boxes of 208 x 144 px."""
  bound = np.array([W / SCALE, H / SCALE])
  centre = rng.uniform(-0.2, 1.2, (num, 2)) * bound
  side = np.exp(rng.uniform(0, np.log(250), (num, 2)))
  rois = np.concatenate([centre - side / 2, centre + side / 2], -1)
  kind = np.arange(num) % 8
  rois[kind == 0] = np.clip(rois[kind == 0], 0, np.tile(bound, 2))
  rois[kind == 1] = 8 * np.round(rois[kind == 1] / 8)
  rois[kind == 2, 2] = rois[kind == 2, 0]  # no width
  rois[kind == 3] = rois[kind == 3][:, [2, 3, 0, 1]]  # inverted
  rois[kind == 4] += 300  # mostly outside
  if num > 5:
    rois[5] = 0, 0, *bound  # all of the image
  return rois.astype(f32)


@pytest.mark.parametrize(("num", "sampling"), [(50, 0), (50, 2)])
def test_bins_and_gradients_are_a_plain_reading_of_the_definition(
  num, sampling
):
  rng = np.random.default_rng(sampling)
  n = 4  # images
  features = rng.normal(size=(n, H, W, C)).astype(f32)
  rois = np.stack([make_rois(rng, num) for _ in range(n)])
  grads = rng.normal(size=(n, num, OUTPUT, OUTPUT, C)).astype(f32)
  pool = jax.vmap(
    partial(roi_align, output=OUTPUT, scale=SCALE, sampling=sampling)
  )

  @jax.jit
  def both(features, rois, grads):
    bins, vjp = jax.vjp(pool, features, rois)
    return bins, *vjp(grads)

  with jax.default_matmul_precision("highest"):
    bins, features_grad, rois_grad = both(features, rois, grads)
  assert not rois_grad.any()
  for i in range(n):
    want, adjoint = plain_roi_align(features[i], rois[i], grads[i], sampling)
    np.testing.assert_allclose(bins[i], want, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(features_grad[i], adjoint, rtol=1e-5, atol=1e-4)


def test_a_slope_is_pooled_to_its_value_in_the_middle_of_each_bin():
  """Interpolation and means are exact where features grow linearly."""
  y, x = np.meshgrid(np.arange(H), np.arange(W), indexing="ij")
  features = np.stack([y, x], -1).astype(f32)
  # A feature lies in the middle of its cell: pixel 16 * (y + 0.5).
  rois = np.array([[24, 40, 24 + 48, 40 + 96]], f32)
  for sampling in (0, 1, 3):
    pool = jax.jit(partial(roi_align, output=3, scale=SCALE, sampling=sampling))
    bins = pool(features, rois)
    np.testing.assert_allclose(
      bins[0, :, 1, 0], 2.0 + np.array([1, 3, 5]), rtol=1e-5
    )
    np.testing.assert_allclose(
      bins[0, 1, :, 1], 1.0 + np.array([0.5, 1.5, 2.5]), rtol=1e-5
    )


def test_chunks_do_not_change_the_result(monkeypatch):
  rng = np.random.default_rng(0)
  features, rois = rng.normal(size=(H, W, C)).astype(f32), make_rois(rng, 10)
  want = jax.jit(partial(roi_align, output=2))(features, rois)
  monkeypatch.setattr(pooling, "CHUNK", 4)
  got = jax.jit(partial(roi_align, output=2))(features, rois)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_half_precision_features_keep_float32_positions():
  rng = np.random.default_rng(0)
  features = jnp.asarray(rng.normal(size=(50, 84, 2)), jnp.bfloat16)
  rois = np.array([[1200, 700, 1300, 790], [3, 5, 1301, 777]], f32)
  pool = jax.jit(roi_align)
  bins = pool(features, rois)
  assert bins.dtype == jnp.bfloat16 and bins.shape == (2, 14, 14, 2)
  want = pool(features.astype(f32), rois)
  np.testing.assert_allclose(bins.astype(f32), want, atol=0.03)


def test_six_samples_are_enough_for_the_widest_training_image():
  rng = np.random.default_rng(0)
  features = rng.normal(size=(50, 84, 1)).astype(f32)
  rois = np.array([[0, 0, 1333, 800], [0, 0, 1344, 800]], f32)
  pool = lambda **options: jax.jit(partial(roi_align, **options))
  np.testing.assert_array_equal(
    pool()(features, rois), pool(max_samples=9)(features, rois)
  )


def test_bins_are_those_of_torchvision():
  torch = pytest.importorskip("torch")
  try:  # a torchvision for another torch fails with a RuntimeError
    from torchvision.ops.roi_align import _roi_align
  except (ImportError, RuntimeError) as error:
    pytest.skip(f"torchvision cannot be imported: {error}")
  rng = np.random.default_rng(0)
  features = rng.normal(size=(20, 30, 4)).astype(f32)
  # Its Python form does not zero what lies more than a cell outside, so that
  # the boxes stay within: 320 x 480 px and half a cell more.
  corner = rng.uniform(-8, 310, (40, 2))
  rois = np.concatenate([corner, corner + rng.uniform(1, 480, (40, 2))], -1)
  rois = np.minimum(rois, [488, 328, 488, 328]).astype(f32)
  for sampling in (0, 2):
    want = _roi_align(
      torch.tensor(features.transpose(2, 0, 1)[None]),
      torch.tensor(np.pad(rois, ((0, 0), (1, 0)))),
      1 / 16,
      7,
      7,
      sampling,
      True,
    ).numpy()
    with jax.default_matmul_precision("highest"):
      got = roi_align(features, rois, output=7, sampling=sampling)
    np.testing.assert_allclose(
      got.transpose(0, 3, 1, 2), want, rtol=1e-5, atol=2e-5
    )
