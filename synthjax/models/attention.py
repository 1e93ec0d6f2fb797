"""Attention: by a kernel where a device has one, else in plain JAX.

cuDNN has one for half precision, and so have TPUs for long sequences; neither
ever holds the [n, h, l, m] weights. A CPU attends head by head where the
weights of all heads would not fit into its cache.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

# Queries that attend at once. All of 64x64 places would need 64 MiB of logits
# for each head and image.
QUERIES = 1024
# Weights of a head from which on a CPU takes one head at a time: at 1024 x 1152
# that is 2.2 times as fast, at 197 x 197 it is slower.
LARGE_HEAD = 1 << 18
# The TPU's kernel works on blocks of LANES places. With fewer keys than
# LEAST_KEYS, the logits are small, and much would be padding.
LANES, LEAST_KEYS = 128, 512


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool = False,
  bias: jax.Array | None = None,
  scale: float | None = None,
) -> jax.Array:
  """Attends; without a kernel, with logits and softmax in float32.

  Args:
    q: [n, l, h, d] queries.
    k: [n, m, h, d] keys.
    v: [n, m, h, d] values.
    causal: whether a query sees the keys up to its own place alone.
    bias: [1 or n, 1 or h, l, m], added to the logits.
    scale: of the logits; None is d ** -0.5.

  Returns:
    [n, l, h * d].
  """
  options = {"causal": causal, "bias": bias, "scale": scale}
  out = fused(q, k, v, **options)
  if out is None:
    out = _in_plain_jax(q, k, v, **options)
  return out.reshape(*out.shape[:2], -1)


def fused(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool = False,
  bias: jax.Array | None = None,
  scale: float | None = None,
) -> jax.Array | None:
  """Attends as `attend` does, by a kernel of the device.

  Returns:
    [n, l, h, d], or None where there is no kernel.
  """
  lengths, plain = (q.shape[1], k.shape[1]), not causal and bias is None
  match kernel_for(q.dtype, q.shape[-1], jax.devices()[0]):
    case "cudnn" if bias is None:
      return _by_cudnn(q, k, v, is_causal=causal, scale=scale)
    case "cudnn" if bias.shape[2:] == lengths and not any(
      length % 2 for length in lengths
    ):
      # Some of T5's hide by the lowest float32, which would become -inf.
      bias = jnp.maximum(bias, jnp.finfo(q.dtype).min).astype(q.dtype)
      return _cudnn(q, k, v, bias=bias, is_causal=causal, scale=scale)
    case "tpu" if plain and k.shape[1] >= LEAST_KEYS:
      return _by_tpu(q, k, v, scale=scale)
  return None


def kernel_for(
  dtype: jnp.dtype, width: int, device: Any
) -> Literal["cudnn", "tpu"] | None:
  """Returns the kernel that takes heads of a width and a type, if there is one.

  Args:
    dtype: of queries, keys and values.
    width: of a head.
    device: that it runs on.
  """
  if device.platform == "tpu":
    return "tpu" if dtype == jnp.bfloat16 else None
  # A number for NVIDIA, as "9.0"; a name for other GPUs, and missing for CPUs.
  capability = str(getattr(device, "compute_capability", ""))
  if not capability.replace(".", "", 1).isdecimal():
    return None
  generation = float(capability)
  fits = (
    dtype in (jnp.bfloat16, jnp.float16)
    and width % 8 == 0
    and width <= (256 if generation >= 9.0 else 128)  # from Hopper on
    and generation >= 8.0
  )
  return "cudnn" if fits else None


def _by_cudnn(
  q: jax.Array, k: jax.Array, v: jax.Array, **options: Any
) -> jax.Array:
  """Attends by cuDNN, at any lengths."""
  n, length, num_keys = q.shape[0], q.shape[1], k.shape[1]
  if length % 2 or num_keys % 2:
    # The gradient takes even lengths alone, and a ViT has 197 tokens.
    q, k, v = (_filled_up(x, 2) for x in (q, k, v))
    options |= {
      "query_seq_lengths": jnp.full(n, length, jnp.int32),
      "key_value_seq_lengths": jnp.full(n, num_keys, jnp.int32),
    }
  return _cudnn(q, k, v, **options)[:, :length]


def _cudnn(q, k, v, **options):
  return jax.nn.dot_product_attention(
    q, k, v, implementation="cudnn", **options
  )


def _by_tpu(
  q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float | None
) -> jax.Array:
  """Attends by the TPU's flash attention, at any lengths."""
  from jax.experimental.pallas.ops.tpu import flash_attention as flash

  length, num_keys = q.shape[1], k.shape[1]
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  q, k, v = (_filled_up(x, LANES).swapaxes(1, 2) for x in (q, k, v))
  rows, columns = q.shape[2], k.shape[2]
  # Large blocks wait for memory less often; they must divide the lengths.
  block = lambda size: max(b for b in (128, 256, 512) if size % b == 0)
  blocks = {
    name: 1 if name == "block_b" else block(rows if "_q" in name else columns)
    for name in flash.BlockSizes.__dataclass_fields__
  }

  def attend_rows(q, k, v):
    # What fills up is a sequence of its own.
    real = lambda size, count: jnp.broadcast_to(
      (jnp.arange(size) < count).astype(jnp.int32), (q.shape[0], size)
    )
    return flash.flash_attention(
      *(q, k, v),
      segment_ids=flash.SegmentIds(real(rows, length), real(columns, num_keys)),
      sm_scale=scale,
      block_sizes=flash.BlockSizes(**blocks),
    )

  return _by_rows(attend_rows)(q, k, v).swapaxes(1, 2)[:, :length]


