"""What Stable Diffusion's UNet and its autoencoder are both built of."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from synthjax.models.unet_layers import Conv3x3, GroupNorm


class ResnetBlock(nn.Module):
  """Two normalised 3x3 convolutions; the time embedding is added between."""

  channels: int
  epsilon: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, embedding: jax.Array | None = None
  ) -> jax.Array:
    """Maps [n, h, w, c] to [n, h, w, channels].

    Args:
      x: the input.
      embedding: float32 [n, e] of the timestep; the autoencoder has none.
    """
    norm = partial(GroupNorm, epsilon=self.epsilon)
    conv = partial(Conv3x3, self.channels, dtype=self.dtype)
    h = nn.silu(norm(name="norm1")(x))
    h = conv(name="conv1")(h.astype(self.dtype))
    if embedding is not None:
      shift = nn.Dense(self.channels, name="time_emb_proj")(nn.silu(embedding))
      h = h + shift[:, None, None].astype(self.dtype)
    h = nn.silu(norm(name="norm2")(h))
    h = conv(name="conv2")(h.astype(self.dtype))
    if x.shape[-1] != self.channels:
      short = nn.Dense(self.channels, dtype=self.dtype, name="conv_shortcut")
      x = short(x)
    return x + h
