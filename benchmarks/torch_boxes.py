"""Boxes, proposals and RoIAlign of Faster R-CNN, in plain PyTorch.

Non-maximum suppression and RoIAlign are torchvision's compiled ones where it is
installed, and written out with NumPy and `grid_sample` where not.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from synthjax.detection.regions import Options

try:
  from torchvision import ops

  torch.ops.torchvision.nms  # noqa: B018 - missing where it is not compiled
except (ImportError, AttributeError, RuntimeError):
  ops = None


def has_torchvision() -> bool:
  return ops is not None


def make_anchors(
  options: Options, grid: Sequence[int], stride: int
) -> torch.Tensor:
  corners = []
  for size in options.sizes:
    for ratio in options.ratios:
      w = (size**2 / ratio) ** 0.5
      h = ratio * w
      corners.append([-w / 2, -h / 2, w / 2, h / 2])
  y, x = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
  cells = stride * torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
  return (cells + torch.tensor(corners)).reshape(-1, 4)


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
  area = lambda x: (x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])
  low = torch.maximum(a[:, None, :2], b[None, :, :2])
  high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
  both = (high - low).clamp(min=0).prod(-1)
  return both / (area(a)[:, None] + area(b)[None] - both)


def encode(boxes, anchors, weights):
  middle = lambda x: (x[:, :2] + x[:, 2:]) / 2
  side = lambda x: x[:, 2:] - x[:, :2]
  moved = (middle(boxes) - middle(anchors)) / side(anchors)
  grown = torch.log(side(boxes) / side(anchors))
  return torch.cat([moved, grown], 1) * torch.tensor(
    weights, device=boxes.device
  )


def decode(deltas, anchors, weights):
  deltas = deltas / torch.tensor(weights, device=deltas.device)
  side = anchors[:, 2:] - anchors[:, :2]
  middle = (anchors[:, 2:] + anchors[:, :2]) / 2 + deltas[:, :2] * side
  side = side * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()
  return torch.cat([middle - side / 2, middle + side / 2], 1)


def clip(boxes, size):
  height, width = map(float, size)
  bound = torch.tensor([width, height] * 2, device=boxes.device)
  return torch.minimum(boxes.clamp(min=0), bound)


def match(overlap, low, high, *, low_quality):
  """Returns the best true box of each, and labels 1, 0 and -1 (neither)."""
  best, index = overlap.max(0)
  label = torch.full_like(index, -1)
  label[best < low], label[best >= high] = 0, 1
  if low_quality:
    ties = overlap == overlap.max(1, keepdim=True).values
    label[ties.any(0)] = 1
  return index, label


def propose(logits, deltas, anchors, size, options, *, train):
  """Returns an image's proposals, best first."""
  o = options
  pre, post = (
    (o.pre_top, o.post_top) if train else (o.test_pre_top, o.test_post_top)
  )
  order = logits.argsort(descending=True)[:pre]
  boxes = decode(deltas[order], anchors[order], o.anchor_weights)
  boxes, logits = clip(boxes, size), logits[order]
  full = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
  boxes, logits = boxes[full], logits[full]
  return boxes[nms(boxes, logits, o.proposal_nms, post)]


def nms(boxes, scores, threshold, max_out):
  """Returns the kept boxes' positions, by falling score."""
  if ops is not None:
    return ops.nms(boxes, scores, threshold)[:max_out]
  order = scores.argsort(descending=True)
  x0, y0, x1, y1 = boxes[order].cpu().numpy().T.copy()
  area = (x1 - x0) * (y1 - y0)
  left, kept = np.arange(len(order)), []
  while len(left) and len(kept) < max_out:
    best, left = left[0], left[1:]
    kept.append(int(best))
    width = np.minimum(x1[best], x1[left]) - np.maximum(x0[best], x0[left])
    height = np.minimum(y1[best], y1[left]) - np.maximum(y0[best], y0[left])
    both = np.maximum(width, 0) * np.maximum(height, 0)
    left = left[both / (area[best] + area[left] - both) <= threshold]
  return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def roi_align(
  features: torch.Tensor, rois: torch.Tensor, size: int, scale: float
) -> torch.Tensor:
  """Pools regions [r, 4] within an image [c, h, w] to [r, c, size, size].

  Regions with as many samples along both axes are sampled together.
  """
  features = features.float()
  if ops is not None:
    return ops.roi_align(features[None], [rois], size, scale, 0, True)
  lengths = features.shape[:0:-1]  # of x and y
  start, extent = rois[:, :2] * scale - 0.5, (rois[:, 2:] - rois[:, :2]) * scale
  counts = (extent / size).ceil().clamp(min=1).long()  # [r, 2], x and y
  order, pooled = [], []
  for count in counts.unique(dim=0):
    alike = (counts == count).all(1).nonzero()[:, 0]
    kx, ky = count.tolist()
    for group in alike.split(32):
      places = []
      for axis, k in enumerate((kx, ky)):
        share = torch.arange(size * k, device=rois.device) + 0.5
        share = share / (size * k)
        at = start[group, axis, None] + extent[group, axis, None] * share
        places.append((2 * at + 1) / lengths[axis] - 1)
      shape = (len(group), size * ky, size * kx)
      x, y = (
        places[0][:, None].expand(shape),
        places[1][..., None].expand(shape),
      )
      grid = torch.stack([x, y], -1).flatten(0, 1)[None]
      sampled = F.grid_sample(
        features[None], grid, padding_mode="border", align_corners=False
      )
      sampled = sampled.reshape(-1, len(group), size, ky, size, kx).mean((3, 5))
      pooled.append(sampled.transpose(0, 1))
      order.append(group)
  return torch.cat(pooled)[torch.cat(order).argsort()]
