"""Runs a PyTorch model as it is and through torch.compile, and measures it."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode


class Ways(NamedTuple):
  """A model as it is, and through torch.compile where that works."""

  runs: dict[str, Callable[..., Any]]
  forwards: dict[str, Callable[..., Any]]  # the model, or its compiled version
  flops: float  # of the products and convolutions of a run
  seconds: float | None  # of compiling
  peak_bytes: int | None  # on a GPU


def place() -> str:
  """Returns the device that PyTorch's side runs on."""
  return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
  """Waits until a GPU has done all that was started."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def make_ways(
  model: torch.nn.Module,
  make_run: Callable[[Callable[..., Any]], Callable[..., Any]],
  *args: Any,
  compiled: bool,
) -> Ways:
  """Returns the runs of a model; each is run once or more here.

  Args:
    model: whose forward pass is compiled.
    make_run: (the model, or its compiled version) -> a run.
    *args: of a run.
    compiled: tries torch.compile, and prints why where it does not work.
  """
  forwards, runs = {"PyTorch": model}, {"PyTorch": make_run(model)}
  seconds = peak_bytes = None
  with FlopCounterMode(display=False) as counter:
    runs["PyTorch"](*args)
  if torch.cuda.is_available():
    torch.cuda.reset_peak_memory_stats()
    runs["PyTorch"](*args)
    peak_bytes = torch.cuda.max_memory_allocated()
  if compiled:
    began, forward = time.perf_counter(), torch.compile(model)
    try:
      run = make_run(forward)
      run(*args)  # a missing compiler fails now
      seconds = time.perf_counter() - began
      runs["torch.compile"], forwards["torch.compile"] = run, forward
    except Exception as error:  # of TorchDynamo, its compiler, or the system
      problem = f"{type(error).__name__}: {error}".splitlines()[0]
      print(f"torch.compile does not work here: {problem}\n")
  return Ways(runs, forwards, counter.get_total_flops(), seconds, peak_bytes)
