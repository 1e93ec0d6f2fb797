"""Attention without a mask: in plain JAX, or by cuDNN where that has it."""

import jax
import jax.numpy as jnp


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attends with the softmax in float32, and in half precision by cuDNN.

  Args:
    q: [n, l, h, d] queries.
    k: [n, m, h, d] keys.
    v: [n, m, h, d] values.

  Returns:
    [n, l, h * d].
  """
  if has_kernel(q.dtype, q.shape[-1], jax.devices()[0]):
    # Never holds the [n, h, l, m] weights.
    out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
  else:
    # As in the reference, each side is scaled, which keeps half precision safe.
    scale = q.shape[-1] ** -0.25
    logits = jnp.einsum("nlhd,nmhd->nhlm", q * scale, k * scale)
    weights = jax.nn.softmax(logits.astype(jnp.float32)).astype(v.dtype)
    out = jnp.einsum("nhlm,nmhd->nlhd", weights, v)
  return out.reshape(*out.shape[:2], -1)


def has_kernel(dtype: jnp.dtype, width: int, device: jax.Device) -> bool:
  """Tells whether cuDNN's attention takes heads of a width and a type.

  Args:
    dtype: of queries, keys and values.
    width: of a head.
    device: that it runs on.
  """
  # NVIDIA's are numbers, as "9.0"; other GPUs have names, and CPUs none.
  capability = str(getattr(device, "compute_capability", ""))
  return (
    dtype in (jnp.bfloat16, jnp.float16)
    and width % 8 == 0
    and width <= 128
    and capability.replace(".", "", 1).isdecimal()
    and float(capability) >= 8.0
  )
