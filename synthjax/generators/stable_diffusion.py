"""Stable Diffusion 1.x and 2.x as a generator, jitted whole."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.diffusion import guidance, latents, samplers, schedule
from synthjax.generators import Generator, batching
from synthjax.models.pixels import to_uint8, to_unit
from synthjax.models.stable_diffusion import weights as convert
from synthjax.models.stable_diffusion.text import TextEncoder
from synthjax.models.stable_diffusion.unet import UNet
from synthjax.models.stable_diffusion.vae import Autoencoder
from synthjax.models.stable_diffusion.weights import KIND
from synthjax.runtime import mesh as meshes
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.tokenizers import bpe
from synthjax.weights import files

# --- the networks and the words of Stable Diffusion, from a folder or a file

TOKENIZER = "tokenizer.json"  # beside a file of weights


class Networks(NamedTuple):
  """What draws, but for the weights."""

  unet: UNet
  vae: Autoencoder
  text: TextEncoder
  words: bpe.Tokenizer
  pad_token: str  # fills prompts up
  image_size: int  # px that they were trained on
  latent_scale: float  # makes latents of about unit variance
  betas: np.ndarray  # [T]
  prediction: str  # of latents.PREDICTIONS
  spacing: str  # of latents.SPACINGS
  offset: int  # of the spacing "leading"
  ends_clean: bool  # whether DDIM walks on to a latent without noise

  @property
  def factor(self) -> int:
    """How many pixels of a side are one place of a latent."""
    return 2 ** (len(self.vae.widths) - 1)

  def tokens(self, texts: Sequence[str]) -> np.ndarray:
    """Returns int32 [n, l]: start, text, end, and the pad."""
    tokens = self.words.clip_tokens(texts, self.text.context_length)
    return bpe.pad_clip(tokens, self.words, self.pad_token)


def load_networks(
  weights: epath.PathLike, tokenizer: str | None, dtype: str
) -> tuple[Networks, dict[str, Any], dict[str, Any]]:
  """Reads everything, and puts nothing on a device.

  Args:
    weights: a folder in diffusers' layout, or a file that
      `weights.stable_diffusion.pack` has made of one.
    tokenizer: its file, or "embedded:NAME"; None is the one of the folder, or
      TOKENIZER beside the file.
    dtype: of the activations of UNet and text encoder.

  Returns:
    The networks; the parameters of "unet", "vae" and "text", of the dtypes on
    disk; and hashes of all files.

  Raises:
    UserError: about files that are missing, or that do not fit.
  """
  path = epath.Path(weights)
  params, about = _read(path)
  words, words_hash = _read_words(path, tokenizer)
  noise = about["schedule"]
  betas = latents.BETAS[noise["betas"]]
  networks = Networks(
    *convert.make_models(about["model"], dtype),
    words=words,
    pad_token=about["pad_token"],
    image_size=about["image_size"],
    latent_scale=about["latent_scale"],
    betas=betas(noise["first"], noise["last"], noise["num_steps"]),
    prediction=noise["prediction"],
    spacing=noise["spacing"],
    offset=noise["offset"],
    ends_clean=noise["ends_clean"],
  )
  if words.clip_vocab_size != networks.text.vocab_size:
    raise UserError(
      f"The tokenizer has {words.clip_vocab_size:,} tokens, but the text "
      f"encoder of {path} was trained with {networks.text.vocab_size:,}: give "
      "the one that came with the weights (config.generator.tokenizer)."
    )
  return networks, params, {"weights": _identify(path), "tokenizer": words_hash}


def kept_steps(
  networks: Networks, respacing: str | int, sampler: str
) -> schedule.Schedule:
  """Returns the steps that a walk of the sampler keeps.

  Args:
    networks: whose schedule it is.
    respacing: see `latents.kept_timesteps`.
    sampler: of SAMPLERS; see `latents.ending_at`.

  Raises:
    UserError: about steps that there cannot be.
  """
  kept = latents.kept_timesteps(
    respacing,
    networks.betas,
    spacing=networks.spacing,
    offset=networks.offset,
  )
  steps = schedule.keep(networks.betas, kept)
  # As in diffusers, where the other samplers always end without noise.
  if sampler == "ddim" and not networks.ends_clean:
    steps = latents.ending_at(steps, 1 - networks.betas[0])
  return steps


def check_size(networks: Networks, image_size: int) -> None:
  """Raises UserError about a size that the networks cannot draw."""
  multiple = networks.factor * 2 ** (len(networks.unet.widths) - 1)
  if image_size < 1 or image_size % multiple:
    raise UserError(
      f"config.generator.image_size={image_size}: this Stable Diffusion draws "
      f"multiples of {multiple} px, best {networks.image_size}."
    )


def _read(path: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the parameters of each network, and the description."""
  if path.is_dir():
    variables, about = convert.from_folder(path)
    return variables["params"], about
  variables, about = files.load_params(path, dtype=None)
  if about.get("kind") != convert.KIND:
    raise UserError(
      f"{path} holds {about.get('kind')!r}: config.generator.weights needs "
      "Stable Diffusion, as a folder in diffusers' layout or as a file made of "
      "one."
    )
  return variables["params"], about


def _read_words(
  weights: epath.Path, tokenizer: str | None
) -> tuple[bpe.Tokenizer, str]:
  """Returns the tokenizer and the hash of its file."""
  if tokenizer is None and weights.is_dir():
    merges = weights / convert.MERGES
    words = bpe.read(weights / convert.VOCABULARY, merges)
    return words, files.sha256(merges)
  path = weights.parent / TOKENIZER
  if tokenizer is not None:
    path = bpe.locate(tokenizer)
  return bpe.load(path), files.sha256(path)


def _identify(path: epath.Path) -> str | Mapping[str, str]:
  """Returns the hash of a file, or of each file of a folder."""
  if not path.is_dir():
    return files.sha256(path)
  return {
    f"{file.parent.name}/{file.name}": files.sha256(file)
    for file in convert.files_of(path)
  }


# --- ------
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
  if sampler not in samplers.SAMPLERS:
    raise unknown_names("sampler", [sampler], samplers.SAMPLERS)
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
  if sampler not in samplers.SAMPLERS:
    raise unknown_names("sampler", [sampler], samplers.SAMPLERS)
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
    samplers.SAMPLERS[sampler],
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
  noise = samplers.image_noise(rngs[:, 0], shape)
  x = jax.vmap(lambda rng: jax.random.normal(rng, shape))(rngs[:, 1])
  steps = walk.steps
  if references is not None:
    # The mean of the latents: their deviation is far below the noise's.
    mean, _ = _apply(vae, params["vae"], to_unit(references), method="encode")
    mean = networks.latent_scale * mean
    steps = schedule.start_at(steps, start_steps)
    x = samplers.diffuse(mean, x, steps, start_steps - 1)

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
