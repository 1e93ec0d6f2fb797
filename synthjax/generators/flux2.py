"""FLUX.2-klein as a generator: `_draw_latents`, then `_decode`, each jitted."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.config.schema import Count, Precision
from synthjax.diffusion import flow, guidance, samplers, schedule
from synthjax.generators import Generator, Learner, batching, encodings
from synthjax.generators.batching import apply
from synthjax.generators.stable_diffusion import Scale
from synthjax.models.flux2 import latents
from synthjax.models.flux2 import weights as convert
from synthjax.models.flux2.transformer import Transformer
from synthjax.models.flux2.weights import KIND
from synthjax.models.pixels import to_uint8, to_unit
from synthjax.models.qwen3.model import Qwen3
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.tokenizers import cut_texts, qwen
from synthjax.weights import files

CONTEXT = 512  # tokens of a prompt: the transformer reads what fills it up, too
IMAGE_SIZE = 1024  # px, the published pipeline's
BASE_SCALE = 4.0  # of guidance, as published for the base model
Half = Literal["float32", "bfloat16"]  # the weights overflow in float16


def check(
  *,
  weights: epath.PathLike | None,
  guidance_scale: float | None = None,
  negative_prompt: str = "",
  **others: Any,
) -> None:
  """Checks the weights; its arguments are those of `load`."""
  del others
  _check(weights, guidance_scale, negative_prompt)


def _check(
  weights: epath.PathLike | None, scale: float | None, negative_prompt: str
) -> epath.Path:
  """Returns the folder of weights that are to be guided so."""
  folder = locate(weights)
  index = folder / convert.INDEX
  is_distilled = index.exists() and read_json(index, dict).get("is_distilled")
  if is_distilled and (negative_prompt or scale not in (None, 1)):
    raise UserError(
      f"config.generator.guidance_scale={scale} and negative_prompt="
      f"{negative_prompt!r}: the model in {weights} is distilled, and drawn "
      "without guidance. Leave them out, or take the base model."
    )
  return folder


def locate(weights: epath.PathLike | None) -> epath.Path:
  """Returns the folder of weights, which is fetched if it is the hub's."""
  return files.locate(
    weights and os.fspath(weights), field="generator.weights", family=KIND
  )


def num_steps(*, respacing: int, **others: Any) -> int:
  """Returns how many steps are walked."""
  del others
  return respacing


def reads(*, weights: epath.PathLike | None, **others: Any) -> cut_texts.Reads:
  """Returns how much of a prompt it reads."""
  del others
  words = qwen.load(locate(weights) / convert.TOKENIZER)
  around = words.ids(qwen.BEFORE) + words.ids(qwen.BEHIND)
  return cut_texts.Reads(words.ids, CONTEXT - len(around))


