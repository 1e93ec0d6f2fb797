"""GLIDE as a generator: base, upsampler and guidance, jitted whole."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.convert import files
from synthjax.diffusion import guidance, sample, schedule
from synthjax.errors import UserError
from synthjax.generators import Generator
from synthjax.generators import clip_guidance as clips
from synthjax.models.glide import Glide
from synthjax.text import tokenize
from synthjax.train import mesh as meshes
from synthjax.train.denoising import to_unit

# The upsampler's first noise is a little weaker, as in the authors' notebook.
TEMPERATURE = 0.997
# What the upsampler's walk starts from: noise, as GLIDE's does, or the enlarged
# small image, noised up to the first step. The latter suits few steps that
# leave the noisiest out ("4<250").
STARTS = ("noise", "low_res")


class Stage(NamedTuple):
  """One network of the cascade, and how it is walked."""

  model: Glide
  image_size: int  # px
  betas: np.ndarray  # [T]
  steps: schedule.Schedule
  walk: Callable  # of sample.SAMPLERS
  start: str  # of STARTS


def load(
  *,
  base: Mapping[str, Any],
  upsampler: Mapping[str, Any],
  tokenizer: epath.PathLike,
  batch_size: int,
  guidance_scale: float | None = None,
  clip_guidance: Mapping[str, Any] | None = None,
  dtype: str = "float32",
) -> Generator:
  """Loads both networks and compiles nothing yet.

  Args:
    base: `weights` (a file), `sampler` (of SAMPLERS) and `respacing`.
    upsampler: likewise, and optionally `start` (of STARTS).
    tokenizer: the tokenizer's file; "embedded:NAME" is one of the package.
    batch_size: images drawn at once; shorter requests are filled up, so that
      one shape is compiled.
    guidance_scale: of the base, without a classifier; the upsampler is not
      guided. 1 follows the prompt and no more.
    clip_guidance: in its stead, `image_weights` and `text_weights` (files of
      the noised CLIP), `tokenizer` (CLIP's) and optionally `scale`.
    dtype: of the networks' activations.

  Raises:
    UserError: about missing or unfit weights, an unknown sampler, or two
      kinds of guidance at once.
  """
  clips.check(guidance_scale, clip_guidance)
  tokenizer = tokenize.locate(os.fspath(tokenizer))
  words = tokenize.load(tokenizer)
  mesh = meshes.make_mesh()
  meshes.check_batch(mesh, batch_size, field="generator.batch_size")
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  stages, params = [], {}
  for name, block in (("base", base), ("upsampler", upsampler)):
    # One after the other, so that a stage's copy on the host is soon free.
    stage, params[name] = _load_stage(name, block, dtype, copied)
    stages.append(stage)
  clip = None
  if clip_guidance is not None:
    clip, params["clip"] = clips.load(
      **clip_guidance,
      image_size=stages[0].image_size,
      num_timesteps=len(stages[0].betas),
      dtype=dtype,
    )
    params["clip"] = jax.device_put(params["clip"], copied)

  @functools.cache
  def compiled(start_steps):
    return jax.jit(
      partial(_draw, *stages, clip, guidance_scale, start_steps),
      in_shardings=(copied, split, split, split, split, split),
      out_shardings=split,
    )

  context = stages[0].model.text_context
  empty = words.glide_tokens([""] * batch_size, context)

  def draw(
    prompts: Sequence[str],
    rngs: jax.Array,
    references: np.ndarray | None = None,
    start_steps: int | None = None,
  ) -> np.ndarray:
    """Draws uint8 [n, h, w, 3]; each number of start_steps is compiled."""
    if (references is None) != (start_steps is None):
      raise ValueError("Real guidance needs both references and start_steps.")
    images = []
    for first in range(0, len(prompts), batch_size):
      chunk = list(prompts[first : first + batch_size])
      lack = batch_size - len(chunk)
      conditional = words.glide_tokens(chunk + [""] * lack, context)
      tokens = np.stack([conditional[0], empty[0]], axis=1)
      mask = np.stack([conditional[1], empty[1]], axis=1)
      clip_tokens = clip and clip.tokens(chunk + [""] * lack)
      keys = _fill(rngs[first : first + batch_size], lack)
      reference = None
      if references is not None:
        reference = _fill(references[first : first + batch_size], lack)
      run = compiled(start_steps)
      out = run(params, tokens, mask, clip_tokens, keys, reference)
      images.append(np.asarray(out)[: len(chunk)])
    return np.concatenate(images)

  identity = {
    "generator": "glide",
    "base": _identify(base),
    "upsampler": _identify(upsampler),
    "tokenizer": files.sha256(tokenizer),
    "guidance_scale": guidance_scale,
    "dtype": dtype,
  }
  if clip:  # absent otherwise, so that older runs can be extended
    identity["clip_guidance"] = clip.identity
  return Generator(
    draw,
    image_size=stages[1].image_size,
    reference_size=stages[0].image_size,
    num_steps=len(stages[0].steps.timestep),
    identity=identity,
  )


def _draw(
  base: Stage,
  upsampler: Stage,
  clip: clips.ClipGuidance | None,
  guidance_scale: float | None,
  start_steps: int | None,
  params: Mapping[str, Any],
  tokens: jax.Array,
  mask: jax.Array,
  clip_tokens: jax.Array | None,
  rngs: jax.Array,
  references: jax.Array | None,
) -> jax.Array:
  """Draws uint8 images [n, h, w, 3].

  Tokens and mask [n, 2, l] hold each prompt and the empty one; clip_tokens
  [n, l'] hold the prompt as the noised CLIP reads it; rngs [n].
  """
  n = len(rngs)
  rngs = jax.vmap(lambda rng: jax.random.split(rng, 4))(rngs)  # [n, 4]

  shape = (base.image_size, base.image_size, 3)
  noise = sample.image_noise(rngs[:, 0], shape)
  first = jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs[:, 1])
  steps = base.steps
  if references is not None:
    steps = schedule.start_at(steps, start_steps)
    first = sample.diffuse(to_unit(references), first, steps, start_steps - 1)
  cond_fn = None
  if clip:
    predict = _predictor(base, params["base"], tokens[:, 0], mask[:, 0])
    cond_fn = clip.cond_fn(params["clip"], clip_tokens)
  else:
    predict = guidance.classifier_free(
      _predictor(base, params["base"], *_both_prompts(tokens, mask)),
      guidance_scale,
    )
  denoise = guidance.from_noise(predict, base.betas)
  small = base.walk(denoise, steps, first, noise, cond_fn=cond_fn)

  shape = (upsampler.image_size, upsampler.image_size, 3)
  noise = sample.image_noise(rngs[:, 2], shape)
  first = jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs[:, 3])
  first, small = TEMPERATURE * first, to_unit(to_uint8(small))
  if upsampler.start == "low_res":
    enlarged = jax.image.resize(small, first.shape, "linear")
    first = sample.diffuse(enlarged, first, upsampler.steps, -1)
  predict = _predictor(
    upsampler, params["upsampler"], tokens[:, 0], mask[:, 0], small
  )
  denoise = guidance.from_noise(predict, upsampler.betas)
  large = upsampler.walk(denoise, upsampler.steps, first, noise)
  assert large.shape == (n, *shape)
  return to_uint8(large)


def _both_prompts(tokens, mask):
  """Orders [n, 2, l] as all prompts, then all empty ones: [2n, l]."""
  return (
    jnp.concatenate([x[:, 0], x[:, 1]])
    for x in map(jnp.asarray, (tokens, mask))
  )


def _predictor(stage, params, tokens, mask, low_res=None):
  """Reads the prompts, and returns the network as a function of (x_t, t)."""
  variables = {"params": params}
  text = stage.model.apply(variables, tokens, mask, method="encode_text")

  def predict(x, t):
    return stage.model.apply(variables, x, t, text, low_res, method="predict")

  return predict


def to_uint8(x: jax.Array) -> jax.Array:
  """Rounds [-1, 1] to uint8."""
  return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255).astype(jnp.uint8)


def _fill(rows, lack):
  """Repeats the last row, so that the batch is whole."""
  if not lack:
    return rows
  return jnp.concatenate([rows, jnp.repeat(rows[-1:], lack, axis=0)])


def _load_stage(
  name: str, block: Mapping[str, Any], dtype: str, copied: jax.sharding.Sharding
) -> tuple[Stage, Any]:
  """Returns a stage and its parameters, the latter on the devices."""
  params, about = files.load_params(block["weights"])
  if about.get("kind") != "glide" or bool(about.get("low_res")) != (
    name == "upsampler"
  ):
    raise UserError(
      f"{block['weights']} holds {about.get('kind')!r}, stage "
      f"{about.get('stage')!r}: config.generator.{name} needs a GLIDE {name}."
    )
  if block["sampler"] not in sample.SAMPLERS:
    raise UserError(
      f"Sampler {block['sampler']!r} of config.generator.{name} is not known; "
      f"choose one of {sorted(sample.SAMPLERS)}."
    )
  start = block.get("start", "noise")
  if start not in STARTS[: 2 if name == "upsampler" else 1]:
    raise UserError(
      f"config.generator.{name}.start={start!r} is not known; choose "
      f"{' or '.join(STARTS)} for the upsampler, and nothing for the base."
    )
  sizes = about["model"] | {"dtype": jnp.dtype(dtype)}
  for key in ("channel_mult", "attention_downsamples"):
    sizes[key] = tuple(sizes[key])
  betas = schedule.BETAS[about["betas"]]()
  stage = Stage(
    model=Glide(**sizes),
    image_size=about["image_size"],
    betas=betas,
    steps=schedule.respace(betas, block["respacing"]),
    walk=sample.SAMPLERS[block["sampler"]],
    start=start,
  )
  return stage, jax.device_put(params.get("params", params), copied)


def _identify(block: Mapping[str, Any]) -> dict[str, Any]:
  return dict(block) | {"weights": files.sha256(block["weights"])}
