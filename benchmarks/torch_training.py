"""Training steps in PyTorch, as the benchmark of training runs them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import torch_models

Run = Callable[[], float]  # does one step, and returns the loss before it


def make_model(name: str, *, tiny: bool, image_size: int) -> torch.nn.Module:
  """Returns "resnet50" or "deit_s", or a smaller network of its kind."""
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
) -> tuple[dict[str, Run], float, int | None]:
  """Returns the steps of a model, as it is and through torch.compile.

  Both train the same weights. Where torch.compile does not work it says so, and
  is left out.

  Args:
    model: of `make_model`.
    optimizer: name, lr and weight_decay.
    images: [n, h, w, 3] normalised.
    labels: [n].
    smoothing: of the labels.
    compiled: tries torch.compile.

  Returns:
    The steps, the FLOPs of one, and the most bytes that one holds on a GPU.
  """
  step = lambda forward: make_step(
    model, forward, optimizer, images, labels, smoothing=smoothing
  )
  steps, peak_bytes = {"PyTorch": step(model)}, None
  with FlopCounterMode(display=False) as counter:
    steps["PyTorch"]()
  if torch.cuda.is_available():
    torch.cuda.reset_peak_memory_stats()
    steps["PyTorch"]()
    peak_bytes = torch.cuda.max_memory_allocated()
  if compiled:
    try:
      run = step(torch.compile(model))
      run()  # a compiler may be missing, which shows now
      steps["torch.compile"] = run
    except Exception as error:  # of TorchDynamo, its compiler, or the system
      found = f"{type(error).__name__}: {error}".splitlines()[0]
      print(f"torch.compile does not work here: {found}\n")
  return steps, counter.get_total_flops(), peak_bytes


def make_step(
  model: torch.nn.Module,
  forward: Callable[[torch.Tensor], torch.Tensor],
  optimizer: Mapping[str, Any],
  images: np.ndarray,
  labels: np.ndarray,
  *,
  smoothing: float,
) -> Run:
  """Returns a step; on a GPU it runs in bfloat16 where autocast does.

  Args:
    model: whose parameters are trained.
    forward: the model, or what torch.compile has made of it.
    optimizer: name, lr and weight_decay.
    images: [n, h, w, 3] normalised.
    labels: [n].
    smoothing: of the labels.
  """
  on = "cuda" if torch.cuda.is_available() else "cpu"
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
