"""Maps pixels, uint8 in [0, 255], to and from the ranges of networks."""

import jax
import jax.numpy as jnp

# Statistics of ImageNet, for pixels in [0, 1]; DeiT uses them for all data.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(
  images: jax.Array,
  mean: tuple[float, ...] = MEAN,
  std: tuple[float, ...] = STD,
) -> jax.Array:
  """Maps uint8 [n, h, w, 3] to float32; floats pass as they are."""
  if images.dtype != jnp.uint8:
    return images
  return (images.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)


def to_unit(image: jax.Array) -> jax.Array:
  """Turns uint8 into float32 in [-1, 1]."""
  return image.astype(jnp.float32) / 127.5 - 1


def to_uint8(x: jax.Array) -> jax.Array:
  """Rounds [-1, 1] to uint8."""
  return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)
