"""Faster R-CNN in plain PyTorch, the reference of the parity tests.

After the papers (Ren et al. 2015; He et al. 2017 for RoIAlign) and the
constants of detectron2's R50-C4 with MoCo's extra norm: lists of what was found
where ours has masks, loops where ours has arrays. What is sampled is fixed: the
first of what may be.
"""

import numpy as np
from test_parity_classifiers import randomise, torch_resnet

from synthjax.train.regions import Options

SIZES = dict(block="bottleneck", stage_sizes=(1, 1, 1, 1), width=8)
# Of some hundred thousand ReLUs one may have an input within rounding of zero,
# and is on in one framework and off in the other. So it is with seed 3 (3e-6
# from zero; a gradient then differs by 6 %) and seed 5 (0.2 %), not with 4, 6.
SEED = 4
NUM_CLASSES, ROI_SIZE, CHANNELS, STRIDE = 3, 4, 128, 16
OPTIONS = Options(
  sizes=(16, 32, 64),
  num_anchors=64,
  max_positive_anchors=8,
  pre_top=200,
  post_top=50,
  test_pre_top=150,
  test_post_top=40,
  num_rois=60,  # more than there are, at least in part of the images
  max_foreground=4,
  min_score=0.1,
  max_detections=15,
)


def torch_detector(torch, anchors_per_cell):
  nn = torch.nn
  model = torch_resnet(classes=1, **SIZES)
  del model.fc
  model.rpn = nn.Module()
  model.rpn.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
  model.rpn.objectness = nn.Conv2d(CHANNELS, anchors_per_cell, 1)
  model.rpn.deltas = nn.Conv2d(CHANNELS, 4 * anchors_per_cell, 1)
  model.norm = nn.BatchNorm2d(2 * CHANNELS)
  model.cls_score = nn.Linear(2 * CHANNELS, NUM_CLASSES + 1)
  model.bbox_pred = nn.Linear(2 * CHANNELS, 4 * NUM_CLASSES)
  model = randomise(model, seed=SEED)
  with torch.no_grad():  # boxes near their anchors
    model.rpn.deltas.weight *= 0.2
    model.bbox_pred.weight *= 0.5
  return model


def torch_anchors(torch, height, width):
  corners = []
  for size in OPTIONS.sizes:
    for ratio in OPTIONS.ratios:
      w = (size**2 / ratio) ** 0.5
      h = ratio * w
      corners.append([-w / 2, -h / 2, w / 2, h / 2])
  cells = [
    [x * STRIDE, y * STRIDE, x * STRIDE, y * STRIDE]
    for y in range(height)
    for x in range(width)
  ]
  corners, cells = torch.tensor(corners), torch.tensor(cells)
  return (cells[:, None] + corners).reshape(-1, 4)


def torch_iou(torch, a, b):
  area = lambda x: (x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1])
  low = torch.maximum(a[:, None, :2], b[None, :, :2])
  high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
  both = (high - low).clamp(min=0).prod(-1)
  return both / (area(a)[:, None] + area(b)[None] - both)


def torch_encode(torch, boxes, anchors, weights):
  middle = lambda x: (x[:, :2] + x[:, 2:]) / 2
  side = lambda x: x[:, 2:] - x[:, :2]
  moved = (middle(boxes) - middle(anchors)) / side(anchors)
  grown = torch.log(side(boxes) / side(anchors))
  return torch.cat([moved, grown], 1) * torch.tensor(weights)


def torch_decode(torch, deltas, anchors, weights):
  deltas = deltas / torch.tensor(weights)
  side = anchors[:, 2:] - anchors[:, :2]
  middle = (anchors[:, 2:] + anchors[:, :2]) / 2 + deltas[:, :2] * side
  side = side * deltas[:, 2:].clamp(max=np.log(1000 / 16)).exp()
  return torch.cat([middle - side / 2, middle + side / 2], 1)


def torch_clip(torch, boxes, height, width):
  return torch.minimum(
    boxes.clamp(min=0), torch.tensor([width, height] * 2).float()
  )


def torch_nms(torch, boxes, scores, threshold):
  left, kept = scores.argsort(descending=True).tolist(), []
  overlap = torch_iou(torch, boxes, boxes)
  while left:
    kept.append(left.pop(0))
    left = [i for i in left if overlap[kept[-1], i] <= threshold]
  return kept


def torch_propose(torch, logits, deltas, anchors, size, pre, post):
  order = logits.argsort(descending=True)[:pre]
  boxes = torch_decode(torch, deltas[order], anchors[order], [1.0] * 4)
  boxes, logits = torch_clip(torch, boxes, *size), logits[order]
  full = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
  boxes, logits = boxes[full], logits[full]
  return boxes[torch_nms(torch, boxes, logits, 0.7)[:post]]


def torch_match(torch, overlap, low, high, low_quality):
  """Returns the best true box of each, and labels 1, 0 and -1 (neither)."""
  best, index = overlap.max(0)
  label = torch.full(best.shape, -1)
  label[best < low], label[best >= high] = 0, 1
  if low_quality:
    ties = overlap == overlap.max(1, keepdim=True).values
    label[ties.any(0)] = 1
  return index, label


def torch_first(torch, label, num, max_positive):
  """Returns the first positives and negatives, as many as are wanted."""
  positive = (label == 1).nonzero()[:, 0][:max_positive]
  negative = (label == 0).nonzero()[:, 0][: num - len(positive)]
  return positive, negative


