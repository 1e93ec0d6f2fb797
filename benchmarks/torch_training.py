"""Training steps in PyTorch, as the benchmark of training runs them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks import torch_models, torch_timing

Run = Callable[[], float]  # does one step, and returns the loss before it


def make_model(name: str, *, tiny: bool, image_size: int) -> torch.nn.Module:
  """Returns "resnet50" or "deit_s", or a small network of the kind."""
  if name == "resnet50":
    small = dict(stage_sizes=(1, 1), width=4) if tiny else {}
    return torch_models.ResNet(**small)
  small = dict(width=16, depth=1, heads=2) if tiny else {}
  return torch_models.ViT(image_size, **small)


def make_steps(
  model: torch.nn.Module,
  optimizer: Mapping[str, Any],
  images: np.ndarray,
  labels: np.ndarray,
  *,
  smoothing: float,
  compiled: bool,
) -> torch_timing.Ways:
  """Returns the training steps of a model, which all train the same weights.

  Args:
    model: of `make_model`.
    optimizer: name, lr and weight_decay.
    images: [n, h, w, 3] normalised.
    labels: [n].
    smoothing: of the labels.
    compiled: tries torch.compile.
  """
  return torch_timing.make_ways(
    model,
    lambda forward: make_step(
      model, forward, optimizer, images, labels, smoothing=smoothing
    ),
    compiled=compiled,
  )


def make_step(
  model: torch.nn.Module,
  forward: Callable[[torch.Tensor], torch.Tensor],
  optimizer: Mapping[str, Any],
  images: np.ndarray,
  labels: np.ndarray,
  *,
  smoothing: float,
) -> Run:
  """Returns a step by `forward`, the model or its compiled version.

  On a GPU it runs in bfloat16 where autocast does. The other arguments are
  those of `make_steps`.
  """
  on = torch_timing.place()
  model.to(on, memory_format=torch.channels_last).train()
  x = torch.from_numpy(images).permute(0, 3, 1, 2).to(on)
  x = x.contiguous(memory_format=torch.channels_last)
  y = torch.from_numpy(labels).to(on)
  options = dict(lr=optimizer["lr"], weight_decay=optimizer["weight_decay"])
  if optimizer["name"] == "sgd":
    tx = torch.optim.SGD(model.parameters(), momentum=0.9, **options)
  else:
    tx = torch.optim.AdamW(model.parameters(), **options)
  half = torch.autocast("cuda", torch.bfloat16) if on == "cuda" else None

  def run():
    with half or contextlib.nullcontext():
      logits = forward(x)
    loss = torch.nn.functional.cross_entropy(
      logits.float(), y, label_smoothing=smoothing
    )
    tx.zero_grad(set_to_none=True)
    loss.backward()
    tx.step()
    return loss.item()  # waits for the device

  return run
