"""How busy the devices are, in a few words for a line of progress."""

import os
import subprocess
import time
from collections.abc import Callable

_ASKED = 10  # seconds between two calls of nvidia-smi, which takes a while


def watch() -> Callable[[], str]:
  """Returns () -> what the devices of this process have been doing.

  On a CPU these are the cores at work since the last call, as "1.9 of 2 cores".
  On accelerators they are the memory in use and, on NVIDIA's, the share of time
  that they computed, as "97 % busy, 41 of 80 GB"; TPUs tell no such share from
  within. Nothing is told where nothing is known.
  """
  cpu, wall, busy, asked = time.process_time(), time.monotonic(), None, None

  def use() -> str:
    nonlocal cpu, wall, busy, asked
    import jax

    devices, now = jax.local_devices(), time.monotonic()
    if devices[0].platform == "cpu":
      spent, passed = time.process_time() - cpu, now - wall
      cpu, wall = cpu + spent, now
      if passed < 1e-3:
        return ""
      return f"{spent / passed:.1f} of {_cores()} cores"
    if devices[0].platform == "gpu" and (asked is None or now - asked > _ASKED):
      busy, asked = _busy(), now
    words = [f"{busy:.0f} % busy" if busy is not None else "", _memory(devices)]
    return ", ".join(filter(None, words))

  return use


def _memory(devices: list) -> str:
  """Tells the bytes that arrays hold, of those that JAX may take."""
  stats = [device.memory_stats() or {} for device in devices]
  used, limit = (
    sum(each.get(key, 0) for each in stats) / 1e9
    for key in ("bytes_in_use", "bytes_limit")
  )
  return f"{used:.3g} of {limit:.3g} GB" if limit else ""


def _busy() -> float | None:
  """Returns the mean share of time, in %, that NVIDIA's devices computed."""
  command = ["nvidia-smi", "--query-gpu=utilization.gpu"]
  command.append("--format=csv,noheader,nounits")
  if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
    command.append(f"--id={visible}")
  try:
    told = subprocess.run(
      command, capture_output=True, text=True, timeout=2, check=True
    ).stdout
    shares = [float(line) for line in told.split()]
  except (OSError, subprocess.SubprocessError, ValueError):
    return None  # a line of progress is no reason to fail
  return sum(shares) / len(shares) if shares else None


def _cores() -> int:
  """Returns the number of cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
