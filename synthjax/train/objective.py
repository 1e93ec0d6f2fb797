"""What a training method gives the loop."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Objective(NamedTuple):
  """A pair of pure functions, in the manner of an optax transformation."""

  init: Callable  # (rng, batch) -> state, a pytree with an integer `step`
  step: Callable[..., tuple[Any, dict]]  # (state, batch, rng) -> state, metrics
