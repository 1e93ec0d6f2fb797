"""Times functions in turn, and measures our compiled ones."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from unittest import mock


class Compiled(NamedTuple):
  """A compiled function, and XLA's figures of it."""

  run: Callable[..., Any]
  seconds: float  # of compiling
  flops: float  # of plain JAX, as kernels such as cuDNN's hide theirs
  peak_bytes: int  # of arrays that live at a time, its arguments included


def compile_timed(function: Any, *args: Any) -> Compiled:
  """Compiles a jitted function for these arguments, which a run takes."""
  from synthjax.runtime import memory

  began = time.perf_counter()
  lowered = function.lower(*args)
  compiled = lowered.compile()
  seconds = time.perf_counter() - began
  return Compiled(
    compiled,
    seconds,
    flops=plain_flops(function, *args),
    peak_bytes=memory.peak_bytes(compiled),
  )


def plain_flops(function: Any, *args: Any) -> float:
  """Returns the FLOPs of a jitted function without kernels of cuDNN.

  XLA counts nothing for a kernel that it calls, and the body of a loop once.
  """
  import jax

  from synthjax.models import attention

  with (
    mock.patch.object(attention, "kernel_for", lambda *_: None),
    mock.patch.object(attention, "QUERIES", 10**9),  # all at once, not a loop
    mock.patch.object(attention, "LARGE_HEAD", 10**18),  # likewise, of heads
  ):
    # A new function, as JAX remembers what it has traced.
    plain = jax.jit(lambda *args: function.__wrapped__(*args))
    return plain.lower(*args).cost_analysis()["flops"]


def medians(
  functions: Mapping[str, Callable[[], object]],
  rounds: int,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
  """Runs all functions in turn, and returns the median seconds of each."""

  def seconds(function):
    start = clock()
    function()
    return clock() - start

  for function in functions.values():
    function()  # compiles, and allocates what is kept
  return medians_of(
    {k: partial(seconds, f) for k, f in functions.items()}, rounds
  )


def medians_of(
  measures: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, float]:
  """Calls all measures in turn, and returns the median value of each."""
  values = {name: [] for name in measures}
  for _ in range(rounds):
    for name, measure in measures.items():
      values[name].append(measure())
  return {name: statistics.median(each) for name, each in values.items()}
