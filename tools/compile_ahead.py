"""Compiles the hot functions for an H100 or a TPU, on a CPU.

  python -m tools.compile_ahead cuda [NAME...]      of benchmarks.hot_functions
  python -m tools.compile_ahead tpu --topology v5p:2x2x1

Prints FLOPs, bytes that are moved, memory and the time that a device needs at
least: that of its peak FLOP/s or that of its memory, whichever is longer (the
roofline). Nothing is run. Kernels of cuDNN hide their FLOPs from the compiler,
so that those of plain JAX are counted; a loop's body counts once.

It needs the compiler of the platform in the environment, and no device:
`jax-cuda13-plugin[with-cuda]`, or `libtpu`, of the version of jax.
"""

import argparse
import math
import os
import re
import time
from typing import Any, NamedTuple

# What an H100 SXM is, as XLA describes it.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Chip(NamedTuple):
  """Peaks of the data sheet."""

  flops: float  # FLOP/s in bfloat16
  bandwidth: float  # bytes/s


CHIPS = {"cuda": Chip(989e12, 3.35e12), "tpu": Chip(459e12, 2.765e12)}  # v5p


def main() -> None:
  """Compiles the functions that are named, and prints a row for each."""
  flags = parser()
  args = flags.parse_args()
  device = find_device(args.platform, args.topology)
  from benchmarks.hot_functions import FULL

  if unknown := set(args.names) - FULL.keys():
    flags.error(f"found {sorted(unknown)}; choose of {', '.join(FULL)}")
  print("| | GFLOP | GB moved | GiB | ms at least | compiling |")
  print("| --- | --- | --- | --- | --- | --- |")
  for name in args.names or FULL:
    print(row(name, args.platform, device), flush=True)


def parser() -> argparse.ArgumentParser:
  flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  flags.add_argument("platform", choices=sorted(CHIPS))
  flags.add_argument("names", nargs="*", help="of benchmarks.hot_functions")
  flags.add_argument("--topology", default="v5p:2x2x1", help="of a TPU")
  return flags


def find_device(platform: str, topology: str) -> Any:
  """Returns a device that is described, and need not be there."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  flags = os.environ.get("XLA_FLAGS", "")
  if platform == "cuda":  # no kernels are tried out, and none tuned
    os.environ["XLA_FLAGS"] = (
      f"{flags} --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    )
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  from jax.experimental import topologies

  if platform == "tpu":
    return topologies.get_topology_desc(topology, "tpu").devices[0]
  from jax._src import xla_bridge

  xla_bridge.discover_pjrt_plugins()
  described = topologies.get_topology_desc(
    "", "cuda", topology="1x1x1", target_config=_H100
  )
  return described.devices[0]


def row(name: str, platform: str, device: Any) -> str:
  """Compiles one function; returns its row of the table."""
  import jax

  from benchmarks import hot_functions, timing
  from synthjax.runtime import memory

  place = jax.sharding.SingleDeviceSharding(device)
  with hot_functions.traced_for(platform):
    hot = hot_functions.FULL[name]()
    function = jax.jit(
      hot.function,
      in_shardings=place,
      out_shardings=place,
      donate_argnums=hot.donated,
    )
    flops = timing.plain_flops(jax.jit(hot.function), *hot.args)
    began = time.perf_counter()
    lowered = function.trace(*hot.args).lower(lowering_platforms=(platform,))
    compiled = lowered.compile()
  seconds = time.perf_counter() - began
  moved = bytes_moved(compiled.as_text())
  chip = CHIPS[platform]
  least = max(flops / chip.flops, moved / chip.bandwidth)
  gib = memory.peak_bytes(compiled) / 2**30
  cells = f"{flops / 1e9:.4g}", f"{moved / 1e9:.4g}", f"{gib:.3g}"
  cells += f"{1e3 * least:.3g}", f"{seconds:.0f} s"
  return f"| {name} | {' | '.join(cells)} |"


# An instruction of HLO: its name, type, operation, and what follows.
_INSTRUCTION = re.compile(
  r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)"
)
# These name memory that is there, and move none.
_FREE = {
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "while",
  "conditional",
  "call",
}


def bytes_moved(hlo: str) -> int:
  """Returns the bytes that the kernels of a program read and write.

  Each operand of a kernel counts once and whole; what loops do is left out.

  Args:
    hlo: the text of a compiled program.
  """
  sizes, moved = {}, 0
  entry = hlo[hlo.rindex("\nENTRY") :]
  for line in entry.splitlines():
    if not (found := _INSTRUCTION.match(line)):
      continue
    name, kind, operation, rest = found.groups()
    sizes[name] = _bytes_of(kind)
    if operation not in _FREE:
      operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
      moved += sizes[name] + sum(sizes.get(name, 0) for name in operands)
  return moved


def _bytes_of(kind: str) -> int:
  """Returns the bytes of a type of HLO, such as (f32[2,3]{1,0}, pred[])."""
  total = 0
  for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", kind):
    bits = re.search(r"\d+", dtype)  # of f32; pred has none, and takes a byte
    count = math.prod(int(side) for side in shape.split(",") if side)
    total += count * (int(bits[0]) if bits else 8) // 8
  return total


if __name__ == "__main__":
  main()
