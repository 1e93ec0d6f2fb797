"""Made-up batches, sizes and an epoch for the benchmark of detection."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

NUM_CLASSES, STRIDE, ROI_SIZE = 20, 16, 14
VOC_IMAGES, VOC_BATCH = 16_551, 16
# Instead of the options of VOC, for tests.
TINY = dict(pre_top=60, post_top=30, test_pre_top=60, test_post_top=20)


class Parts(NamedTuple):
  """Inputs of the parts."""

  logits: np.ndarray  # [n, a] of being an object
  deltas: np.ndarray  # [n, a, 4]
  size: np.ndarray  # [n, 2]
  features: np.ndarray  # [n, h, w, c]
  rois: np.ndarray  # [n, r, 4]


def make_batch(
  n: int, height: int, width: int | None = None, *, places: int = 8
) -> dict[str, np.ndarray]:
  """Returns a batch of images, by default of 4 to 3, each with 3 objects.

  Args:
    n: images.
    height: px.
    width: px.
    places: for objects.
  """
  rng = np.random.default_rng(0)
  shape = np.array([height, width or height * 4 // 3 // STRIDE * STRIDE])
  corner = rng.uniform(0, 0.6, (n, 3, 2)) * shape[::-1]
  side = rng.uniform(0.1, 0.4, (n, 3, 2)) * shape[::-1]
  batch = {
    "image": rng.integers(0, 256, (n, *shape, 3), np.uint8),
    "size": np.tile(shape, (n, 1)).astype(np.int32),
    "boxes": np.zeros((n, places, 4), np.float32),
    "labels": rng.integers(0, NUM_CLASSES, (n, places)).astype(np.int32),
    "valid": np.tile(np.arange(places) < 3, (n, 1)),
  }
  batch["boxes"][:, :3] = np.concatenate([corner, corner + side], -1)
  return batch


def make_parts(batch: Mapping, args, dtype: str) -> Parts:
  """Returns inputs of the parts for images of this size."""
  import jax.numpy as jnp

  rng = np.random.default_rng(1)
  n, height, width = batch["image"].shape[:3]
  h, w = -(-height // STRIDE), -(-width // STRIDE)
  options = make_options(args)
  a = h * w * len(options.sizes) * len(options.ratios)
  ends = rng.uniform(0, 1, (2, n, args.regions, 2)) * [width, height]
  channels = 16 * make_sizes(args).get("width", 64)
  features = rng.normal(size=(n, h, w, channels))
  return Parts(
    logits=rng.normal(size=(n, a)).astype(np.float32),
    deltas=rng.normal(0, 0.1, (n, a, 4)).astype(np.float32),
    size=batch["size"],
    features=features.astype(jnp.dtype(dtype)),
    rois=np.concatenate([ends.min(0), ends.max(0)], -1).astype(np.float32),
  )


def make_options(args) -> Any:
  from synthjax.detection.regions import Options

  options = Options(
    num_rois=args.regions,
    max_foreground=max(args.regions // 4, 1),
    test_post_top=min(2 * args.regions, 1000),
  )
  return options._replace(**TINY) if args.tiny else options


def make_sizes(args) -> dict[str, Any]:
  """Returns the network's sizes that are not ResNet-50's."""
  return dict(stage_sizes=(1, 1, 1, 1), width=8) if args.tiny else {}


def epoch_of_voc(args) -> tuple[int, float]:
  """Returns how many shapes an epoch has, and the share that is padding.

  The images are 500 px long and 375, 333 or some other number of pixels short,
  lying or standing: roughly as many of each as in VOC.
  """
  from synthjax.detection import loader as bucketing
  from synthjax.detection.resize import all_resized, resized

  rng, images = np.random.default_rng(0), bucketing.Images()
  n = VOC_IMAGES if not args.tiny else 200
  short = rng.choice([375, 333, 0], n, p=[0.65, 0.2, 0.15])
  short = np.where(short == 0, rng.integers(250, 500, n), short)
  sizes = np.stack([short, np.full(n, 500)], -1)  # lying
  sizes = np.where(rng.random((n, 1)) < 0.25, sizes[:, ::-1], sizes)
  every = all_resized(sizes, images.short_sides, images.max_size)
  buckets = bucketing.choose_buckets(every, images.num_buckets)
  plan = bucketing.plan_batches(
    sizes,
    buckets,
    images,
    batch_size=VOC_BATCH,
    num_batches=n // VOC_BATCH,
    seed=0,
  )
  true = resized(sizes[plan.rows], plan.short_sides, images.max_size)
  padded = np.asarray(buckets)[plan.buckets].prod(-1).sum() * VOC_BATCH
  return len(np.unique(plan.buckets)), float(1 - true.prod(-1).sum() / padded)
