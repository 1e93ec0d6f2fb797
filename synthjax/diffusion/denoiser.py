"""The functions that samplers see instead of networks."""

from collections.abc import Callable

import jax

# (x_t [n, h, w, c], t [n]) -> x_0 of the same shape, and where the step's log
# variance lies between its bounds, 0 (lower) to 1 (upper).
Denoiser = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
# (x_t, t) -> the gradient of log p(y | x_t) at x_t, for guidance towards y.
CondFn = Callable[[jax.Array, jax.Array], jax.Array]
Noise = Callable[[jax.Array], jax.Array]  # step index [] -> [n, h, w, c]
