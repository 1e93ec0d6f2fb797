"""What low-rank updates of Stable Diffusion learn, and how they are called."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.diffusion import latents
from synthjax.generators import Adaptable, batching
from synthjax.generators.batching import apply
from synthjax.generators.stable_diffusion_networks import (
  Networks,
  encode,
  predictor,
)
from synthjax.models import lora
from synthjax.models.pixels import to_unit
from synthjax.models.stable_diffusion import weights


def adaptable(
  networks: Networks,
  placed: batching.Weights,
  devices: batching.Devices,
  *,
  image_size: int,
  original_size: int,
) -> Adaptable:
  """Returns how updates of the attention of UNet and text encoders are learned.

  The loss is the squared error of what the UNet predicts, its noise or its
  velocity, at steps of which all are as likely. No prompt is emptied.

  Args:
    networks: without their weights.
    placed: the weights of UNet, autoencoder and text encoders.
    devices: see `batching.own_devices`.
    image_size: px, of the images that are learned from.
    original_size: px; see `predictor`.
  """
  names = "unet", *networks.texts

  def frozen():
    params = placed.get()
    return {name: params[name] for name in names}

  alpha_bar = np.cumprod(1 - np.asarray(networks.betas, np.float64))
  levels = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
  target_of = latents.TARGETS[networks.prediction]

  def loss(frozen, updates, batch, rng):
    latent_rng, noise_rng, t_rng = jax.random.split(rng, 3)
    deviation = jnp.exp(0.5 * batch["log_variance"])
    x0 = deviation * jax.random.normal(latent_rng, deviation.shape)
    x0 = networks.latent_scale * (batch["mean"] + x0)
    eps = jax.random.normal(noise_rng, x0.shape)
    t = jax.random.randint(t_rng, x0.shape[:1], 0, len(alpha_bar))
    at = lambda table: jnp.asarray(table, jnp.float32)[t][:, None, None, None]
    mix = lambda weights: at(weights[0]) * x0 + at(weights[1]) * eps
    prompts = encode(networks, frozen, (batch["tokens"], updates))
    predict = predictor(
      networks, frozen["unet"], prompts, original_size, updates
    )
    error = predict(mix(levels), t) - mix(target_of(*levels))
    return jnp.square(error).mean(), {}

  @jax.jit
  def moments(params, images):
    return apply(networks.vae, params, to_unit(images), method="encode")

  def read(images: np.ndarray, prompts: Sequence[str]):
    params = placed.get()
    # One after the other, as an autoencoder needs much memory.
    each = [
      jax.device_get(
        moments(params["vae"], jax.device_put(image[None], devices.copied))
      )
      for image in images
    ]
    mean, log_variance = map(np.concatenate, zip(*each, strict=True))
    return {
      "mean": mean,
      "log_variance": log_variance,
      "tokens": networks.tokens(prompts),
    }

  return Adaptable(
    frozen=frozen,
    held=placed.get,
    init=partial(
      lora.init, {name: placed.like[name] for name in names}, weights.LOW_RANK
    ),
    loss=loss,
    read=read,
    image_size=image_size,
    to_released=weights.to_lora_names,
    from_released=weights.from_lora_names,
  )
