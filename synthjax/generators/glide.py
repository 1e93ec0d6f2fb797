"""GLIDE as a generator: `_draw_small`, then `_enlarge`, each jitted.

`_draw_small` walks the base with guidance and `_enlarge` the upsampler, by
`diffusion.samplers`.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Annotated, Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.config.schema import (
  Count,
  Dtype,
  NotNegative,
  Precision,
  Range,
)
from synthjax.diffusion import guidance, samplers, schedule
from synthjax.generators import (
  Generator,
  Learner,
  adapters,
  batching,
  encodings,
  glide_adapters,
)
from synthjax.generators import glide_clip_guidance as clips
from synthjax.models import lora
from synthjax.models.glide.model import Glide, Text
from synthjax.models.pixels import to_uint8, to_unit
from synthjax.runtime.errors import UserError, gathered
from synthjax.tokenizers import bpe, cut_texts
from synthjax.weights import files

# The upsampler's first noise is a little weaker, as in the authors' notebook.
TEMPERATURE = 0.997
STAGES = ("base", "upsampler")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
  """The stage that draws small images."""

  weights: epath.PathLike | None  # see `files.locate`
  sampler: Annotated[Any, samplers.SAMPLER]
  respacing: int | str  # see `schedule.kept_timesteps`
  start: Literal["noise"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upsampler(Base):
  """The stage that enlarges them.

  Its walk starts from noise, as GLIDE's does, or from the enlarged small image,
  noised up to the first step. The latter suits few steps that leave the
  noisiest out ("4<250").
  """

  start: Literal["noise", "low_res"] | None = None


def check(
  *,
  base: Base,
  upsampler: Upsampler,
  guidance_scale: float | None = None,
  guidance_interval: tuple[int, int] | None = None,
  clip_guidance: clips.ClipGuidance | None = None,
  **others: Any,
) -> None:
  """Checks steps, guidance and weights; its arguments are those of `load`."""
  del others
  with gathered() as attempt:
    for name, block in zip(STAGES, (base, upsampler), strict=True):
      attempt(schedule.kept_timesteps, block.respacing)
      attempt(_locate, name, block)
    attempt(clips.check, guidance_scale, guidance_interval, clip_guidance)


def num_steps(*, base: Base, **others: Any) -> int:
  """Returns how many steps the base walks."""
  del others
  return len(schedule.kept_timesteps(base.respacing))


def reads(
  *, base: Base, tokenizer: epath.PathLike, **others: Any
) -> cut_texts.Reads | None:
  """Returns how much of a prompt the base reads; None of unfit weights."""
  del others
  about = files.read_description(_locate("base", base)).get("model", {})
  if "text_context" not in about:
    return None
  words = bpe.load(bpe.locate(os.fspath(tokenizer)))
  return cut_texts.Reads(words.glide_ids, about["text_context"])


def load(
  *,
  base: Base,
  upsampler: Upsampler,
  tokenizer: epath.PathLike,
  batch_size: Count | None = None,
  guidance_scale: NotNegative | None = None,
  guidance_interval: Range | None = None,
  clip_guidance: clips.ClipGuidance | None = None,
  dtype: Dtype = "float32",
  precision: Precision = "default",
  fsdp: Count = 1,
) -> Generator:
  """Loads both networks and compiles nothing yet.

  Args:
    base: the stage that draws small images.
    upsampler: the stage that enlarges them.
    tokenizer: the tokenizer's file; "embedded:NAME" is one of the package.
    batch_size: images that each device draws at once; None is as many as its
      memory holds.
    guidance_scale: of the base, without a classifier; the upsampler is not
      guided. 1 follows the prompt and no more.
    guidance_interval: the first and the last timestep, 0 to 999, at which
      guidance_scale guides. At others the prompt is followed and no more,
      which is half of the work. None guides at every one.
    clip_guidance: in place of guidance_scale.
    dtype: of the networks' activations.
    precision: of products of float32.
    fsdp: see `batching.own_devices`.

  Raises:
    UserError: about unfit weights, or an interval that does not fit them.
  """
  devices = batching.own_devices(fsdp)
  tokenizer = bpe.locate(os.fspath(tokenizer))
  params, stages = {}, {}
  for name, block in zip(STAGES, (base, upsampler), strict=True):
    stages[name], params[name] = _load_stage(name, block, dtype)
  small, large = stages.values()
  guidance.check_interval(guidance_interval, len(small.betas))
  clip = None
  if clip_guidance is not None:
    clip, params["clip"] = clips.load(
      clip_guidance,
      image_size=small.image_size,
      num_timesteps=len(small.betas),
      dtype=dtype,
    )
  dtypes = jax.tree.map(lambda weight: weight.dtype, params)
  params = batching.put(params, dtypes, devices)
  cascade = Cascade(small, large, clip, guidance_scale, guidance_interval)
  words = bpe.load(tokenizer)
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

  def make(learner=None, read_adapter=None):
    return batching.make_generator(
      partial(_draw_small, cascade._replace(learner=learner)),
      partial(_enlarge, cascade),
      batching.with_learner(batching.staying(params), learner, devices),
      partial(_reader, cascade, params, words, devices, read_adapter),
      devices,
      batch_size=batch_size,
      precision=precision,
      example=adapters.example(read_adapter),
      image_size=large.image_size,
      reference_size=small.image_size,
      num_steps=len(small.steps.timestep),
      identity=identity | ({"learner": learner.identity} if learner else {}),
      guided=lambda learner: make(learner, read_adapter),
      adapted=lambda read_adapter: make(learner, read_adapter),
      adaptable=glide_adapters.adaptable(
        small.model,
        params,
        words,
        betas=small.betas,
        image_size=small.image_size,
      ),
    )

  return make()


# --- stages -------------------------------------------------------------------


class Stage(NamedTuple):
  """One network of the cascade, and how it is walked."""

  model: Glide
  image_size: int  # px
  betas: np.ndarray  # [T]
  steps: schedule.Schedule
  walk: Callable  # a sampler
  start: str | None  # see `Upsampler`


class Cascade(NamedTuple):
  """Both stages, and what guides the base."""

  base: Stage
  upsampler: Stage
  clip: clips.NoisedClip | None
  scale: float | None  # of guidance without a classifier
  interval: tuple[int, int] | None  # timesteps that it guides
  learner: Learner | None = None


def _load_stage(name: str, block: Base, dtype: str) -> tuple[Stage, Any]:
  """Returns a stage and its parameters, on the host."""
  params, about = files.load_params(_locate(name, block))
  is_upsampler = bool(about.get("low_res"))
  if about.get("kind") != "glide" or is_upsampler != (name == "upsampler"):
    raise UserError(
      f"{block.weights} holds {about.get('kind')!r}, stage "
      f"{about.get('stage')!r}: config.generator.{name} needs a GLIDE {name}."
    )
  sizes = about["model"] | {"dtype": jnp.dtype(dtype)}
  for key in ("channel_mult", "attention_downsamples"):
    sizes[key] = tuple(sizes[key])
  betas = schedule.BETAS[about["betas"]]()
  stage = Stage(
    model=Glide(**sizes),
    image_size=about["image_size"],
    betas=betas,
    steps=schedule.respace(betas, block.respacing),
    walk=block.sampler,
    start=block.start,
  )
  params = params.get("params", params)
  return stage, _cast(stage.model, params, is_upsampler=is_upsampler)


def _cast(model: Glide, params: Any, *, is_upsampler: bool) -> Any:
  """Casts weights that are used in half precision alone."""
  side = 2 ** (len(model.channel_mult) - 1)  # the smallest that works
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, model.text_context), jnp.int32)
  time = jax.ShapeDtypeStruct((1,), jnp.int32)

  def apply(params, *args):
    return model.apply({"params": params}, *args)

  inputs = images, time, tokens, tokens, images if is_upsampler else None
  return batching.cast_once(apply, params, *inputs)


def _locate(name: str, block: Base) -> epath.Path:
  return files.locate(
    block.weights and os.fspath(block.weights),
    field=f"generator.{name}.weights",
    family="glide",
  )


def _identify(name: str, block: Base) -> dict[str, Any]:
  identity = {
    "weights": files.sha256(_locate(name, block)),
    "sampler": samplers.identify(block.sampler),
    "respacing": block.respacing,
  }
  return identity | ({"start": block.start} if block.start else {})


# --- prompts ------------------------------------------------------------------


def _reader(
  cascade: Cascade,
  params: Mapping[str, Any],
  tokenizer: bpe.Tokenizer,
  devices: batching.Devices,
  read_adapter: Callable[[int], lora.Updates] | None,
  batch_size: int,
) -> encodings.Reader:
  """Returns the Reader of texts by stage; each prompt is encoded once.

  The texts of the base are those of the n prompts, then n empty ones. "clip"
  are the tokens [n, l] of the noised CLIP, or None; "adapters" the updates [n]
  of the base, which read the empty prompts too, or {}.
  """
  _, copied, split = devices
  stages = dict(zip(STAGES, (cascade.base, cascade.upsampler), strict=True))
  encode = jax.jit(
    partial(_encode, stages),
    in_shardings=(None, split, split),
    out_shardings=copied,
  )
  gather = jax.jit(_gather, in_shardings=copied, out_shardings=split)
  context = cascade.base.model.text_context
  # Where there are several processes, `jit` takes no arrays of the host.
  place = partial(jax.device_put, device=split)

  updates_of = lambda prompts: place(adapters.updates_of(read_adapter, prompts))

  def encode_prompts(prompts):
    tokens = place(
      tokenizer.glide_tokens([*map(adapters.text_of, prompts)], context)
    )
    return encode(params, tokens, updates_of(prompts))

  look_up = encodings.cached(encode_prompts, batch_size=batch_size)

  def read(prompts, coming):
    n, empty_of = len(prompts), lambda p: adapters.with_text(p, "")
    # Each adapter has an empty prompt of its own, to be read early as well.
    pairs = ((p, empty_of(p)) for p in coming)
    rows = look_up(
      [*prompts, *map(empty_of, prompts)], [*itertools.chain(*pairs)]
    )
    clip_tokens = cascade.clip and place(
      cascade.clip.tokens([*map(adapters.text_of, prompts)])
    )
    return gather(rows[:n], rows[n:]) | {
      "clip": clip_tokens,
      "adapters": updates_of(prompts),
    }

  return encodings.Reader(read)


def _encode(stages, params, tokens, updates):
  """Reads prompts as every stage does: n rows, by the stage's name.

  Args:
    stages: by their names.
    params: likewise.
    tokens: [n, l], and their mask.
    updates: [n] of the base, or {}.
  """
  texts = {}
  for name, stage in stages.items():
    variables = {"params": params[name]}
    with nn.intercept_methods(lora.added(updates if name == "base" else {})):
      text = stage.model.apply(variables, *tokens, method="encode_text")
    # As the UNet casts it, and half as large.
    sequence = text.sequence.astype(stage.model.dtype)
    texts[name] = text._replace(sequence=sequence)
  return [jax.tree.map(itemgetter(i), texts) for i in range(len(tokens[0]))]


def _gather(rows, empty):
  """Joins n rows: those of the base, then empty ones; the upsampler's."""
  stack = lambda rows: jax.tree.map(lambda *x: jnp.stack(x), *rows)
  base, upsampler = STAGES
  return {
    base: stack([row[base] for row in rows + empty]),
    upsampler: stack([row[upsampler] for row in rows]),
  }


