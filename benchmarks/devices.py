"""The flags, threads and devices of both sides, and their peak speeds."""

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Mapping

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
  doc: str, *, threads: bool = True, tiny: bool = False, peak: bool = False
) -> tuple[argparse.ArgumentParser, Callable[..., argparse.Action]]:
  """Returns a parser with the flags that benchmarks share.

  Args:
    doc: of the module; its first line describes it.
    threads: adds the number of threads, which `set_up` takes.
    tiny: adds a flag for small networks.
    peak: adds the flags of `peaks_of`, and one against torch.compile.

  Returns:
    The parser, and (name, default, help), which adds a flag of a whole number.
  """
  flags = argparse.ArgumentParser(description=doc.split("\n")[0])
  add = lambda name, value, help: flags.add_argument(
    f"--{name}", type=int, default=value, help=f"{help} ({value})"
  )
  flags.add_argument("--json", help="file to write the rows to")
  if threads:
    add("threads", 0, "of both sides; 0 is all that there are")
  if tiny:
    flags.add_argument(
      "--tiny", action="store_true", help="small networks, for a test"
    )
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
  """Sets up JAX and PyTorch, and prints when PyTorch cannot take part.

  Args:
    threads: of both; 0 is all that there are.

  Returns:
    The name of the device, and whether PyTorch can use it.
  """
  threads = limit_threads(threads)
  has_torch = find_torch(threads)
  # PyTorch needs memory on the same device.
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
  """Returns the clock for a device.

  With one thread it is this process's own time, so that other work on the
  machine counts for neither side.
  """
  return time.process_time if device == ONE_THREAD else time.perf_counter


def limit_threads(threads: int) -> int:
  """Binds this process to a number of cores, before JAX counts them."""
  if not hasattr(os, "sched_setaffinity"):  # Linux alone has it
    return os.cpu_count()
  cores = sorted(os.sched_getaffinity(0))
  if 0 < threads < len(cores):
    os.sched_setaffinity(0, cores[:threads])
  return len(os.sched_getaffinity(0))


def find_torch(threads: int) -> bool:
  """Limits PyTorch's threads; returns False where it is not installed."""
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
    and a name for them.
  """
  if peak := peak or peak_of(device):
    return {"ours": peak, "theirs": peak}, "peak FLOP/s"
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


def speed_rows(
  make_row: Callable[..., dict],
  flops: tuple[float, float | None],
  rates: Mapping[str, float],
  *,
  batch: int,
  peaks: tuple[Mapping[str, float], str],
  what: str = "FLOP/s",
) -> list[dict]:
  """Returns the rows of FLOPs and of the share of the peak speed.

  Args:
    make_row: of `table.titled`.
    flops: of a batch, ours and PyTorch's; the share counts ours on both sides.
    rates: images/s of "ours" and of each way of PyTorch.
    batch: images.
    peaks: of `peaks_of`.
    what: the name of the share.
  """
  each = batch * 1e9
  speeds, name = peaks
  share = lambda rate, peak: 100 * flops[0] / batch * rate / peak
  theirs = [rate for way, rate in rates.items() if way != "ours"]
  return [
    make_row(
      "FLOPs", "GFLOP/image", *(x if x is None else x / each for x in flops)
    ),
    make_row(
      f"{what}, of {name}",
      "%",
      share(rates["ours"], speeds["ours"]),
      share(max(theirs), speeds["theirs"]) if theirs else None,
      more_is_better=True,
    ),
  ]
