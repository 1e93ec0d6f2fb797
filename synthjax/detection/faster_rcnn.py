"""Faster R-CNN on a ResNet's C4 features (Ren et al. 2015; He et al. 2020).

The detector of MoCo's transfer to PASCAL VOC: all stages of a ResNet but the
last are the backbone. The last one ("res5") sees each region of interest, and
an additional BatchNorm follows it. Submodules that a classifier shares have the
names that they have there.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.models.classifiers import backbone, make_classifier
from synthjax.models.resnet.model import BLOCKS, BatchNorm, Conv, ResNet
from synthjax.runtime.errors import UserError

# Submodules that no classifier has: drawn anew whatever the backbone.
NEW = (
  "rpn_conv",
  "rpn_objectness",
  "rpn_deltas",
  "norm",
  "cls_score",
  "bbox_pred",
)


class FasterRCNN(nn.Module):
  """A region proposal network and a classifier of regions.

  `propose` and `classify` are the two halves; the choice of the regions, which
  has no parameters, lies between them.
  """

  stage_sizes: Sequence[int]  # the last is the head's
  num_classes: int  # without the background
  block: str = "bottleneck"  # a key of resnet.BLOCKS
  width: int = 64  # of the first stage
  stem: str = "imagenet"  # one of resnet.STEMS
  num_anchors: int = 15  # at each place
  roi_size: int = 14  # side of a pooled region; the head halves it
  sampling: int = 0  # samples per bin and axis; 0: one per cell it spans
  max_samples: int = 6  # of `sampling=0`: enough for 84 cells, 1344 px
  dtype: jnp.dtype = jnp.float32  # of activations; parameters stay float32
  remat: bool = False  # recomputes blocks in the backward pass: less memory

  @property
  def stride(self) -> int:
    """Input pixels per cell of the features."""
    stem = 4 if self.stem == "imagenet" else 1
    return stem * 2 ** (len(self.stage_sizes) - 2)

  def setup(self):
    if len(self.stage_sizes) < 2:
      raise UserError(
        f"A detector needs a ResNet of two stages or more, as the last one is "
        f"its head; found stage_sizes={tuple(self.stage_sizes)}."
      )
    conv = partial(Conv, dtype=self.dtype)
    if self.stem == "imagenet":
      self.conv1 = conv(self.width, (7, 7), 2, padding=3)
    else:
      self.conv1 = conv(self.width, (3, 3), padding=1)
    self.bn1 = BatchNorm(dtype=self.dtype)
    make = BLOCKS[self.block]
    make = nn.remat(make, static_argnums=(2,)) if self.remat else make
    for i, size in enumerate(self.stage_sizes):
      for j in range(size):
        block = make(
          width=self.width * 2**i,
          stride=2 if i > 0 and j == 0 else 1,
          dtype=self.dtype,
        )
        setattr(self, f"layer{i + 1}_{j}", block)

    expansion = 4 if self.block == "bottleneck" else 1
    channels = expansion * self.width * 2 ** (len(self.stage_sizes) - 2)
    small = nn.initializers.normal(0.01)
    self.rpn_conv = nn.Conv(
      channels, (3, 3), padding=1, kernel_init=small, dtype=self.dtype
    )
    one = partial(nn.Conv, kernel_size=(1, 1), kernel_init=small)
    self.rpn_objectness = one(self.num_anchors)
    self.rpn_deltas = one(4 * self.num_anchors)

    self.norm = BatchNorm(dtype=self.dtype)
    self.cls_score = nn.Dense(self.num_classes + 1, kernel_init=small)
    smaller = nn.initializers.normal(0.001)
    self.bbox_pred = nn.Dense(4 * self.num_classes, kernel_init=smaller)

  def __call__(
    self,
    images: jax.Array,
    rois: jax.Array,
    valid: jax.Array,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Runs both halves on given regions: see `propose` and `classify`."""
    features, logits, deltas = self.propose(images, train=train)
    scores, boxes = self.classify(features, rois, valid, train=train)
    return logits, deltas, scores, boxes

  def propose(
    self, images: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores the anchors of images, and moves them.

    Args:
      images: [n, H, W, 3] normalised; zero where they end before H and W.
      train: BatchNorm uses the batch and updates `batch_stats`.

    Returns:
      Features [n, h, w, c], and float32 logits [n, h*w*num_anchors] of being an
      object and deltas [n, h*w*num_anchors, 4] of the anchors, in the order of
      `anchors.make_anchors`.
    """
    x = self.bn1(self.conv1(images), use_running_average=not train)
    x = nn.relu(x)
    if self.stem == "imagenet":
      x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for i in range(len(self.stage_sizes) - 1):
      x = self._stage(i, x, train=train)
    y = nn.relu(self.rpn_conv(x)).astype(jnp.float32)
    n = len(images)
    logits = self.rpn_objectness(y).reshape(n, -1)
    return x, logits, self.rpn_deltas(y).reshape(n, -1, 4)

  def classify(
    self,
    features: jax.Array,
    rois: jax.Array,
    valid: jax.Array,
    *,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    """Classifies regions, and moves their boxes.

    Args:
      features: [n, h, w, c] of `propose`.
      rois: [n, r, 4] float32 boxes in input pixels.
      valid: [n, r] bool; BatchNorm's statistics leave out the others.
      train: as for `propose`.

    Returns:
      Float32 logits [n, r, num_classes + 1], whose last is the background's,
      and deltas [n, r, num_classes, 4].
    """
    n, r, _ = rois.shape
    pool = partial(
      roi_align,
      output=self.roi_size,
      scale=1 / self.stride,
      sampling=self.sampling,
      max_samples=self.max_samples,
    )
    x = jax.vmap(pool)(features, rois)  # [n, r, roi_size, roi_size, c]
    x = x.reshape(n * r, *x.shape[2:]).astype(self.dtype)
    with _statistics_of(valid.reshape(n * r)):
      x = self._stage(len(self.stage_sizes) - 1, x, train=train)
      x = self.norm(x, use_running_average=not train)
    x = x.astype(jnp.float32).mean((1, 2))  # [n*r, c]
    logits = self.cls_score(x).reshape(n, r, -1)
    return logits, self.bbox_pred(x).reshape(n, r, -1, 4)

  def _stage(self, i: int, x: jax.Array, *, train: bool) -> jax.Array:
    """Runs the blocks of stage i, counted from 0."""
    for j in range(self.stage_sizes[i]):
      x = getattr(self, f"layer{i + 1}_{j}")(x, train)
    return x


def _statistics_of(valid: jax.Array) -> AbstractContextManager:
  """Makes every BatchNorm within average over the valid of [n, h, w, c].

  An image may have fewer regions than places; PyTorch's batch is then smaller.
  """
  mask = valid[:, None, None, None]

  def with_mask(call, args, kwargs, context):
    is_norm = isinstance(context.module, nn.BatchNorm)
    if is_norm and context.method_name == "__call__":
      kwargs = {**kwargs, "mask": mask}
    return call(*args, **kwargs)

  return nn.intercept_methods(with_mask)


def make_detector(
  name: str,
  *,
  num_classes: int,
  num_anchors: int = FasterRCNN.num_anchors,
  roi_size: int = FasterRCNN.roi_size,
  sampling: int = FasterRCNN.sampling,
  **sizes: Any,
) -> FasterRCNN:
  """Returns the detector on the ResNet that is called `name`.

  Args:
    name: a ResNet of `classifiers.CLASSIFIERS`.
    num_classes: without the background.
    num_anchors: see `FasterRCNN`.
    roi_size: see `FasterRCNN`.
    sampling: see `FasterRCNN`.
    **sizes: fields of the ResNet that differ, such as `width` and `dtype`.

  Raises:
    UserError: for an unknown model or field, or a model that is no ResNet.
  """
  resnet = make_classifier(name, num_classes=None, **sizes)
  if not isinstance(resnet, ResNet):
    raise UserError(
      f"The detector stands on a ResNet, and {name!r} is none: its stages are "
      "cut before the last. Give a ResNet such as 'resnet50'."
    )
  shared = {f.name for f in dataclasses.fields(FasterRCNN)}
  shared &= {f.name for f in dataclasses.fields(ResNet)}
  shared -= {"parent", "name", "num_classes"}
  return FasterRCNN(
    num_classes=num_classes,
    num_anchors=num_anchors,
    roi_size=roi_size,
    sampling=sampling,
    **{field: getattr(resnet, field) for field in shared},
  )


# --- the start from a ResNet ------------------------------------------------


def from_backbone(
  weights: Mapping[str, Any], variables: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns a detector's variables that start from a ResNet's.

  Every weight of the ResNet but those of its head is used, with the statistics
  of BatchNorm. They may be ours, or released ones that `models.resnet.weights`
  reads (torchvision, timm, MoCo).

  Args:
    weights: `params` and `batch_stats` of a ResNet, with any head or none.
    variables: of a new `FasterRCNN`; variables that no ResNet has stay.

  Raises:
    UserError: listing every weight that is missing, unused or misshapen.
  """
  given = traverse_util.flatten_dict(backbone(weights))
  needed = traverse_util.flatten_dict(dict(variables))
  problems = []
  for path in sorted(given.keys() | needed.keys()):
    if path not in given and path[1] in NEW:
      continue
    has, needs = (
      np.shape(tree[path]) if path in tree else None for tree in (given, needed)
    )
    if has != needs:
      problems.append(
        f"{'/'.join(path)}: the ResNet has {has}, the detector needs {needs}"
      )
  if problems:
    raise UserError(
      f"The ResNet does not fit the detector in {len(problems)} places:\n  "
      + "\n  ".join(problems)
      + "\nBuild the detector on the ResNet that was pre-trained."
    )
  return traverse_util.unflatten_dict(needed | given)


# --- RoIAlign (He et al. 2017, Section 3), as matrix products ----------------
# A bin is the mean of bilinear samples on a regular grid. The mean and the
# interpolation separate into the two axes. So for features F of one channel the
# bins are A_y F A_x^T: row o of A_y [output, h] holds the weights of all rows
# of features in bin row o. The gradient is two products again, while the
# gradient of gathered samples is a scatter, which is slow on every accelerator.
# With the adaptive number of samples both passes are also faster on a CPU.

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