# --- drawing ------------------------------------------------------------------


def _draw_small(
  cascade: Cascade,
  start_steps: int | None,
  params: Mapping[str, Any],
  texts: Mapping[str, Any],
  rngs: jax.Array,
  references: jax.Array | None,
) -> jax.Array:
  """Draws uint8 images [n, s, s, 3] by the base.

  Texts are those of `_reader`; rngs [n]; references uint8 [n, s, s, 3] or None.
  """
  rngs, base = _split(rngs), cascade.base
  shape = (base.image_size, base.image_size, 3)
  x, steps = samplers.start_noise(rngs[:, 1], shape), base.steps
  if references is not None:
    steps = schedule.start_at(steps, start_steps)
    x = samplers.diffuse(to_unit(references), x, steps, start_steps - 1)
  predict, cond_fn = _guided(cascade, params, texts, n=len(rngs))
  denoise = guidance.from_noise(predict, base.betas)
  if cascade.learner:
    alpha_bar = np.cumprod(1 - np.asarray(base.betas, np.float64))
    doubt = guidance.towards_doubt(
      denoise,
      alpha_bar,
      partial(cascade.learner.logits, params["learner"]),
      cascade.learner.scale,
    )
    clip_fn = cond_fn or (lambda x, t: 0.0)
    cond_fn = lambda x, t: clip_fn(x, t) + doubt(x, t)
  noise = samplers.image_noise(rngs[:, 0], shape)
  return to_uint8(base.walk(denoise, steps, x, noise, cond_fn=cond_fn))


