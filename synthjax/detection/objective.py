"""Faster R-CNN's training and its detections.

A batch holds `image` uint8 [n, H, W, 3], filled up with zeros; `size` int32
[n, 2], the true height and width; and, for training, `boxes` float32 [n, g, 4]
(x0, y0, x1, y1 in pixels of the input), `labels` int32 [n, g] and `valid` bool
[n, g]. Everything from the pixels to the loss is one compiled function.

BatchNorm averages over the whole batch, with the padding of images, on any
number of devices: the SyncBN of the reference.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.detection import geometry, regions
from synthjax.detection.anchors import draw_subsample
from synthjax.detection.nms import batched_nms
from synthjax.detection.regions import (
  AnchorTargets,
  Options,
  RoiTargets,
  Subsample,
)
from synthjax.models.pixels import normalize
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError
from synthjax.training import loop
from synthjax.training.loop import Objective

VOC = Options()


@flax.struct.dataclass
class DetectionState:
  """All that changes in training."""

  step: jax.Array  # []
  variables: Any  # params and batch_stats
  opt_state: optax.OptState


def detection(
  model: Any,
  tx: optax.GradientTransformation,
  *,
  options: Options = VOC,
  subsample: Subsample = draw_subsample,
) -> Objective:
  """Returns the objective of Faster R-CNN; all four losses weigh the same.

  Args:
    model: a `faster_rcnn.FasterRCNN`, or a stand-in with its methods.
    tx: the optimizer.
    options: all choices outside of the network.
    subsample: draws anchors and regions; as `anchors.draw_subsample`.

  Raises:
    UserError: when compiled, for a model with another number of anchors.
  """

  def init(rng, batch):
    images = preprocess(jax.tree.map(lambda x: jnp.asarray(x[:1]), batch))
    rois, valid = jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool)
    variables = dict(model.init(rng, images, rois, valid))
    opt_state = tx.init(variables["params"])
    return DetectionState(jnp.array(0), variables, opt_state)

  def loss_fn(params, variables, batch, rng):
    metrics, stats = _forward(
      model, variables | {"params": params}, batch, rng, options, subsample
    )
    loss = sum(v for name, v in metrics.items() if name.startswith("loss"))
    return loss, ({"loss": loss} | metrics, stats)

  def step(state, batch, rng):
    params = state.variables["params"]
    grads, (metrics, stats) = jax.grad(loss_fn, has_aux=True)(
      params, state.variables, batch, rng
    )
    updates, opt_state = tx.update(grads, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates)} | stats
    return DetectionState(state.step + 1, variables, opt_state), metrics

  return Objective(init, step, trained="variables")


def start_from(
  objective: Objective, replace: Callable[[Any], Mapping]
) -> Objective:
  """Returns the objective with another start.

  Args:
    objective: of `detection`.
    replace: maps the variables that were drawn to those to start from, such as
      `partial(faster_rcnn.from_backbone, weights)`.
  """

  def init(rng, batch):
    state = objective.init(rng, batch)
    variables = jax.tree.map(jnp.asarray, dict(replace(state.variables)))
    # The optimizers of this package start from zeros, whatever the weights.
    return state.replace(variables=variables)

  return objective._replace(init=init)


def trace(
  objectives: Sequence[Objective], *, batch_size: int, side: int
) -> None:
  """Traces the starts of objectives and their common step; computes nothing.

  Args:
    objectives: of `detection`, with several starts.
    batch_size: n.
    side: of the images in pixels; rounded up to a multiple of 16.

  Raises:
    UserError: about shapes and sizes that do not fit.
  """
  batch = _outline(batch_size, side, side)
  *others, last = objectives  # their step is one
  for objective in others:
    jax.eval_shape(objective.init, jax.random.key(0), batch)
  loop.trace(last, batch)


def kept_bytes(
  model: Any,
  *,
  batch_size: int,
  height: int,
  width: int,
  options: Options = VOC,
) -> int:
  """Returns the bytes that a step keeps for its gradients; computes nothing.

  It keeps less, as XLA joins operations, but not more.

  Args:
    model: as for `detection`.
    batch_size: n, on a device.
    height: of the images in pixels; rounded up to a multiple of 16.
    width: likewise.
    options: as for `detection`.
  """
  batch, rng = _outline(batch_size, height, width), jax.random.key(0)
  rois, valid = np.zeros((1, 1, 4)), np.ones((1, 1), bool)
  images = np.zeros((1, 64, 64, 3), np.float32)
  like = jax.eval_shape(model.init, rng, images, rois, valid)

  def backward(params, others, batch):
    def losses(params):
      variables = others | {"params": params}
      return _forward(model, variables, batch, rng, options, draw_subsample)

    return jax.vjp(losses, params)[1]

  others = {k: v for k, v in like.items() if k != "params"}
  kept = jax.eval_shape(backward, like["params"], others, batch)
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))


def _outline(n: int, height: int, width: int) -> dict[str, Any]:
  """Returns the shapes of a batch, sides rounded up to a multiple of 16."""
  height, width = -(-height // 16) * 16, -(-width // 16) * 16
  shapes = {
    "image": ((n, height, width, 3), np.uint8),
    "size": ((n, 2), np.int32),
    "boxes": ((n, 1, 4), np.float32),
    "labels": ((n, 1), np.int32),
    "valid": ((n, 1), bool),
  }
  return {name: jax.ShapeDtypeStruct(*spec) for name, spec in shapes.items()}


def preprocess(batch: Mapping[str, jax.Array]) -> jax.Array:
  """Returns normalised images [n, H, W, 3], zero in the padding."""
  images, size = normalize(batch["image"]), batch["size"]
  _, height, width, _ = images.shape
  rows = jnp.arange(height) < size[:, :1]  # [n, H]
  columns = jnp.arange(width) < size[:, 1:]  # [n, W]
  inside = rows[:, :, None] & columns[:, None, :]
  return jnp.where(inside[..., None], images, 0.0)


def _forward(
  model: Any,
  variables: Mapping,
  batch: Mapping[str, jax.Array],
  rng: jax.Array,
  options: Options,
  subsample: Subsample,
) -> tuple[dict[str, jax.Array], dict]:
  """Returns the losses in training mode, and the moved statistics."""
  apply = partial(model.apply, train=True, mutable=["batch_stats"])
  images, n = preprocess(batch), len(batch["image"])
  anchor_rngs, roi_rngs = (
    jax.random.split(r, n) for r in jax.random.split(rng)
  )
  boxes, valid = batch["boxes"], batch["valid"]

  (features, logits, deltas), stats = apply(variables, images, method="propose")
  anchors = regions.make_anchors(model, options, features.shape[1:3])
  sample = partial(regions.sample_anchors, options=options, subsample=subsample)
  anchor_targets = jax.vmap(sample, in_axes=(0, None, 0, 0))(
    anchor_rngs, anchors, boxes, valid
  )
  losses = proposal_losses(
    logits, deltas, anchor_targets, num_anchors=options.num_anchors
  )

  proposals, proposed = regions.propose(
    logits, deltas, anchors, batch["size"], options=options, train=True
  )
  sample = partial(
    regions.sample_rois,
    num_classes=model.num_classes,
    options=options,
    subsample=subsample,
  )
  targets = jax.vmap(sample)(
    roi_rngs, proposals, proposed, boxes, batch["labels"], valid
  )
  (logits, deltas), stats = apply(
    {**variables, **stats},
    features,
    targets.rois,
    targets.valid,
    method="classify",
  )
  return losses | head_losses(logits, deltas, targets), dict(stats)


# --- the four losses (Ren et al. 2015) ----------------------------------------
# The distance of deltas is L1: smooth L1 whose round part has no width.


def proposal_losses(
  logits: jax.Array,
  deltas: jax.Array,
  targets: AnchorTargets,
  *,
  num_anchors: int,
) -> dict[str, jax.Array]:
  """Returns the losses of the region proposal network.

  Args:
    logits: [n, a] float32.
    deltas: [n, a, 4] float32.
    targets: arrays [n, a, ...].
    num_anchors: per image; both sums are divided by n times that many, even
      where fewer were sampled.
  """
  total = num_anchors * len(logits)
  positive, counts = targets.positive, targets.positive | targets.negative
  entropy = optax.sigmoid_binary_cross_entropy(
    logits, positive.astype(jnp.float32)
  )
  return {
    "loss_rpn_cls": jnp.sum(entropy, where=counts) / total,
    "loss_rpn_box": _l1(deltas, targets.deltas, positive) / total,
  }


def head_losses(
  logits: jax.Array, deltas: jax.Array, targets: RoiTargets
) -> dict[str, jax.Array]:
  """Returns the losses of the head, and the share of foreground.

  Args:
    logits: [n, r, k + 1] float32.
    deltas: [n, r, k, 4] float32; those of the true class count.
    targets: arrays [n, r, ...]; the sums are divided by the number of all
      valid regions of the batch, foreground or not.
  """
  foreground, labels = targets.foreground, targets.labels
  total = jnp.maximum(targets.valid.sum(), 1)
  entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  k = deltas.shape[2]
  true_class = jnp.minimum(labels, k - 1)  # the background has no deltas
  deltas = jnp.take_along_axis(deltas, true_class[..., None, None], axis=2)
  return {
    "loss_cls": jnp.sum(entropy, where=targets.valid) / total,
    "loss_box": _l1(deltas[:, :, 0], targets.deltas, foreground) / total,
    "foreground": foreground.sum() / total,
  }


def _l1(deltas: jax.Array, targets: jax.Array, where: jax.Array) -> jax.Array:
  """Sums the distances of deltas [n, b, 4] where a mask [n, b] is True."""
  return jnp.sum(jnp.abs(deltas - targets), where=where[..., None])


# --- BatchNorm's statistics after training (Wu and Johnson 2021) -------------
# The running ones trail behind the weights. An average over many batches, with
# the weights held still, does not.

_MOMENTUM = 0.9  # of BatchNorm


def precise_bn(
  model: Any,
  variables: Mapping[str, Any],
  batches: Iterable[Mapping],
  num_iterations: int,
  *,
  options: Options = VOC,
) -> dict[str, Any]:
  """Returns the variables with statistics that are the means over batches.

  The pass is that of training: the head's are those of sampled regions.

  Args:
    model: as for `detection`.
    variables: `params` and `batch_stats`.
    batches: of training.
    num_iterations: batches to take.
    options: as for `detection`.

  Raises:
    UserError: when there are fewer batches.
  """
  forward = _statistics(model, options)
  return mean_statistics(forward, variables, batches, num_iterations)


@cache  # so that detectors of several seeds compile it once
def _statistics(model: Any, options: Options) -> Callable:
  """Returns (variables, batch, rng) -> statistics, moved by the batch."""

  def forward(variables, batch, rng):
    _, stats = _forward(model, variables, batch, rng, options, draw_subsample)
    return stats["batch_stats"]

  return forward


def mean_statistics(
  forward: Callable[[Any, Any, jax.Array], Any],
  variables: Mapping[str, Any],
  batches: Iterable[Any],
  num_iterations: int,
) -> dict[str, Any]:
  """Returns the variables with the mean statistics of batches.

  The variance is the mean of the batches' own, and biased as is all of Flax's:
  PyTorch's is larger by v / (v - 1) for v values of a channel in a batch.

  Args:
    forward: (variables, batch, rng) -> `batch_stats` after a pass in training
      mode; compiled once for all calls with the same function.
    variables: `params` and `batch_stats`; only the shapes of these matter.
    batches: this process's share of each global batch, dicts of arrays.
    num_iterations: batches to take.

  Raises:
    UserError: when there are fewer batches.
  """
  mesh = meshes.make_mesh()
  variables = jax.device_put(dict(variables), meshes.copied(mesh))
  rng = meshes.place_key(mesh, jax.random.key(0))
  total = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

  count = 0
  for batch in itertools.islice(batches, num_iterations):
    batch = meshes.to_global(mesh, batch)
    batch_rng = _fold_in(rng, np.uint32(count))
    total = _add(forward, total, variables["params"], batch, batch_rng)
    count += 1
  if count < max(num_iterations, 1):
    raise UserError(
      f"found {count} batches to measure BatchNorm's statistics on, and "
      f"num_iterations={num_iterations}; give as many, and one or more."
    )
  return variables | {"batch_stats": jax.tree.map(lambda t: t / count, total)}


# Compiled, as the key may lie on devices of other processes, too.
_fold_in = jax.jit(jax.random.fold_in)


@partial(jax.jit, static_argnums=0)
def _add(
  forward: Callable, total: Any, params: Any, batch: Any, rng: jax.Array
) -> Any:
  """Returns the sum of statistics with those of one more batch."""
  # Next to statistics of zero, 1 - momentum of the batch's remain.
  zeros = jax.tree.map(jnp.zeros_like, total)
  stats = forward({"params": params, "batch_stats": zeros}, batch, rng)
  return jax.tree.map(lambda t, s: t + s / (1 - _MOMENTUM), total, stats)


# --- detections -------------------------------------------------------------


def predictor(
  model: Any, options: Options = VOC
) -> Callable[[Any, Mapping], dict[str, jax.Array]]:
  """Returns a compiled (variables, batch) -> detections, best first.

  They are `boxes` float32 [n, d, 4] in pixels of the input, `scores` [n, d],
  `labels` int32 [n, d] and `valid` bool [n, d]. The batch needs `image` and
  `size` alone.
  """

  @jax.jit
  def predict(variables, batch):
    features, logits, deltas = model.apply(
      variables, preprocess(batch), method="propose"
    )
    anchors = regions.make_anchors(model, options, features.shape[1:3])
    rois, valid = regions.propose(
      logits, deltas, anchors, batch["size"], options=options, train=False
    )
    logits, deltas = model.apply(
      variables, features, rois, valid, method="classify"
    )
    scores = jax.nn.softmax(logits)[..., :-1]  # the last is the background
    detect = partial(_detect, options=options)
    return jax.vmap(detect)(scores, deltas, rois, valid, batch["size"])

  return predict


def _detect(
  scores: jax.Array,
  deltas: jax.Array,
  rois: jax.Array,
  valid: jax.Array,
  size: jax.Array,
  *,
  options: Options,
) -> dict[str, jax.Array]:
  """Chooses an image's detections.

  Args:
    scores: [r, k] of each class.
    deltas: [r, k, 4] of each class.
    rois: [r, 4].
    valid: [r] False for padding.
    size: [2] height and width.
    options: thresholds and numbers.
  """
  r, k = scores.shape
  boxes = geometry.decode(
    deltas.reshape(r * k, 4), jnp.repeat(rois, k, axis=0), options.roi_weights
  )
  boxes = geometry.clip(boxes, size)
  labels = jnp.tile(jnp.arange(k), r)
  good = valid[:, None] & (scores > options.min_score)
  index, kept = batched_nms(
    boxes,
    scores.reshape(-1),
    labels,
    good.reshape(-1),
    threshold=options.detection_nms,
    max_out=options.max_detections,
  )
  fill = lambda x: jnp.where(kept.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
  return {
    "boxes": fill(boxes[index]),
    "scores": fill(scores.reshape(-1)[index]),
    "labels": fill(labels[index]),
    "valid": kept,
  }
