"""GLIDE as a generator: base, upsampler and guidance, jitted whole."""

import functools
import os
from collections.abc import Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from synthjax.diffusion import guidance, samplers, schedule
from synthjax.generators import Generator, batching
from synthjax.generators import glide_clip_guidance as clips
from synthjax.generators.batching import cached
from synthjax.generators.glide_stages import (
  Stage,
  check_stage,
  load_stage,
  locate,
)
from synthjax.models.glide.model import Text
from synthjax.models.pixels import to_uint8, to_unit
from synthjax.runtime import mesh as meshes
from synthjax.tokenizers import bpe
from synthjax.weights import files

# The upsampler's first noise is a little weaker, as in the authors' notebook.
TEMPERATURE = 0.997
STAGES = ("base", "upsampler")


def check(
  *,
  base: Mapping[str, Any],
  upsampler: Mapping[str, Any],
  guidance_scale: float | None = None,
  guidance_interval: tuple[int, int] | None = None,
  clip_guidance: Mapping[str, Any] | None = None,
  **others: Any,
) -> None:
  """Says what keeps `load` from working; its arguments are those of `load`."""
  del others
  check_stage("base", base)
  check_stage("upsampler", upsampler)
  clips.check(guidance_scale, guidance_interval, clip_guidance)


def num_steps(*, base: Mapping[str, Any], **others: Any) -> int:
  """Returns how many steps the base walks."""
  del others
  return len(schedule.kept_timesteps(base["respacing"]))