def torch_roi_align(torch, features, roi):
  """Pools [c, h, w] to [c, ROI_SIZE, ROI_SIZE]; the mean of each bin's grid."""
  x0, y0, x1, y1 = (roi / STRIDE - 0.5).tolist()
  _, height, width = features.shape

  def places(start, stop):
    count = max(int(np.ceil((stop - start) / ROI_SIZE)), 1)
    step = (stop - start) / (ROI_SIZE * count)
    return start + step * (np.arange(ROI_SIZE * count) + 0.5), count

  (ys, rows), (xs, columns) = places(y0, y1), places(x0, x1)

  # The corners are gathered per axis; beyond one cell outside all is zero.
  def corners(at, length):
    inside = (at >= -1) & (at <= length)
    at = np.clip(at, 0, length - 1)
    below = np.minimum(np.floor(at).astype(int), length - 1)
    above = np.minimum(below + 1, length - 1)
    share = at - below
    return [
      (index, torch.tensor(weight * inside).float())
      for index, weight in ((below, 1 - share), (above, share))
    ]

  sampled = sum(
    features[:, iy][:, :, ix] * wy[:, None] * wx
    for iy, wy in corners(ys, height)
    for ix, wx in corners(xs, width)
  )
  shape = (len(features), ROI_SIZE, rows, ROI_SIZE, columns)
  return sampled.reshape(shape).mean((2, 4))


def torch_features(torch, model, batch):
  mean = torch.tensor([123.675, 116.28, 103.53])
  std = torch.tensor([58.395, 57.12, 57.375])
  padded = torch.zeros(batch["image"].shape)
  for i, (height, width) in enumerate(batch["size"]):
    pixels = torch.tensor(batch["image"][i, :height, :width]).float()
    padded[i, :height, :width] = (pixels - mean) / std
  x = padded.permute(0, 3, 1, 2)
  x = model.pool(model.bn1(model.conv1(x)).relu())
  features = model.layer3(model.layer2(model.layer1(x)))
  y = model.rpn.conv(features).relu()
  logits = model.rpn.objectness(y).permute(0, 2, 3, 1).flatten(1)
  deltas = model.rpn.deltas(y)  # [n, 4a, h, w], the four of an anchor together
  deltas = deltas.permute(0, 2, 3, 1).reshape(len(x), -1, 4)
  return features, logits, deltas, torch_anchors(torch, *features.shape[2:])


def torch_head(torch, model, features, rois):
  pooled = torch.stack(
    [
      torch_roi_align(torch, maps, roi)
      for maps, own in zip(features, rois, strict=True)
      for roi in own
    ]
  )
  x = model.norm(model.layer4(pooled)).mean((2, 3))
  return model.cls_score(x), model.bbox_pred(x).reshape(len(x), -1, 4)


def torch_losses(torch, model, batch):
  features, logits, deltas, anchors = torch_features(torch, model, batch)
  o, functional, n = OPTIONS, torch.nn.functional, len(features)
  rpn_cls = rpn_box = 0.0
  rois, labels, targets = [], [], []
  for i in range(n):
    there = torch.tensor(batch["valid"][i])
    boxes = torch.tensor(batch["boxes"][i])[there]
    classes = torch.tensor(batch["labels"][i])[there].long()

    overlap = torch_iou(torch, boxes, anchors)
    index, label = torch_match(torch, overlap, 0.3, 0.7, low_quality=True)
    positive, negative = torch_first(
      torch, label, o.num_anchors, o.max_positive_anchors
    )
    chosen = torch.cat([positive, negative])
    rpn_cls += functional.binary_cross_entropy_with_logits(
      logits[i, chosen], (label[chosen] == 1).float(), reduction="sum"
    )
    wanted = torch_encode(
      torch, boxes[index[positive]], anchors[positive], [1.0] * 4
    )
    rpn_box += functional.l1_loss(deltas[i, positive], wanted, reduction="sum")

    regions = torch_propose(
      torch,
      logits[i].detach(),
      deltas[i].detach(),
      anchors,
      batch["size"][i],
      o.pre_top,
      o.post_top,
    )
    regions = torch.cat([regions, boxes])
    overlap = torch_iou(torch, boxes, regions)
    index, label = torch_match(torch, overlap, 0.5, 0.5, low_quality=False)
    positive, negative = torch_first(torch, label, o.num_rois, o.max_foreground)
    chosen = torch.cat([positive, negative])
    rois.append(regions[chosen])
    background = torch.full((len(negative),), NUM_CLASSES)
    labels.append(torch.cat([classes[index[positive]], background]))
    targets.append(
      torch_encode(
        torch,
        boxes[index[positive]],
        regions[positive],
        [10.0, 10.0, 5.0, 5.0],
      )
    )
  scores, moves = torch_head(torch, model, features, rois)
  labels, targets = torch.cat(labels), torch.cat(targets)
  foreground = (labels < NUM_CLASSES).nonzero()[:, 0]
  assert 0 < len(foreground) and len(labels) < n * o.num_rois
  return {
    "loss_rpn_cls": rpn_cls / (o.num_anchors * n),
    "loss_rpn_box": rpn_box / (o.num_anchors * n),
    "loss_cls": functional.cross_entropy(scores, labels),
    "loss_box": functional.l1_loss(
      moves[foreground, labels[foreground]], targets, reduction="sum"
    )
    / len(labels),
    "foreground": torch.tensor(len(foreground) / len(labels)),
  }
