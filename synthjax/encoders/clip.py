"""CLIP as an encoder: one batch shape for images, one for texts."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.convert import files
from synthjax.encoders import Encoder
from synthjax.encoders.resize import fit_image, fit_images
from synthjax.errors import UserError, unknown_names
from synthjax.models import clip
from synthjax.text import tokenize
from synthjax.train import coop
from synthjax.train import mesh as meshes

RESIZES = ("host", "device")
# Each size of images that the device resizes is compiled; others wait for the
# host.
MAX_SHAPES = 8


def check(
  *,
  weights: str,
  tokenizer: str,
  batch_size: int,
  dtype: str = "float32",
  resize: str | None = None,
) -> None:
  """Says what keeps `load` from working; its arguments are those of `load`."""
  del dtype
  if resize not in (None, *RESIZES):
    raise unknown_names("encoder.resize", [resize], RESIZES)
  _weights(weights)
  if batch_size < 1:
    raise UserError(f"encoder.batch_size={batch_size} must be at least 1.")
  if not tokenizer or not _tokenizer(tokenizer).exists():
    raise UserError(
      f"config.encoder.tokenizer names {tokenizer}, which is not there; it is "
      "the tokenizer.json that the weights were trained with, "
      "'embedded:tokenizer.json' for those of the package."
    )


def load(
  *,
  weights: str,
  tokenizer: str,
  batch_size: int,
  dtype: str = "float32",
  resize: str | None = None,
) -> Encoder:
  """Loads the weights; what is compiled is compiled when first used.

  Args:
    weights: a file of `train_clip`; "embedded:NAME" is one of the package.
    tokenizer: a tokenizer.json, likewise.
    batch_size: images, or texts, encoded at once. Fewer are filled up, so that
      one shape is compiled.
    dtype: of the activations.
    resize: "device" resizes batches of images of one size there, all others
      on the "host", to the same pixels. By default the host is chosen where
      the device is a CPU, as Pillow is faster there.

  Raises:
    UserError: about missing or unfit weights, or a batch that does not split.
  """
  paths = _weights(weights), _tokenizer(tokenizer)
  params, about = files.load_params(paths[0])
  if about.get("kind") != "clip":
    raise UserError(
      f"{weights} holds weights of {about.get('kind')!r}: config.encoder needs "
      "those of a CLIP."
    )
  words = tokenize.load(paths[1])
  model = clip.CLIP(**about["model"] | {"dtype": jnp.dtype(dtype)})
  if model.vocab_size != words.clip_vocab_size:
    raise UserError(
      f"{weights} knows {model.vocab_size} tokens, but {tokenizer} has "
      f"{words.clip_vocab_size}: give the tokenizer that it was trained with."
    )
  mesh = meshes.make_mesh(local=True)  # each process encodes for itself
  meshes.check_batch(mesh, batch_size, field="encoder.batch_size")
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  # Beside "params", a ResNet has "batch_stats".
  variables = params if "params" in params else {"params": params}
  params = variables["params"]
  # Files may hold a scalar as an array of one number.
  params["logit_scale"] = np.reshape(params["logit_scale"], ())
  variables = jax.device_put(variables, copied)

  def compiled(method):
    return jax.jit(
      lambda variables, x: model.apply(variables, x, method=method),
      in_shardings=(copied, split),
      out_shardings=split,
    )

  size = model.image_size
  of_pixels = compiled(
    lambda m, x: m.encode_image(clip.preprocess(fit_images(x, size)))
  )
  of_tokens = compiled(lambda m, x: m.encode_text(x))

  def encode(function, batches):
    features, waiting = [np.zeros((0, model.embed_dim), np.float32)], None
    for batch in batches:
      lack = batch_size - len(batch)
      filled = np.pad(batch, [(0, lack)] + [(0, 0)] * (batch.ndim - 1))
      # Where there are several processes, `jit` takes no arrays of the host.
      filled = jax.device_put(filled, split)
      # The device is given this batch before the last one is waited for.
      found, waiting = waiting, (function(variables, filled), len(batch))
      if found:
        features.append(np.asarray(found[0])[: found[1]])
    if waiting:
      features.append(np.asarray(waiting[0])[: waiting[1]])
    return np.concatenate(features)

  def chunks(rows):
    for first in range(0, len(rows), batch_size):
      yield rows[first : first + batch_size]

  if resize is None:
    resize = "host" if jax.default_backend() == "cpu" else "device"
  compiled_shapes: set[tuple[int, ...]] = set()

  def fit_chunk(images):
    """Returns images of one size, those of the model if the host resizes."""
    shapes = {np.shape(image) for image in images}
    if resize == "device" and len(shapes) == 1:
      if shapes <= compiled_shapes or len(compiled_shapes) < MAX_SHAPES:
        compiled_shapes.update(shapes)
        return np.stack(images)
    return np.stack([fit_image(image, size) for image in images])

  def encode_images(images: Sequence[np.ndarray]) -> np.ndarray:
    # Resized a batch at a time: all at once may not fit the memory.
    return encode(of_pixels, map(fit_chunk, chunks(images)))

  def encode_texts(texts: Sequence[str]) -> np.ndarray:
    tokens = words.clip_tokens(texts, model.context_length)
    return encode(of_tokens, chunks(tokens))

  def embed_prompts(names: Sequence[str], num_context: int):
    names = [words.clip_ids(f"{name}.") for name in names]
    tokens, end = coop.prompt_tokens(
      names,
      start=words.clip_vocab_size - 2,
      end=words.clip_vocab_size - 1,
      length=model.context_length,
      num_context=num_context,
    )
    embeddings = model.apply(variables, tokens, method="embed")
    encode = jax.tree_util.Partial(partial(_encode_embedded, model), variables)
    return encode, embeddings, end

  identity = {
    "encoder": "clip",
    "weights": files.sha256(paths[0]),
    "tokenizer": files.sha256(paths[1]),
    "pixels": f"bicubic, shorter side and middle of {size}",
    "dtype": dtype,
  }
  logit_scale = float(np.exp(params["logit_scale"]))
  fit = partial(fit_image, size=size) if resize == "host" else np.asarray
  return Encoder(
    encode_images, encode_texts, logit_scale, identity, embed_prompts, fit
  )


def _encode_embedded(model, variables, x, end):
  return model.apply(variables, x, end, method="encode_embedded_text")


def _weights(name: str | None) -> epath.Path:
  return files.locate(name, field="encoder.weights", family="clip")


def _tokenizer(name: str) -> epath.Path:
  return epath.Path(tokenize.locate(name))
