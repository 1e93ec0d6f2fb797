"""Faster R-CNN on a ResNet's C4 features in plain PyTorch.

What the benchmark of detection and the parity tests compare with. After the
papers (Ren et al. 2015; He et al. 2017 for RoIAlign) and the constants of
detectron2's R50-C4 with MoCo's extra norm: lists of boxes where ours
has masks, loops over images where ours has arrays.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import torch_models
from benchmarks.torch_boxes import (
  clip,
  decode,
  encode,
  iou,
  make_anchors,
  match,
  nms,
  propose,
  roi_align,
)
from synthjax.detection.regions import Options

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def shuffled(found: torch.Tensor) -> torch.Tensor:
  return found[torch.randperm(len(found), device=found.device)]


class Detector(torch_models.ResNet):
  """The network, its losses and its detections."""

  def __init__(
    self,
    *,
    num_classes: int,
    options: Options = Options(),  # noqa: B008 - immutable
    roi_size: int = 14,
    order: Callable[[torch.Tensor], torch.Tensor] = shuffled,
    **sizes,
  ):
    """Makes the network.

    Args:
      num_classes: without the background.
      options: all choices outside of the network.
      roi_size: side of a pooled region.
      order: of what may be sampled, of which the first are taken.
      **sizes: stage_sizes and width of the ResNet.
    """
    super().__init__(**sizes)
    wide, self.num_classes, self.options = (
      self.fc.in_features,
      num_classes,
      options,
    )
    self.roi_size, self.order = roi_size, order
    self.stride = 4 * 2 ** (self.num_stages - 2)
    del self.fc
    c, a = wide // 2, len(options.sizes) * len(options.ratios)
    self.rpn = nn.ModuleDict(
      {
        "conv": nn.Conv2d(c, c, 3, padding=1),
        "objectness": nn.Conv2d(c, a, 1),
        "deltas": nn.Conv2d(c, 4 * a, 1),
      }
    )
    self.norm = nn.BatchNorm2d(wide)
    self.cls_score = nn.Linear(wide, num_classes + 1)
    self.bbox_pred = nn.Linear(wide, 4 * num_classes)
    for layer in (*self.rpn.values(), self.cls_score, self.bbox_pred):
      nn.init.normal_(layer.weight, std=0.01)
      nn.init.zeros_(layer.bias)

  def propose(self, batch: Mapping) -> tuple[torch.Tensor, ...]:
    """Returns features, logits [n, a], deltas [n, a, 4] and anchors [a, 4]."""
    x = preprocess(batch["image"], batch["size"])
    x = F.relu(self.bn1(self.conv1(x)), inplace=True)
    x = F.max_pool2d(x, 3, 2, 1)
    for i in range(self.num_stages - 1):
      x = getattr(self, f"layer{i + 1}")(x)
    y = F.relu(self.rpn["conv"](x))
    rated = [self.rpn[name](y) for name in ("objectness", "deltas")]
    # In [n, 4a, h, w] the four deltas of an anchor are neighbours.
    logits, deltas = (z.permute(0, 2, 3, 1).flatten(1).float() for z in rated)
    anchors = make_anchors(self.options, x.shape[2:], self.stride).to(x.device)
    return x, logits, deltas.unflatten(1, (-1, 4)), anchors

  def classify(
    self, features: torch.Tensor, rois: Sequence[torch.Tensor]
  ) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits [r, k + 1] and deltas [r, k, 4] of all images' regions."""
    pooled = [
      roi_align(x, boxes, self.roi_size, 1 / self.stride)
      for x, boxes in zip(features, rois, strict=True)
    ]
    x = getattr(self, f"layer{self.num_stages}")(torch.cat(pooled))
    x = self.norm(x).mean((2, 3))
    deltas = self.bbox_pred(x).unflatten(1, (-1, 4))
    return self.cls_score(x).float(), deltas.float()

  def losses(self, batch: Mapping) -> dict[str, torch.Tensor]:
    """Returns the losses of a batch, and the share of foreground."""
    features, logits, deltas, anchors = self.propose(batch)
    o, n = self.options, len(features)
    rpn_cls = rpn_box = 0.0
    rois, labels, targets = [], [], []
    for i in range(n):
      valid = batch["valid"][i]
      boxes, classes = (
        batch["boxes"][i][valid],
        batch["labels"][i][valid].long(),
      )
      index, label = match(iou(boxes, anchors), *o.anchor_iou, low_quality=True)
      positive, negative = self._draw(
        label, o.num_anchors, o.max_positive_anchors
      )
      chosen = torch.cat([positive, negative])
      rpn_cls += F.binary_cross_entropy_with_logits(
        logits[i, chosen], (label[chosen] == 1).float(), reduction="sum"
      )
      target = encode(
        boxes[index[positive]], anchors[positive], o.anchor_weights
      )
      rpn_box += F.l1_loss(deltas[i, positive], target, reduction="sum")

      proposals = propose(
        logits[i].detach(),
        deltas[i].detach(),
        anchors,
        batch["size"][i],
        o,
        train=True,
      )
      proposals = torch.cat([proposals, boxes])
      overlap = iou(boxes, proposals)
      index, label = match(overlap, o.roi_iou, o.roi_iou, low_quality=False)
      positive, negative = self._draw(label, o.num_rois, o.max_foreground)
      rois.append(proposals[torch.cat([positive, negative])])
      background = torch.full_like(negative, self.num_classes)
      labels.append(torch.cat([classes[index[positive]], background]))
      targets.append(
        encode(boxes[index[positive]], proposals[positive], o.roi_weights)
      )
    scores, moves = self.classify(features, rois)
    labels, targets = torch.cat(labels), torch.cat(targets)
    foreground = (labels < self.num_classes).nonzero()[:, 0]
    moved = moves[foreground, labels[foreground]]
    loss_box = F.l1_loss(moved, targets, reduction="sum") / len(labels)
    return {
      "loss_rpn_cls": rpn_cls / (o.num_anchors * n),
      "loss_rpn_box": rpn_box / (o.num_anchors * n),
      "loss_cls": F.cross_entropy(scores, labels),
      "loss_box": loss_box,
      "foreground": torch.tensor(len(foreground) / len(labels)),
    }

  def _draw(self, label, num, max_positive):
    positive = self.order((label == 1).nonzero()[:, 0])[:max_positive]
    negative = self.order((label == 0).nonzero()[:, 0])[: num - len(positive)]
    return positive, negative

  @torch.no_grad()
  def detect(self, batch: Mapping) -> list[tuple[torch.Tensor, ...]]:
    """Returns the scores, labels and boxes found in each image, best first."""
    features, logits, deltas, anchors = self.propose(batch)
    o, results = self.options, []
    for i, size in enumerate(batch["size"]):
      rois = propose(logits[i], deltas[i], anchors, size, o, train=False)
      scores, moves = self.classify(features[i : i + 1], [rois])
      scores, detections = scores.softmax(1), []
      for k in range(self.num_classes):
        good = scores[:, k] > o.min_score
        boxes = decode(moves[good, k], rois[good], o.roi_weights)
        boxes, rated = clip(boxes, size), scores[good, k]
        kept = nms(boxes, rated, o.detection_nms, o.max_detections)
        detections.append((rated[kept], torch.full_like(kept, k), boxes[kept]))
      scores, labels, boxes = map(torch.cat, zip(*detections, strict=True))
      best = scores.argsort(descending=True)[: o.max_detections]
      results.append((scores[best], labels[best], boxes[best]))
    return results


def preprocess(image: torch.Tensor, size: np.ndarray) -> torch.Tensor:
  """Maps uint8 [n, h, w, 3] to normalised [n, 3, h, w], zero beyond `size`."""
  as_image = lambda x: torch.tensor(x, device=image.device)
  x = (image.float() - as_image(MEAN)) / as_image(STD)
  for i, (height, width) in enumerate(size):
    x[i, height:], x[i, :, width:] = 0, 0
  return x.permute(0, 3, 1, 2)  # which is channels_last