def load(
  *,
  weights: epath.PathLike | None,
  sampler: Annotated[Any, samplers.SAMPLER],
  respacing: Count,
  batch_size: Count | None = None,
  guidance_scale: Scale | None = None,
  negative_prompt: str = "",
  image_size: Count = IMAGE_SIZE,
  reads_references: bool = True,
  dtype: Half = "float32",
  vae_dtype: Half = "float32",
  precision: Precision = "default",
  fsdp: Count = 1,
) -> Generator:
  """Loads all networks and compiles nothing yet.

  Args:
    weights: a folder in diffusers' layout, or "hf://ORG/NAME".
    sampler: see `samplers.SAMPLER`; "euler" is the published one.
    respacing: a number of steps, spaced as `flow.noise_levels` does with the
      published shift. The distilled model is made for 4, the base for 50.
    batch_size: images that each device draws at once; None is as many as its
      memory holds.
    guidance_scale: without a classifier, of the base model alone, which has
      BASE_SCALE by default; 1 follows the prompt and no more, for half of the
      work.
    negative_prompt: what guidance leads away from; the empty prompt by default.
    image_size: px; 512 costs about a third of the published pipeline's.
    reads_references: whether the transformer reads the reference of real
      guidance beside the prompt, as the published model edits images. The walk
      starts from the noised reference either way; with as many start_steps as
      there are steps, that is noise alone.
    dtype: of the activations of the transformer and the text encoder.
    vae_dtype: of the autoencoder's.
    precision: of products of float32.
    fsdp: see `batching.own_devices`.

  Raises:
    UserError: about unfit weights, guidance of a distilled model, or a size
      that there cannot be.
  """
  devices = batching.own_devices(fsdp)
  folder = _check(weights, guidance_scale, negative_prompt)
  params, about = convert.from_folder(folder)
  params = params["params"]
  words = qwen.load(folder / convert.TOKENIZER)
  networks = Networks(
    **convert.make_models(about["model"], dtype, vae_dtype), words=words
  )
  _check_fits(networks, image_size, folder)
  scale = 1.0
  if not about["distilled"]:
    scale = BASE_SCALE if guidance_scale is None else guidance_scale
  places = (image_size // networks.factor) ** 2
  shift = flow.flux2_shift(places, respacing)
  walk = Walk(
    image_size,
    flow.steps(flow.noise_levels(respacing, shift)),
    sampler,
    scale,
    reads_references,
  )
  modules = {name: getattr(networks, name) for name in convert.PARTS.values()}
  statistics = params.pop("latents")
  weights_of = batching.in_turns(
    modules, convert.inputs, params, devices, texts=["text"]
  )
  latents_of = jax.device_put({"latents": statistics}, devices.copied)
  drawing = batching.beside(weights_of("transformer", "vae"), latents_of)
  make_reader = partial(
    encodings.first,
    partial(_encode, networks),
    weights_of("text"),
    networks.tokens,
    devices,
    context=partial(batching.tracing, devices, precision),
    against=None if scale == 1 else lambda prompt: negative_prompt,
  )
  identity = {
    "generator": KIND,
    "weights": files.sha256_of_each(convert.files_of(folder), folder),
    "sampler": samplers.identify(sampler),
    "respacing": respacing,
    "guidance_scale": scale,
    "negative_prompt": negative_prompt,
    "image_size": image_size,
    "reads_references": reads_references,
    "dtype": dtype,
    "vae_dtype": vae_dtype,
  }

  def make(learner=None):
    return batching.make_generator(
      partial(_draw_latents, networks, walk._replace(learner=learner)),
      partial(_decode, networks),
      batching.with_learner(drawing, learner, devices),
      make_reader,
      devices,
      batch_size=batch_size,
      precision=precision,
      image_size=image_size,
      reference_size=image_size,
      num_steps=respacing,
      identity=identity | ({"learner": learner.identity} if learner else {}),
      guided=make,
    )

  return make()


class Networks(NamedTuple):
  """The networks, without the weights."""

  transformer: Transformer
  vae: Autoencoder
  text: Qwen3
  words: qwen.Qwen

  @property
  def factor(self) -> int:
    """How many pixels of a side are one place of the transformer."""
    return latents.SIDE * 2 ** (len(self.vae.widths) - 1)

  def tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns tokens int32 [n, l], and mask bool [n, l]."""
    return self.words.chat_tokens(texts, CONTEXT)


def _check_fits(
  networks: Networks, image_size: int, folder: epath.Path
) -> None:
  """Raises UserError about a size, or a tokenizer, that does not fit."""
  if image_size % networks.factor:
    raise UserError(
      f"config.generator.image_size={image_size}: FLUX.2 draws multiples of "
      f"{networks.factor} px."
    )
  if networks.words.largest >= networks.text.vocab_size:
    raise UserError(
      f"The tokenizer of {folder} has ids up to {networks.words.largest:,}, "
      f"but its text encoder knows {networks.text.vocab_size:,}: they are not "
      "of one release."
    )


# --- drawing ------------------------------------------------------------------


class Walk(NamedTuple):
  """How images are drawn."""

  image_size: int  # px
  steps: schedule.Schedule
  sampler: Callable
  scale: float  # of guidance
  reads_references: bool
  learner: Learner | None = None


# What prompts say and, with guidance, what it leads away from, [n, l, d]; and
# nothing beside.
Texts = tuple[jax.Array, jax.Array | None, dict]


def _encode(
  networks: Networks,
  params: Mapping[str, Any],
  inputs: tuple[jax.Array, jax.Array],
) -> jax.Array:
  """Encodes tokens [n, l] with their mask [n, l]: [n, l, d]."""
  return apply(networks.text, params["text"], *inputs)


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
  weights, and "latents" of `latents.pack`.
  """
  rngs = jax.vmap(jax.random.split)(rngs)  # [n, 2]
  side = walk.image_size // networks.factor
  shape = (side, side, networks.transformer.in_channels)
  x, steps, read = samplers.start_noise(rngs[:, 1], shape), walk.steps, None
  if references is not None:
    # The mean of the latents: their deviation is far below the noise's.
    images = to_unit(references)
    mean, _ = apply(networks.vae, params["vae"], images, method="encode")
    clean = latents.pack(mean, params["latents"])
    steps = schedule.start_at(steps, start_steps)
    x = samplers.diffuse(clean, x, steps, start_steps - 1)
    read = clean if walk.reads_references else None
  denoise = flow.denoiser(_predictor(networks, walk, params, texts, read))
  if learner := walk.learner:

    def logits_of(x):
      return learner.logits(params["learner"], _pixels(networks, params, x))

    denoise = guidance.doubting(
      denoise, flow.noise_of, logits_of, learner.scale
    )
  noise = samplers.image_noise(rngs[:, 0], shape)
  return walk.sampler(denoise, steps, x, noise)


def _predictor(
  networks: Networks,
  walk: Walk,
  params: Mapping[str, Any],
  texts: Texts,
  references: jax.Array | None,
) -> guidance.Predictor:
  """Returns the guided predictor of velocities."""
  context, without, _ = texts

  def predictor(*given):
    return lambda x, t: apply(
      networks.transformer, params["transformer"], x, t, *given
    )

  if walk.scale == 1:
    return predictor(context, references)
  both = jnp.concatenate([context, without])
  if references is not None:
    references = jnp.concatenate([references, references])
  return guidance.classifier_free(predictor(both, references), walk.scale)


def _decode(
  networks: Networks,
  params: Mapping[str, Any],
  texts: Texts,
  rngs: jax.Array,
  x: jax.Array,
) -> jax.Array:
  """Turns latents into uint8 images [n, h, w, 3]."""
  del texts, rngs
  return to_uint8(_pixels(networks, params, x))


def _pixels(
  networks: Networks, params: Mapping[str, Any], x: jax.Array
) -> jax.Array:
  """Turns latents into images [n, h, w, 3], floats of about -1..1."""
  z = latents.unpack(x, params["latents"])
  return apply(networks.vae, params["vae"], z, method="decode")