def load(
  *,
  base: Mapping[str, Any],
  upsampler: Mapping[str, Any],
  tokenizer: epath.PathLike,
  batch_size: int,
  guidance_scale: float | None = None,
  guidance_interval: tuple[int, int] | None = None,
  clip_guidance: Mapping[str, Any] | None = None,
  dtype: str = "float32",
) -> Generator:
  """Loads both networks and compiles nothing yet.

  Args:
    base: `weights` (see `files.locate`), `sampler` (of SAMPLERS) and
      `respacing`.
    upsampler: likewise, and optionally `start` (of STARTS).
    tokenizer: the tokenizer's file; "embedded:NAME" is one of the package.
    batch_size: images drawn at once; shorter requests are filled up, so that
      one shape is compiled.
    guidance_scale: of the base, without a classifier; the upsampler is not
      guided. 1 follows the prompt and no more.
    guidance_interval: the first and the last timestep, 0 to 999, at which
      guidance_scale guides. At others the prompt is followed and no more,
      which is half of the work. None guides at every one.
    clip_guidance: in its stead, `image_weights` and `text_weights` (files of
      the noised CLIP), `tokenizer` (CLIP's) and optionally `scale`.
    dtype: of the networks' activations.

  Raises:
    UserError: about missing or unfit weights, an unknown sampler, two kinds
      of guidance at once, or an interval that is none.
  """
  clips.check(guidance_scale, guidance_interval, clip_guidance)
  tokenizer = bpe.locate(os.fspath(tokenizer))
  words = bpe.load(tokenizer)
  mesh = meshes.make_mesh(local=True)  # each process draws for itself
  meshes.check_batch(mesh, batch_size, field="generator.batch_size")
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  stages, params = [], {}
  for name, block in (("base", base), ("upsampler", upsampler)):
    # One after the other, so that a stage's copy on the host is soon free.
    stage, params[name] = load_stage(name, block, dtype, copied)
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

  base_stage, upsampler_stage = stages
  guidance.check_interval(guidance_interval, len(base_stage.betas))
  if guidance_interval is not None:
    guidance_interval = tuple(int(step) for step in guidance_interval)

  @functools.cache
  def compiled(start_steps):
    guided = clip, guidance_scale, guidance_interval
    return jax.jit(
      partial(_draw, base_stage, upsampler_stage, *guided, start_steps),
      in_shardings=(copied, split, split, split, split),
      out_shardings=split,
    )

  read = jax.jit(
    partial(_encode, stages),
    in_shardings=(copied, split, split),
    out_shardings=copied,
  )
  gather = jax.jit(_gather, in_shardings=copied, out_shardings=split)
  context = base_stage.model.text_context
  # Where there are several processes, `jit` takes no arrays of the host.
  place = partial(jax.device_put, device=split)

  def read_prompts(prompts):
    return read(params, *place(words.glide_tokens(prompts, context)))

  encodings = cached(read_prompts, batch_size=batch_size)

  def inputs(prompts, rngs, references=None, coming=()):
    """Returns what a walk reads of at most a batch, filled up to one."""
    lack = batch_size - len(prompts)
    filled = list(prompts) + [""] * lack
    *rows, empty = encodings([*filled, ""], coming)
    if references is not None:
      references = batching.fill_up(references, lack)
    clip_tokens = clip and clip.tokens(filled)
    clip_tokens, references = place((clip_tokens, references))
    return (
      gather(rows, empty),
      clip_tokens,
      batching.fill_up(rngs, lack),
      references,
    )

  def run(prompts, rngs, references, start_steps, coming):
    batch = inputs(prompts, rngs, references, coming)
    return compiled(start_steps)(params, *batch)

  stream, draw = batching.make_stream(run, batch_size)

  identity = {
    "generator": "glide",
    "base": _identify("base", base),
    "upsampler": _identify("upsampler", upsampler),
    "tokenizer": files.sha256(tokenizer),
    "guidance_scale": guidance_scale,
    "dtype": dtype,
  }
  # Absent otherwise, so that older runs can be extended.
  if clip:
    identity["clip_guidance"] = clip.identity
  if guidance_interval is not None:
    identity["guidance_interval"] = list(guidance_interval)
  return Generator(
    draw,
    stream,
    batch_size,
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
  guidance_interval: tuple[int, int] | None,
  start_steps: int | None,
  params: Mapping[str, Any],
  texts: Mapping[str, Text],
  clip_tokens: jax.Array | None,
  rngs: jax.Array,
  references: jax.Array | None,
) -> jax.Array:
  """Draws uint8 images [n, h, w, 3].

  Texts are of `_gather`; clip_tokens [n, l] hold the prompt as the noised CLIP
  reads it; rngs [n].
  """
  n = len(rngs)
  rngs = jax.vmap(lambda rng: jax.random.split(rng, 4))(rngs)  # [n, 4]

  shape = (base.image_size, base.image_size, 3)
  noise = samplers.image_noise(rngs[:, 0], shape)
  first = jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs[:, 1])
  steps = base.steps
  if references is not None:
    steps = schedule.start_at(steps, start_steps)
    first = samplers.diffuse(to_unit(references), first, steps, start_steps - 1)
  cond_fn = None
  prompts = jax.tree.map(lambda x: x[:n], texts["base"])
  predict = _predictor(base, params["base"], prompts)
  if clip:
    cond_fn = clip.cond_fn(params["clip"], clip_tokens)
  else:
    both = _predictor(base, params["base"], texts["base"])
    guided = guidance.classifier_free(both, guidance_scale)
    if guidance_interval is not None:
      guided = guidance.within(guided, predict, guidance_interval)
    predict = guided
  denoise = guidance.from_noise(predict, base.betas)
  small = base.walk(denoise, steps, first, noise, cond_fn=cond_fn)

  shape = (upsampler.image_size, upsampler.image_size, 3)
  noise = samplers.image_noise(rngs[:, 2], shape)
  first = jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs[:, 3])
  first, small = TEMPERATURE * first, to_unit(to_uint8(small))
  if upsampler.start == "low_res":
    enlarged = jax.image.resize(small, first.shape, "linear")
    first = samplers.diffuse(enlarged, first, upsampler.steps, -1)
  predict = _predictor(
    upsampler, params["upsampler"], texts["upsampler"], small
  )
  denoise = guidance.from_noise(predict, upsampler.betas)
  large = upsampler.walk(denoise, upsampler.steps, first, noise)
  assert large.shape == (n, *shape)
  return to_uint8(large)


def _encode(stages, params, tokens, mask):
  """Reads prompts [n, l] as every stage does: n rows, by the stage's name."""
  texts = {}
  for name, stage in zip(STAGES, stages, strict=True):
    variables = {"params": params[name]}
    text = stage.model.apply(variables, tokens, mask, method="encode_text")
    # As the UNet casts it, and half as large.
    sequence = text.sequence.astype(stage.model.dtype)
    texts[name] = text._replace(sequence=sequence)
  return [jax.tree.map(itemgetter(i), texts) for i in range(len(tokens))]


def _gather(rows, empty):
  """Joins n rows: those of the base, then n empty ones; the upsampler's."""
  stack = lambda rows: jax.tree.map(lambda *x: jnp.stack(x), *rows)
  base, upsampler = STAGES
  return {
    base: stack([row[base] for row in rows] + [empty[base]] * len(rows)),
    upsampler: stack([row[upsampler] for row in rows]),
  }


def _predictor(stage, params, text, low_res=None):
  """Returns the network that knows its prompts as a function of (x_t, t)."""

  def predict(x, t):
    variables = {"params": params}
    return stage.model.apply(variables, x, t, text, low_res, method="predict")

  return predict


def _identify(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
  return dict(block) | {"weights": files.sha256(locate(name, block))}
