"""Convolutions whose gradients are fast on XLA's CPU backend too.

Both are drop-ins for `jax.lax.conv_general_dilated`, for
`nn.Conv(conv_general_dilated=...)`, with the same kernels and, up to rounding,
the same results:

- `conv_general_dilated`: small kernels on small images. XLA's CPU backend runs
  their weight gradient more than ten times slower than the forward pass; as a
  sum of matrix products over the kernel's taps it keeps up. On other backends
  and for large images it is `jax.lax.conv_general_dilated` itself.
- `convolve_patches`: a stride as large as the kernel, as in a ViT's patches.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

# Above this side the native weight gradient is as fast (224 px: faster).
MAX_SIDE = 64
MAX_KERNEL = 3


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: jax.lax.ConvDimensionNumbers | None = None,
  feature_group_count: int = 1,
  **kwargs,
) -> jax.Array:
  """Convolves images [n, h, w, c] with kernels [kh, kw, c, o].

  The arguments are those of `jax.lax.conv_general_dilated`. A dilation or
  number of groups other than 1 takes the native path.
  """
  plain = (
    lhs.ndim == 4
    and feature_group_count == 1
    and set(lhs_dilation or (1,)) == {1}
    and set(rhs_dilation or (1,)) == {1}
    and max(rhs.shape[:2]) <= MAX_KERNEL
    and max(lhs.shape[1:3]) <= MAX_SIDE
  )
  if not plain or jax.default_backend() != "cpu":
    return jax.lax.conv_general_dilated(
      lhs,
      rhs,
      window_strides,
      padding,
      lhs_dilation,
      rhs_dilation,
      dimension_numbers,
      feature_group_count,
      **kwargs,
    )
  strides = tuple(window_strides)
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(
      lhs.shape[1:3], rhs.shape[:2], strides, padding
    )
  padding = tuple(tuple(pair) for pair in padding)
  return _conv(lhs, rhs, strides, padding, kwargs.get("precision"))


def _native(x, kernel, strides, padding, precision):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    precision=precision,
  )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x, kernel, strides, padding, precision):
  return _native(x, kernel, strides, padding, precision)


def _forward(x, kernel, strides, padding, precision):
  return _native(x, kernel, strides, padding, precision), (x, kernel)


def _backward(strides, padding, precision, saved, grad):
  x, kernel = saved
  (n, height, width, out), (sh, sw) = grad.shape, strides
  _, input_vjp = jax.vjp(
    lambda x: _native(x, kernel, strides, padding, precision), x
  )
  (x_grad,) = input_vjp(grad)

  padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
  flat_grad = grad.reshape(-1, out)

  def tap(i, j):
    """Returns the gradient [c, o] of the kernel's entry (i, j)."""
    seen = jax.lax.slice(
      padded,
      (0, i, j, 0),
      (n, i + sh * (height - 1) + 1, j + sw * (width - 1) + 1, x.shape[-1]),
      (1, sh, sw, 1),
    )
    return jnp.matmul(
      seen.reshape(-1, x.shape[-1]).T, flat_grad, precision=precision
    )

  kh, kw = kernel.shape[:2]
  kernel_grad = jnp.stack(
    [jnp.stack([tap(i, j) for j in range(kw)]) for i in range(kh)]
  )
  return x_grad, kernel_grad.astype(kernel.dtype)


_conv.defvjp(_forward, _backward)


def convolve_patches(
  images: jax.Array, kernel: jax.Array, *_: Any, precision: Any = None, **__
) -> jax.Array:
  """Convolves at a stride as large as the kernel, as one matrix product.

  Args:
    images: [n, h, w, c], with h and w multiples of p.
    kernel: [p, p, c, d].
    precision: of the product. `nn.Conv` passes other arguments, which are
      ignored.

  Returns:
    [n, h/p, w/p, d].
  """
  (n, h, w, c), p = images.shape, len(kernel)
  x = images.reshape(n, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(n, h // p, w // p, p * p * c)
  return jnp.matmul(
    x, kernel.reshape(p * p * c, kernel.shape[-1]), precision=precision
  )