def _by_rows(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Lets devices share the rows n of a kernel, which XLA does not split.

  Args:
    function: maps [n, h, l, d], [n, h, m, d] and [n, h, m, d] to [n, h, l, d].
  """

  def shared(function, rule):
    def call(*arrays):
      # A kernel's products of bfloat16 know no other precision.
      with jax.default_matmul_precision("default"):
        return function(*arrays)

    def partition(mesh, args, results):
      over = PartitionSpec(*args[0].sharding.spec[:1])
      to_rows = partial(jax.tree.map, lambda _: NamedSharding(mesh, over))
      return mesh, call, to_rows(results), to_rows(args)

    split = custom_partitioning(call)
    whole = ("h", "l", "d", "m")  # in the order of the rule
    split.def_partition(
      partition, sharding_rule=rule, need_replication_factors=whole
    )
    return split

  def gradient(q, k, v, out):
    return jax.vjp(function, q, k, v)[1](out)

  q, k = "n h l d", "n h m d"
  forward = jax.custom_vjp(shared(function, f"{q}, {k}, {k} -> {q}"))
  backward = shared(gradient, f"{q}, {k}, {k}, {q} -> {q}, {k}, {k}")
  forward.defvjp(
    lambda *inputs: (forward(*inputs), inputs),
    lambda inputs, out: backward(*inputs, out),
  )
  return forward


def _filled_up(x: jax.Array, multiple: int) -> jax.Array:
  """Adds zeros to [n, l, h, d] up to a length that is a multiple."""
  return jnp.pad(x, [(0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)])


def _in_plain_jax(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  causal: bool,
  bias: jax.Array | None,
  scale: float | None,
) -> jax.Array:
  """Attends [n, l, h, d] to [n, m, h, d], and returns [n, l, h, d].

  It takes QUERIES queries at a time where there are more, and a CPU a large
  head at a time.
  """
  length, num_keys = q.shape[1], k.shape[1]
  # As in the reference, each side is scaled, which keeps half precision safe.
  side = q.shape[-1] ** -0.25 if scale is None else scale**0.5
  # On a CPU, XLA multiplies faster with the places of a head together.
  q, k, v = (x.swapaxes(1, 2) for x in (q * side, k * side, v))
  if causal:
    seen = jnp.tril(jnp.ones((1, 1, length, num_keys), bool))
    bias = jnp.where(seen, 0.0 if bias is None else bias, -jnp.inf)
  if bias is not None:
    out = _attend(q, k, v, bias)
  elif length > QUERIES and not length % QUERIES:
    pieces = q.reshape(*q.shape[:2], -1, QUERIES, q.shape[-1])
    attend_piece = lambda piece: _attend_by_heads(piece, k, v)
    out = jax.lax.map(attend_piece, jnp.moveaxis(pieces, 2, 0))
    out = jnp.moveaxis(out, 0, 2).reshape(q.shape)
  else:
    out = _attend_by_heads(q, k, v)
  return out.swapaxes(1, 2)


def _attend_by_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Attends [n, h, l, d] to [n, h, m, d], a large head at a time on a CPU."""
  n, heads, length, d = q.shape
  on_cpu = jax.devices()[0].platform == "cpu"
  if not on_cpu or length * k.shape[2] < LARGE_HEAD:
    return _attend(q, k, v)
  each = [x.reshape(n * heads, -1, d) for x in (q, k, v)]
  return jax.lax.map(lambda head: _attend(*head), each).reshape(q.shape)


def _attend(
  q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
  """Attends [..., l, d] to [..., m, d]; q and k are scaled."""
  logits = jnp.einsum(
    "...ld,...md->...lm", q, k, preferred_element_type=jnp.float32
  )
  if bias is not None:
    logits += bias
  return jnp.einsum(
    "...lm,...md->...ld", jax.nn.softmax(logits).astype(v.dtype), v
  )