def _enlarge(
  cascade: Cascade,
  params: Mapping[str, Any],
  texts: Mapping[str, Any],
  rngs: jax.Array,
  small: jax.Array,
) -> jax.Array:
  """Draws uint8 images [n, h, w, 3] by the upsampler, from small ones."""
  rngs, upsampler, small = _split(rngs), cascade.upsampler, to_unit(small)
  shape = (upsampler.image_size, upsampler.image_size, 3)
  x = TEMPERATURE * samplers.start_noise(rngs[:, 3], shape)
  if upsampler.start == "low_res":
    enlarged = jax.image.resize(small, x.shape, "linear")
    x = samplers.diffuse(enlarged, x, upsampler.steps, -1)
  predict = _predictor(
    upsampler, params["upsampler"], texts["upsampler"], small
  )
  denoise = guidance.from_noise(predict, upsampler.betas)
  noise = samplers.image_noise(rngs[:, 2], shape)
  large = upsampler.walk(denoise, upsampler.steps, x, noise)
  assert large.shape == (len(rngs), *shape)
  return to_uint8(large)


def _split(rngs: jax.Array) -> jax.Array:
  """Returns four keys [n, 4] of each image's: steps and start of each stage."""
  return jax.vmap(lambda rng: jax.random.split(rng, 4))(rngs)


def _guided(
  cascade: Cascade, params: Mapping[str, Any], texts: Mapping[str, Any], n: int
) -> tuple[guidance.Predictor, guidance.CondFn | None]:
  """Returns the base's predictor, and the gradient of CLIP guidance if any."""
  predictor = partial(
    *(_predictor, cascade.base, params["base"]), updates=texts["adapters"]
  )
  plain = predictor(jax.tree.map(lambda x: x[:n], texts["base"]))
  if cascade.clip:
    return plain, cascade.clip.cond_fn(params["clip"], texts["clip"])
  guided = guidance.classifier_free(predictor(texts["base"]), cascade.scale)
  if cascade.interval is not None:
    guided = guidance.within(guided, plain, cascade.interval)
  return guided, None


def _predictor(
  stage: Stage,
  params: Any,
  text: Text,
  low_res: jax.Array | None = None,
  updates: lora.Updates | None = None,
) -> guidance.Predictor:
  """Returns the network that knows its prompts as a function of (x_t, t)."""

  def predict(x, t):
    variables = {"params": params}
    with nn.intercept_methods(lora.added(updates or {})):
      return stage.model.apply(variables, x, t, text, low_res, method="predict")

  return predict
