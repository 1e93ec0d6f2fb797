"""Steps, inferences and parts of detection in PyTorch, as they are timed."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks import torch_boxes, torch_detector
from benchmarks.torch_timing import place, wait

Run = Callable[[], Any]


def make_runs(
  batch: Mapping[str, np.ndarray],
  options: Any,
  num_classes: int,
  sgd: Mapping[str, Any],
  **sizes,
) -> dict[str, Run]:
  """Returns runs of a training step and of an inference.

  Args:
    batch: of `detection_inputs.make_batch`.
    options: a `detection.regions.Options`.
    num_classes: without the background.
    sgd: lr and weight_decay.
    **sizes: of the ResNet, where they are not ResNet-50's.
  """
  on = place()
  # The sizes stay with the host, which loops over images.
  batch = {
    name: value if name == "size" else torch.tensor(value).to(on)
    for name, value in batch.items()
  }
  make = lambda: torch_detector.Detector(
    num_classes=num_classes, options=options, **sizes
  ).to(on, memory_format=torch.channels_last)
  half = lambda: torch.autocast(on, torch.bfloat16, enabled=on == "cuda")
  trained, fixed = make().train(), make().eval()
  tx = torch.optim.SGD(
    trained.parameters(),
    sgd["lr"],
    momentum=0.9,
    weight_decay=sgd["weight_decay"],
  )

  def train():
    with half():
      losses = trained.losses(batch)
    loss = sum(v for name, v in losses.items() if name.startswith("loss"))
    tx.zero_grad(set_to_none=True)
    loss.backward()
    tx.step()
    return loss.item()  # waits for the device

  def infer():
    with half():
      detections = fixed.detect(batch)
    wait()
    return detections

  return {"train": train, "inference": infer}


def make_parts(
  inputs: Any, options: Any, roi_size: int, stride: int
) -> tuple[Run, Run, Run, Run]:
  """Returns proposals in training and inference, and RoIAlign there and back.

  Args:
    inputs: `detection_inputs.Parts`.
    options: a `detection.regions.Options`.
    roi_size: side of a pooled region.
    stride: pixels per cell.
  """
  on = place()
  logits, deltas, rois = (
    torch.tensor(x).to(on) for x in (inputs.logits, inputs.deltas, inputs.rois)
  )
  # [n, c, h, w] in the memory of [n, h, w, c], as the network's are.
  features = torch.tensor(inputs.features.astype(np.float32)).to(on)
  features = features.permute(0, 3, 1, 2).requires_grad_()
  anchors = torch_boxes.make_anchors(options, features.shape[2:], stride).to(on)

  def propose(train):
    def run():
      images = zip(logits, deltas, inputs.size, strict=True)
      proposals = [
        torch_boxes.propose(*image, anchors, size, options, train=train)
        for *image, size in images
      ]
      wait()
      return proposals

    return run

  def pool():
    images = zip(features, rois, strict=True)
    return torch.stack(
      [torch_boxes.roi_align(*image, roi_size, 1 / stride) for image in images]
    )

  def forward():
    with torch.no_grad():
      pooled = pool()
    wait()
    return pooled

  grads = torch.ones_like(forward())

  def forward_and_back():
    gradients = torch.autograd.grad(pool(), features, grads)
    wait()
    return gradients

  return propose(True), propose(False), forward, forward_and_back
