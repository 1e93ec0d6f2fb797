"""Attention without a mask: by cuDNN where it has a kernel, else in plain JAX.

Used by GLIDE, Stable Diffusion and the ViTs. CLIP and T5 mask and scale in
their own ways, which their released numbers depend on.
"""

import jax
import jax.numpy as jnp

# Queries that attend at once. All of 64x64 places would need 64 MiB of logits
# for each head and image.
QUERIES = 1024


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attends with logits and softmax in float32.

  Uses cuDNN in half precision where it can, and else QUERIES queries at a time.

  Args:
    q: [n, l, h, d] queries.
    k: [n, m, h, d] keys.
    v: [n, m, h, d] values.

  Returns:
    [n, l, h * d].
  """
  if has_kernel(q.dtype, q.shape[-1], jax.devices()[0]):
    out = _attend_fused(q, k, v)
  elif q.shape[1] <= QUERIES or q.shape[1] % QUERIES:
    out = _attend(q, k, v)
  else:
    n, length, heads, d = q.shape
    pieces = q.reshape(n, length // QUERIES, QUERIES, heads, d).swapaxes(0, 1)
    out = jax.lax.map(lambda piece: _attend(piece, k, v), pieces)
    out = out.swapaxes(0, 1).reshape(q.shape)
  return out.reshape(*out.shape[:2], -1)


def _attend_fused(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attends by cuDNN, which never holds the [n, h, l, m] weights."""
  n, length, num_keys = len(q), q.shape[1], k.shape[1]
  lengths = {}
  if length % 2 or num_keys % 2:
    # The gradient takes even lengths alone, and a ViT has 197 tokens.
    even = lambda x: jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)])
    q, k, v = even(q), even(k), even(v)
    lengths = {
      "query_seq_lengths": jnp.full(n, length, jnp.int32),
      "key_value_seq_lengths": jnp.full(n, num_keys, jnp.int32),
    }
  out = jax.nn.dot_product_attention(q, k, v, implementation="cudnn", **lengths)
  return out[:, :length]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attends in plain JAX: [n, l, h, d]."""
  # As in the reference, each side is scaled, which keeps half precision safe.
  scale = q.shape[-1] ** -0.25
  logits = jnp.einsum(
    "nlhd,nmhd->nhlm",
    *(q * scale, k * scale),
    preferred_element_type=jnp.float32,
  )
  weights = jax.nn.softmax(logits).astype(v.dtype)
  return jnp.einsum("nhlm,nmhd->nlhd", weights, v)


def has_kernel(dtype: jnp.dtype, width: int, device: jax.Device) -> bool:
  """Returns whether cuDNN's attention takes heads of a width and a type.

  Args:
    dtype: of queries, keys and values.
    width: of a head.
    device: that it runs on.
  """
  # A number for NVIDIA, as "9.0"; a name for other GPUs, and missing for CPUs.
  capability = str(getattr(device, "compute_capability", ""))
  if not capability.replace(".", "", 1).isdecimal():
    return False
  generation = float(capability)
  return (
    dtype in (jnp.bfloat16, jnp.float16)
    and width % 8 == 0
    and width <= (256 if generation >= 9.0 else 128)  # from Hopper on
    and generation >= 8.0
  )
