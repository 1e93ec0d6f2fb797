"""Stable Diffusion as a generator: `_draw_latents`, then `_decode`, jitted."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.config.schema import (
  Count,
  Dtype,
  Precision,
  Range,
  Rule,
  Whole,
  one_of,
)
from synthjax.diffusion import guidance, latents, samplers, schedule
from synthjax.generators import (
  Generator,
  Learner,
  adapters,
  batching,
  encodings,
  stable_diffusion_adapters,
)
from synthjax.generators.batching import apply
from synthjax.generators.stable_diffusion_networks import (
  Networks,
  encode,
  load_networks,
  locate,
  locate_distilled,
  place,
  predictor,
  read_tokenizer,
)
from synthjax.models import lora
from synthjax.models.pixels import to_uint8, to_unit
from synthjax.models.stable_diffusion.weights import KIND
from synthjax.runtime.errors import UserError, gathered
from synthjax.tokenizers import cut_texts

CONTEXT = 77  # tokens of CLIP's text encoder, which every version has
# In diffusers 0 turns guidance off; as a scale it would ignore the prompt.
Scale = Annotated[
  float, Rule(lambda x: x > 0, "a number above 0 (1 turns guidance off)")
]


def check(
  *,
  weights: epath.PathLike | None,
  respacing: int | str,
  distilled: str | None = None,
  base_steps: int = 0,
  guidance_interval: tuple[int, int] | None = None,
  negative_prompt: str = "",
  **others: Any,
) -> None:
  """Checks steps and weights; its arguments are those of `load`."""
  del others
  with gathered() as attempt:
    attempt(_check_steps, respacing, distilled, base_steps)
    if distilled and not base_steps:
      attempt(_check_unguided, guidance_interval, negative_prompt)
    attempt(locate, weights, needs_unet=not distilled or base_steps > 0)
    attempt(locate_distilled, distilled)


def _check_steps(
  respacing: int | str, distilled: str | None, base_steps: int
) -> None:
  count = num_steps(respacing=respacing)
  if base_steps and not distilled:
    raise UserError(
      f"config.generator.base_steps={base_steps} counts the steps before those "
      "of a distilled UNet: give that as config.generator.distilled."
    )
  if base_steps >= count:
    raise UserError(
      f"config.generator.base_steps={base_steps} leaves none of {count} steps "
      "to the distilled UNet."
    )


def _check_unguided(
  guidance_interval: tuple[int, int] | None, negative_prompt: str
) -> None:
  if guidance_interval or negative_prompt:
    raise UserError(
      "config.generator.guidance_interval and negative_prompt change no image, "
      "as a distilled UNet walks without guidance: leave them out, or let the "
      "weights' own UNet take the first steps (base_steps)."
    )


def num_steps(*, respacing: int | str, **others: Any) -> int:
  """Returns how many steps are walked."""
  del others
  return len(schedule.kept_timesteps(respacing))


def reads(
  *, weights: epath.PathLike | None, tokenizer: str | None = None, **others: Any
) -> cut_texts.Reads:
  """Returns how much of a prompt it reads."""
  del others
  words, _ = read_tokenizer(locate(weights), tokenizer)
  return cut_texts.Reads(words.clip_ids, CONTEXT - 2)  # start and end


def load(
  *,
  weights: epath.PathLike | None,
  sampler: Annotated[Any, samplers.SAMPLER],
  respacing: int | str,
  batch_size: Count | None = None,
  guidance_scale: Scale = 7.5,
  guidance_interval: Range | None = None,
  negative_prompt: str = "",
  image_size: Count | None = None,
  original_size: Count | None = None,
  spacing: Annotated[str, one_of(latents.SPACINGS)] | None = None,
  distilled: str | None = None,
  distilled_prediction: Annotated[str, one_of(latents.PREDICTIONS)] = "epsilon",
  base_steps: Whole = 0,
  tokenizer: str | None = None,
  dtype: Dtype = "float32",
  vae_dtype: Literal["float32", "bfloat16"] = "float32",
  precision: Precision = "default",
  fsdp: Count = 1,
) -> Generator:
  """Loads all networks and compiles nothing yet.

  The weights come with what the UNet predicts (noise or velocity), its schedule
  and how its steps are spaced.

  Distilled models draw in few steps, but decide in the first one what an image
  shows, and vary less than the model that they were made of. Gandikota & Bau
  (2025, arXiv 2503.10637) therefore let that one take the first step:
  `base_steps=1`.

  Args:
    weights: a folder in diffusers' layout, or a file that
      `stable_diffusion.weights.pack` has made of one.
    sampler: see `samplers.SAMPLER`. The Euler ones end without noise, as in
      diffusers, and start from noise as strong as their first step's.
    respacing: a number of steps, spaced as the weights' scheduler has it, or
      anything else that `schedule.kept_timesteps` reads.
    batch_size: images that each device draws at once; None is as many as its
      memory holds.
    guidance_scale: without a classifier; 1 follows the prompt and no more, for
      half of the work.
    guidance_interval: the first and the last timestep, 0 to 999, that are
      guided. None guides all.
    negative_prompt: what guidance leads away from; the empty prompt by default,
      for which most of XL have zeros in place of its encoding.
    image_size: px; None is the size that the networks were trained on. Others
      are possible, but drawn less well.
    original_size: px, what XL's UNet is told of the size that an image had
      before it was cut and resized, and of the size to draw; small ones look
      coarse. None is the size that it was trained on.
    spacing: of the steps; None is that of the weights' scheduler, or "trailing"
      with a distilled UNet.
    distilled: a UNet that takes the place of the weights' own, without guidance
      as such UNets are used: its file, or hf://ORG/NAME/FILE, in diffusers'
      layout.
    distilled_prediction: what that one predicts.
    base_steps: how many steps, the noisiest, the weights' own UNet takes all
      the same, with guidance. Real guidance that starts after them has none.
    tokenizer: the tokenizer's file, or "embedded:NAME"; None is the one that
      comes with the weights.
    dtype: of the activations of UNet and text encoders.
    vae_dtype: of the autoencoder's, whose range float16 does not have.
    precision: of products of float32, such as the autoencoder's.
    fsdp: see `batching.own_devices`.

  Raises:
    UserError: about unfit weights, or steps, an interval or a size that there
      cannot be.
  """
  devices = batching.own_devices(fsdp)
  _check_steps(respacing, distilled, base_steps)
  own = not distilled or base_steps > 0  # whether the weights' UNet walks
  if not own:
    _check_unguided(guidance_interval, negative_prompt)
  networks, params, hashes = load_networks(
    locate(weights, needs_unet=own),
    tokenizer,
    dtype,
    vae_dtype=vae_dtype,
    unet=own,
    distilled=locate_distilled(distilled),
  )
  if distilled:  # made for these steps, whatever those of the weights are
    spacing = spacing or "trailing"
  if spacing:
    networks = networks._replace(spacing=spacing)
  image_size = image_size or networks.image_size
  _check_size(networks, image_size, original_size)
  guidance.check_interval(guidance_interval, len(networks.betas))
  steps = _kept_steps(networks, respacing, sampler)
  first = len(steps.timestep) - base_steps  # step of the weights' own UNet
  walk = Walk(
    image_size,
    steps,
    sampler,
    guidance_scale,
    guidance_interval,
    original_size or networks.image_size,
    _start_deviation(networks, sampler, steps),
    distilled_prediction if distilled else None,
    int(steps.timestep[first]) if base_steps else len(networks.betas),
  )
  weights_of = place(networks, params, devices)
  drawing = [name for name in params if name not in networks.texts]
  # Guidance leads away from a prompt, or from zeros.
  away = negative_prompt or not networks.zeros_for_empty
  away = away and own and guidance_scale != 1

  identity = hashes | {
    "generator": KIND,
    "sampler": samplers.identify(sampler),
    "respacing": respacing,
    "image_size": image_size,
    "dtype": dtype,
  }
  if own:
    identity |= {
      "guidance_scale": guidance_scale,
      "guidance_interval": guidance_interval and list(guidance_interval),
      "negative_prompt": negative_prompt,
    }
  # Absent otherwise, so that older runs are found.
  more = {
    "spacing": spacing,
    "original_size": original_size,
    "base_steps": base_steps,
    "distilled_prediction": walk.distilled_prediction,
    "vae_dtype": None if vae_dtype == "float32" else vae_dtype,
  }
  identity |= {name: value for name, value in more.items() if value}

  def make(learner=None, read_adapter=None):
    updates_of = partial(adapters.updates_of, read_adapter)

    def inputs_of(prompts):
      tokens = networks.tokens([*map(adapters.text_of, prompts)])
      updates = updates_of(prompts).items()
      # The UNet's need no place beside the text encoders.
      return tokens, {k: u for k, u in updates if not k.startswith("unet/")}

    against = partial(adapters.with_text, text=negative_prompt)
    make_reader = partial(
      encodings.first,
      partial(encode, networks),
      weights_of(*networks.texts),
      inputs_of,
      devices,
      context=partial(batching.tracing, devices, precision),
      example=adapters.example(read_adapter),
      against=against if away else None,
      beside=updates_of,
    )
    return batching.make_generator(
      partial(_draw_latents, networks, walk._replace(learner=learner)),
      partial(_decode, networks),
      batching.with_learner(weights_of(*drawing), learner, devices),
      make_reader,
      devices,
      batch_size=batch_size,
      precision=precision,
      example=adapters.example(read_adapter),
      image_size=image_size,
      reference_size=image_size,
      num_steps=len(walk.steps.timestep),
      identity=identity | ({"learner": learner.identity} if learner else {}),
      guided=lambda learner: make(learner, read_adapter),
      **adapting,
    )

  adapting = {}
  if not distilled:  # a LoRA is of the weights' own UNet
    adapting = dict(
      adapted=lambda read_adapter: make(None, read_adapter),
      adaptable=stable_diffusion_adapters.adaptable(
        *(networks, weights_of("unet", "vae", *networks.texts), devices),
        image_size=image_size,
        original_size=walk.original_size,
      ),
    )
  return make()


def _kept_steps(
  networks: Networks, respacing: int | str, sampler: partial
) -> schedule.Schedule:
  """Returns the steps that a walk of the sampler keeps."""
  kept = latents.kept_timesteps(
    respacing,
    networks.betas,
    spacing=networks.spacing,
    offset=networks.offset,
  )
  steps = schedule.keep(networks.betas, kept)
  # As in diffusers, where the other samplers always end without noise.
  if sampler.func is samplers.ddim and not networks.ends_clean:
    steps = latents.ending_at(steps, 1 - networks.betas[0])
  return steps


def _start_deviation(
  networks: Networks, sampler: partial, steps: schedule.Schedule
) -> float:
  if sampler.func in (samplers.euler, samplers.euler_ancestral):
    return latents.start_deviation(steps, networks.spacing)
  return 1.0


def _check_size(
  networks: Networks, image_size: int, original_size: int | None
) -> None:
  """Raises UserError about a size that the networks cannot draw."""
  multiple = networks.factor * 2 ** (len(networks.unet.widths) - 1)
  if image_size < 1 or image_size % multiple:
    raise UserError(
      f"config.generator.image_size={image_size}: this Stable Diffusion draws "
      f"multiples of {multiple} px, best {networks.image_size}."
    )
  if original_size and not networks.unet.pooled_dim:
    raise UserError(
      f"config.generator.original_size={original_size}: the UNet of XL alone "
      "reads it. Leave it out."
    )


# --- drawing ------------------------------------------------------------------


# What prompts say, of `encode`; what guidance leads away from, None for zeros;
# and low-rank updates of n rows, or {}.
Texts = tuple[list[jax.Array], list[jax.Array] | None, lora.Updates]


class Walk(NamedTuple):
  """How images are drawn."""

  image_size: int  # px
  steps: schedule.Schedule
  sampler: Callable
  scale: float  # of guidance
  interval: tuple[int, int] | None  # timesteps that are guided
  original_size: int  # px, that the UNet is told of
  start: float  # deviation of the noise that walks start from
  distilled_prediction: str | None  # None without a distilled UNet
  own_from: int  # timestep from which on the weights' own UNet walks
  learner: Learner | None = None


def _draw_latents(
  networks: Networks,
  walk: Walk,
  start_steps: int | None,
  params: Mapping[str, Any],
  texts: Texts,
  rngs: jax.Array,
  references: jax.Array | None,
) -> jax.Array:
  """Draws latents [n, h', w', c].

  The rngs [n]; references uint8 [n, h, w, 3] or None. The params hold the
  weights.
  """
  rngs = jax.vmap(jax.random.split)(rngs)  # [n, 2]
  vae = partial(apply, networks.vae, params["vae"])
  side = walk.image_size // networks.factor
  shape = (side, side, networks.vae.latent_channels)
  x, steps = samplers.start_noise(rngs[:, 1], shape), walk.steps
  if references is not None:
    # The mean of the latents: their deviation is far below the noise's.
    mean, _ = vae(to_unit(references), method="encode")
    steps = schedule.start_at(steps, start_steps)
    mean = networks.latent_scale * mean
    x = samplers.diffuse(mean, x, steps, start_steps - 1)
  elif walk.start != 1:
    x = walk.start * x
  denoise = _denoiser(networks, walk, params, texts)
  noise, cond_fn = samplers.image_noise(rngs[:, 0], shape), None
  if learner := walk.learner:

    def logits_of(x):
      images = vae(x / networks.latent_scale, method="decode")
      return learner.logits(params["learner"], images)

    alpha_bar = np.cumprod(1 - np.asarray(networks.betas, np.float64))
    cond_fn = guidance.towards_doubt(
      denoise, alpha_bar, logits_of, learner.scale
    )
  return walk.sampler(denoise, steps, x, noise, cond_fn=cond_fn)


def _decode(
  networks: Networks,
  params: Mapping[str, Any],
  texts: Any,
  rngs: jax.Array,
  x: jax.Array,
) -> jax.Array:
  """Turns latents into uint8 images [n, h, w, 3]."""
  del texts, rngs
  x = x / networks.latent_scale
  return to_uint8(apply(networks.vae, params["vae"], x, method="decode"))


def _denoiser(
  networks: Networks,
  walk: Walk,
  params: Mapping[str, Any],
  texts: Texts,
) -> guidance.Denoiser:
  """Returns the denoiser that is walked by."""
  prompts, negative, updates = texts

  def predicts(name, prompts):
    size = walk.original_size
    return predictor(networks, params[name], prompts, size, updates)

  def denoiser(predict, prediction):
    return latents.denoiser(predict, networks.betas, prediction)

  if prediction := walk.distilled_prediction:
    few_steps = denoiser(predicts("distilled", prompts), prediction)
    if "unet" not in params:
      return few_steps
  predict = predicts("unet", prompts)
  if walk.scale != 1:
    if negative is None:
      negative = jax.tree.map(jnp.zeros_like, prompts)
    both = [
      jnp.concatenate(pair) for pair in zip(prompts, negative, strict=True)
    ]
    guided = guidance.classifier_free(predicts("unet", both), walk.scale)
    if walk.interval is not None:
      guided = guidance.within(guided, predict, walk.interval)
    predict = guided
  denoise = denoiser(predict, networks.prediction)
  if prediction:
    own = walk.own_from, len(networks.betas)
    denoise = guidance.within(denoise, few_steps, own)
  return denoise
