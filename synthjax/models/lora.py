"""Low-rank updates (LoRA, Hu et al. 2021) of any network's linear layers.

The networks know nothing of it: an interceptor of Flax adds the updates to the
outputs of the layers that they belong to. Either all rows of a batch have the
same updates, or each row has its own, which one compiled function then serves.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from synthjax.runtime.errors import UserError

# The path of a layer -> its `a` [..., s, d, r] and `b` [..., s, r, e]: the
# kernel [d, s * e] changes by a @ b in each of s slices of its outputs. The
# dots are nothing, or the rows of a batch.
Updates = dict[str, dict[str, jax.Array]]


def init(
  params: Any, slices: Mapping[str, int], rank: int, rng: jax.Array
) -> Updates:
  """Draws updates that change nothing yet.

  Args:
    params: nested dicts of weights.
    slices: the end of a layer's path -> how many updates the kernels [d, e] of
      such layers have, side by side; three where q, k and v are one layer.
    rank: of each update.
    rng: of the first values.

  Returns:
    For each layer `a`, uniform as PyTorch's linear layers start, and `b`, 0.

  Raises:
    UserError: where there is no such layer.
  """
  flat, updates = traverse_util.flatten_dict(params, sep="/"), {}
  for name, kernel in flat.items():
    path, _, kind = name.rpartition("/")
    for end, s in slices.items():
      if kind == "kernel" and path.endswith(f"/{end}"):
        (d, e), key = kernel.shape, jax.random.fold_in(rng, len(updates))
        a = jax.random.uniform(key, (s, d, rank), minval=-1, maxval=1)
        updates[path] = {"a": a * d**-0.5, "b": jnp.zeros((s, rank, e // s))}
  if not updates:
    raise UserError(
      "The network has no layer that low-rank updates could change: there is "
      f"none whose name ends in one of {', '.join(slices)}."
    )
  return updates


def has_updates(updates: Updates) -> bool:
  """Returns whether updates of the host change any layer."""
  return any(each["a"].any() and each["b"].any() for each in updates.values())


def merge(params: Any, updates: Updates, scale: float = 1.0) -> Any:
  """Returns params with the updates added to their kernels."""
  flat = traverse_util.flatten_dict(params, sep="/")
  for path, each in updates.items():
    product = np.einsum("sdr,sre->dse", each["a"], each["b"])
    kernel = np.asarray(flat[f"{path}/kernel"])
    flat[f"{path}/kernel"] = kernel + scale * product.reshape(kernel.shape)
  return traverse_util.unflatten_dict(flat, sep="/")


def added(
  updates: Updates,
  scale: float = 1.0,
  *,
  within: str = "",
  rng: jax.Array | None = None,
  dropout: float = 0.0,
) -> Callable[..., Any]:
  """Returns the interceptor that adds updates to a network's layers.

  Args:
    updates: of `init`, or of m rows each. A batch may then have a multiple of
      m rows, such as twice for guidance without a classifier.
    scale: the factor on them.
    within: begins the paths of a network's layers, such as "unet/".
    rng: of the dropout; None drops nothing.
    dropout: share of the inputs that each slice does not see.
  """
  number = {path: i for i, path in enumerate(updates)}

  def intercept(layer, args, kwargs, context):
    y = layer(*args, **kwargs)
    path = within + "/".join(context.module.path)
    if path not in updates or context.method_name != "__call__":
      return y
    x = args[0].astype(y.dtype)[None]  # [1, n, l, d]
    a, b = (
      jnp.moveaxis(updates[path][name].astype(y.dtype), -3, 0)
      for name in ("a", "b")
    )
    if rng is not None and dropout:
      x = jnp.broadcast_to(x, (len(a), *x.shape[1:]))
      key = jax.random.fold_in(rng, number[path])
      kept = jax.random.bernoulli(key, 1 - dropout, x.shape)
      x = jnp.where(kept, x / (1 - dropout), 0)
    rows = a.shape[1] if a.ndim == 4 else 1
    a, b = (w.reshape(len(w), 1, rows, *w.shape[-2:]) for w in (a, b))
    x = x.reshape(len(x), -1, rows, *x.shape[-2:])
    product = jnp.moveaxis(x @ a @ b, 0, -2)  # [n / rows, rows, l, s, e]
    return y + scale * product.reshape(y.shape)

  return intercept
