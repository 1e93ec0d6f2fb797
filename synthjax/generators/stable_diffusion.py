"""Stable Diffusion 1.x and 2.x as a generator, jitted whole."""

import functools
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.convert import files
from synthjax.convert.stable_diffusion import KIND
from synthjax.diffusion import guidance, latents, sample, schedule
from synthjax.errors import unknown_names
from synthjax.generators import Generator, batching
from synthjax.generators.glide import to_uint8
from synthjax.generators.sd_networks import (
  Networks,
  check_size,
  kept_steps,
  load_networks,
)
from synthjax.train import mesh as meshes
from synthjax.train.denoising import to_unit


class Walk(NamedTuple):
  """How images are drawn."""

  image_size: int  # px
  steps: schedule.Schedule
  sampler: Callable  # of sample.SAMPLERS
  scale: float  # of guidance
  interval: tuple[int, int] | None  # timesteps that are guided


def check(
  *, weights: str, sampler: str, respacing: str | int, **others: Any
) -> None:
  """Says what keeps `load` from working; its arguments are those of `load`."""
  del others
  if sampler not in sample.SAMPLERS:
    raise unknown_names("sampler", [sampler], sample.SAMPLERS)
  num_steps(respacing=respacing)
  _locate(weights)


def num_steps(*, respacing: str | int, **others: Any) -> int:
  """Returns how many steps are walked."""
  del others
  return len(schedule.kept_timesteps(respacing))


def _locate(weights: epath.PathLike) -> epath.Path:
  return files.locate(
    weights and os.fspath(weights), field="generator.weights", family=KIND
  )


def load(
  *,
  weights: epath.PathLike,
  sampler: str,
  respacing: str | int,
  batch_size: int,
  guidance_scale: float = 7.5,
  guidance_interval: tuple[int, int] | None = None,
  negative_prompt: str = "",
  image_size: int | None = None,
  tokenizer: str | None = None,
  dtype: str = "float32",
) -> Generator:
  """Loads all networks and compiles nothing yet.

  What the UNet predicts (noise or velocity), its schedule and how its steps are
  spaced come with the weights.

  Args:
    weights: a folder in diffusers' layout, or a file that
      `weights.stable_diffusion.pack` has made of one.
    sampler: of SAMPLERS.
    respacing: a number of steps, spaced as the weights' scheduler has it, or
      anything else that `schedule.kept_timesteps` reads.
    batch_size: images drawn at once; shorter requests are filled up, so that
      one shape is compiled.
    guidance_scale: without a classifier; 1 follows the prompt and no more, for
      half of the work.
    guidance_interval: the first and the last timestep, 0 to 999, that are
      guided. None guides all.
    negative_prompt: what guidance leads away from; the empty prompt by default.
    image_size: px; None is the size that the networks were trained on. Others
      are possible, but drawn less well.
    tokenizer: the tokenizer's file, or "embedded:NAME"; None is the one that
      comes with the weights.
    dtype: of the activations of UNet and text encoder. The autoencoder's, whose
      range is large, are float32.

  Raises:
    UserError: about missing or unfit weights, an unknown sampler, or steps, an
      interval or a size that there cannot be.
  """
  if sampler not in sample.SAMPLERS:
    raise unknown_names("sampler", [sampler], sample.SAMPLERS)
  mesh = meshes.make_mesh(local=True)  # each process draws for itself
  meshes.check_batch(mesh, batch_size, field="generator.batch_size")
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  networks, params, hashes = load_networks(_locate(weights), tokenizer, dtype)
  image_size = image_size or networks.image_size
  check_size(networks, image_size)
  guidance.check_interval(guidance_interval, len(networks.betas))
  if guidance_interval is not None:
    guidance_interval = tuple(int(step) for step in guidance_interval)
  walk = Walk(
    image_size,
    kept_steps(networks, respacing, sampler),
    sample.SAMPLERS[sampler],
    guidance_scale,
    guidance_interval,
  )
  for part in params:  # one after the other: the host holds one as float32
    wide = jax.tree.map(lambda w: np.asarray(w, np.float32), params[part])
    params[part] = jax.device_put(wide, copied)

  @functools.cache
  def compiled(start_steps):
    return jax.jit(
      partial(_draw, networks, walk, start_steps),
      in_shardings=(copied, split, copied, split, split),
      out_shardings=split,
    )

  negative = jax.device_put(networks.tokens([negative_prompt]), copied)

  def inputs(prompts, rngs, references=None):
    """Returns what a walk reads of at most a batch, filled up to one."""
    lack = batch_size - len(prompts)
    tokens = networks.tokens([*prompts, *[""] * lack])
    if references is not None:
      references = batching.fill_up(references, lack)
    # Where there are several processes, `jit` takes no arrays of the host.
    tokens, references = jax.device_put((tokens, references), split)
    return tokens, negative, batching.fill_up(rngs, lack), references

  def run(prompts, rngs, references, start_steps, coming):
    del coming  # prompts are read within the walk
    batch = inputs(prompts, rngs, references)
    return compiled(start_steps)(params, *batch)

  stream, draw = batching.make_stream(run, batch_size)

  identity = hashes | {
    "generator": KIND,
    "sampler": sampler,
    "respacing": respacing,
    "guidance_scale": guidance_scale,
    "guidance_interval": guidance_interval and list(guidance_interval),
    "negative_prompt": negative_prompt,
    "image_size": image_size,
    "dtype": dtype,
  }
  return Generator(
    draw,
    stream,
    batch_size,
    image_size=image_size,
    reference_size=image_size,
    num_steps=len(walk.steps.timestep),
    identity=identity,
  )


