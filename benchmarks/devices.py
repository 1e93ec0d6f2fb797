"""What both sides of a benchmark run on, and how fast that could be."""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable

import numpy as np

from benchmarks.timing import medians

# Dense bfloat16 FLOP/s of the data sheets, by a part of the device's name.
PEAKS = {
  "H200": 989e12,
  "H100 PCIe": 756e12,
  "H100": 989e12,
  "A100": 312e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
}
ONE_THREAD = "CPU, 1 thread"


def make_parser(
  doc: str, *, peak: bool = False
) -> tuple[argparse.ArgumentParser, Callable[..., argparse.Action]]:
  """Returns a parser of what every benchmark takes, and what adds to it.

  Args:
    doc: of the module; its first line describes it.
    peak: adds what `peaks_of` needs, and a flag against torch.compile.

  Returns:
    The parser, and (name, default, help) that adds a flag of a whole number.
  """
  flags = argparse.ArgumentParser(description=doc.split("\n")[0])
  add = lambda name, value, help: flags.add_argument(
    f"--{name}", type=int, default=value, help=f"{help} ({value})"
  )
  flags.add_argument("--json", help="file to write the rows to")
  add("threads", 0, "of both sides; 0 is all that there are")
  if peak:
    flags.add_argument(
      "--peak", type=float, help="FLOP/s of the device, if not its data sheet's"
    )
    flags.add_argument(
      "--eager", action="store_true", help="leave torch.compile out"
    )
    add("matmul", 2048, "side of the matrix product where no peak is known")
  return flags, add


def set_up(threads: int) -> tuple[str, bool]:
  """Gets JAX and PyTorch ready, and says where PyTorch cannot take part.

  Args:
    threads: of both; 0 is all that there are.

  Returns:
    The name of the device, and whether PyTorch can use it.
  """
  threads = limit_threads(threads)
  has_torch = find_torch(threads)
  # PyTorch's arrays lie on the same device.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  import jax

  if jax.default_backend() == "cpu":
    return ONE_THREAD if threads == 1 else f"CPU, {threads} threads", has_torch
  if has_torch:
    import torch

    has_torch = jax.default_backend() == "gpu" and torch.cuda.is_available()
    if not has_torch:
      print("PyTorch cannot use this device, so that ours runs alone.\n")
  return f"{jax.devices()[0].device_kind} x1", has_torch


def clock_of(device: str) -> Callable[[], float]:
  """Returns the clock for a device: with one thread, this process's own time.

  So other work on the machine counts for neither side.
  """
  return time.process_time if device == ONE_THREAD else time.perf_counter


def limit_threads(threads: int) -> int:
  """Binds this process to so many cores, before JAX counts them."""
  if not hasattr(os, "sched_setaffinity"):  # Linux alone has it
    return os.cpu_count()
  cores = sorted(os.sched_getaffinity(0))
  if 0 < threads < len(cores):
    os.sched_setaffinity(0, cores[:threads])
  return len(os.sched_getaffinity(0))


def find_torch(threads: int) -> bool:
  """Gives PyTorch so many threads; returns False where it is not installed."""
  if importlib.util.find_spec("torch") is None:
    print("PyTorch is not installed (extra: torch), so that ours runs alone.\n")
    return False
  import torch

  torch.set_num_threads(threads)
  return True


def peak_of(device: str) -> float | None:
  """Returns the FLOP/s of a device in bfloat16, if they are known."""
  return next((peak for name, peak in PEAKS.items() if name in device), None)


def peaks_of(
  device: str, has_torch: bool, *, peak: float | None, side: int
) -> tuple[dict[str, float], str]:
  """Returns the FLOP/s that both sides could reach.

  Args:
    device: its name, as `set_up` gives it.
    has_torch: times PyTorch's matrix product, too.
    peak: FLOP/s, if not those of the data sheet.
    side: of the matrix product, where no peak is known.

  Returns:
    The FLOP/s of "ours" and, but for a product without PyTorch, of "theirs";
    and what they are those of.
  """
  if known := peak or peak_of(device):
    return {"ours": known, "theirs": known}, "peak FLOP/s"
  return product_speeds(
    side, has_torch, clock_of(device)
  ), "a matrix product's FLOP/s"


def product_speeds(
  side: int, has_torch: bool, clock: Callable[[], float]
) -> dict[str, float]:
  """Returns the FLOP/s of a square float32 matrix product, ours and theirs."""
  import jax

  matrix = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
  x, product = jax.device_put(matrix), jax.jit(lambda x: x @ x)
  timed = {"ours": lambda: product(x).block_until_ready()}
  if has_torch:
    import torch

    y = torch.from_numpy(matrix)
    timed["theirs"] = lambda: y @ y
  seconds = medians(timed, 5, clock)
  return {name: 2 * side**3 / s for name, s in seconds.items()}
