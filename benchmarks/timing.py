"""Times functions in turn, and compiles ours with what XLA says of it."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Compiled(NamedTuple):
  """What was compiled, and what XLA says of it."""

  run: Callable[..., Any]
  seconds: float  # of compiling
  flops: float  # before the compiler chooses kernels, which hide some
  peak_bytes: int  # of arrays that live at a time, its arguments included


def compile_timed(function: Any, *args: Any) -> Compiled:
  """Compiles a jitted function for these arguments, which a run takes."""
  began = time.perf_counter()
  lowered = function.lower(*args)
  compiled = lowered.compile()
  seconds = time.perf_counter() - began
  memory = compiled.memory_analysis()
  return Compiled(
    compiled,
    seconds,
    flops=lowered.cost_analysis()["flops"],
    peak_bytes=memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
  )


def medians(
  functions: Mapping[str, Callable[[], object]],
  rounds: int,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
  """Runs all functions in turn, and returns the median seconds of each."""
  seconds = {name: [] for name in functions}
  for function in functions.values():
    function()  # compiles, and allocates what is kept
  for _ in range(rounds):
    for name, function in functions.items():
      start = clock()
      function()
      seconds[name].append(clock() - start)
  return {name: statistics.median(each) for name, each in seconds.items()}