def _draw(
  networks: Networks,
  walk: Walk,
  start_steps: int | None,
  params: Mapping[str, Any],
  tokens: jax.Array,
  negative: jax.Array,
  rngs: jax.Array,
  references: jax.Array | None,
) -> jax.Array:
  """Draws uint8 images [n, h, w, 3].

  Tokens [n, l] hold the prompts and negative [1, l] what is led away from; rngs
  [n]; references uint8 [n, h, w, 3] or None.
  """
  n, vae = len(rngs), networks.vae
  rngs = jax.vmap(jax.random.split)(rngs)  # [n, 2]
  side = walk.image_size // networks.factor
  shape = (side, side, vae.latent_channels)
  noise = sample.image_noise(rngs[:, 0], shape)
  x = jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs[:, 1])
  steps = walk.steps
  if references is not None:
    # The mean of the latents: their deviation is far below the noise's.
    mean, _ = _apply(vae, params["vae"], to_unit(references), method="encode")
    mean = networks.latent_scale * mean
    steps = schedule.start_at(steps, start_steps)
    x = sample.diffuse(mean, x, steps, start_steps - 1)

  predict = _predictor(networks, walk, params, tokens, negative)
  denoise = latents.denoiser(predict, networks.betas, networks.prediction)
  x = walk.sampler(denoise, steps, x, noise) / networks.latent_scale
  images = _apply(vae, params["vae"], x, method="decode")
  assert images.shape == (n, walk.image_size, walk.image_size, 3)
  return to_uint8(images)


def _predictor(networks, walk, params, tokens, negative):
  """Reads the prompts; returns the guided UNet as a function of (x_t, t)."""
  read = partial(_apply, networks.text, params["text"])
  context = read(tokens)  # [n, l, d]

  def plain(x, t):
    return _apply(networks.unet, params["unet"], x, t, context)

  if walk.scale == 1:
    return plain
  away = jnp.broadcast_to(read(negative), context.shape)
  both = jnp.concatenate([context, away])

  def doubled(x, t):
    return _apply(networks.unet, params["unet"], x, t, both)

  guided = latents.classifier_free(doubled, walk.scale)
  if walk.interval is not None:
    guided = guidance.within(guided, plain, walk.interval)
  return guided


def _apply(module, params, *args, method=None):
  return module.apply({"params": params}, *args, method=method)
