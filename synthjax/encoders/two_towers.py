"""An encoder of two towers: one batch shape for images, one for texts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.config import schema
from synthjax.data.pipeline import given
from synthjax.encoders import Encoder, ImageEncoder, Network, batching
from synthjax.models.clip import projection
from synthjax.runtime.errors import UserError, gathered
from synthjax.tokenizers import bpe, cut_texts
from synthjax.weights import files

# By the kind of their weights.
FAMILIES = {
  "clip": "synthjax.encoders.clip:FAMILY",
  "siglip": "synthjax.encoders.siglip:FAMILY",
}


class Family(NamedTuple):
  """Networks of one kind, their tokenizers, and how they take images."""

  name: str  # of `catalogue.FAMILIES`
  forms: Sequence[Sequence[str]]  # of a tokenizer; see `bpe.FORMS`
  # The file of a tokenizer -> text -> all its ids, without start and end.
  ids_of: Callable[[epath.Path], Callable[[str], Sequence[int]]]
  num_added: int  # start and end, which a text has besides
  towers: Callable[..., Any]  # fields -> the module of both
  image_tower: Callable[[Any], Any]  # that module -> one whose name is "visual"
  fit_image: Callable[[np.ndarray, int], np.ndarray]  # resizes to [s, s, 3]
  fit_images: Callable[[jax.Array, int], jax.Array]  # the same on the device
  pixels: str  # says so, of {} px
  preprocess: Callable[[jax.Array], jax.Array]  # normalises uint8
  mean: tuple[float, ...]  # by which it does
  std: tuple[float, ...]

  def image_network(self, fields: Mapping[str, Any], variables: Any) -> Network:
    """Returns an image tower as a function of pixels, in float32.

    Args:
      fields: of `towers`, as files of weights describe them.
      variables: of the image tower.
    """
    model = self.towers(**fields)
    tower, size = self.image_tower(model), model.image_size

    def encode(variables, images):
      with jax.default_matmul_precision("highest"):
        return tower.apply(variables, self.preprocess(images))

    def of_floats(variables, images):
      images = (images + 1) / 2
      images = (images - np.float32(self.mean)) / np.float32(self.std)
      return tower.apply(variables, images)

    about = {
      "kind": self.name,
      "model": dict(fields),
      "pixels": self.pixels.format(size),
      "mean": self.mean,
      "std": self.std,
    }
    fit = partial(self.fit_image, size=size)
    return Network(encode, variables, size, fit, about, of_floats)

  def check(
    self, *, weights: str | None, tokenizer: str | None = None, **others: Any
  ) -> None:
    """Checks that the files are there; takes the arguments of `load`."""
    del others
    with gathered() as attempt:
      attempt(self.locate, weights)
      attempt(self.locate_tokenizer, weights, tokenizer)

  def reads(
    self, *, weights: str | None, tokenizer: str | None = None, **others: Any
  ) -> cut_texts.Reads | None:
    """Returns how much of a text it reads; None of unfit weights."""
    del others
    about = files.read_description(self.locate(weights)).get("model", {})
    if "context_length" not in about:
      return None
    ids = self.ids_of(self.locate_tokenizer(weights, tokenizer))
    return cut_texts.Reads(ids, about["context_length"] - self.num_added)

  def locate(self, weights: str | None) -> epath.Path:
    """Returns the file of weights; see `files.locate`."""
    return files.locate(weights, field="encoder.weights", family=self.name)

  def locate_tokenizer(
    self, weights: str | None, tokenizer: str | None
  ) -> epath.Path:
    """Returns a tokenizer's file, by default of the one beside the weights."""
    if tokenizer:
      path = bpe.locate(tokenizer, self.forms)
    else:
      path = bpe.beside(weights or "", self.forms)
    if not path.exists():
      raise UserError(
        f"config.encoder.tokenizer names {tokenizer}, and there is no {path}; "
        f"it is the {' or '.join(form[-1] for form in self.forms)} that the "
        "weights were trained with, 'embedded:tokenizer.json' for those of the "
        "package."
      )
    return path

  def load_weights(self, weights: str) -> tuple[epath.Path, dict, dict]:
    """Returns the file, variables on the host, and their description.

    Raises:
      UserError: about weights of another family.
    """
    path = self.locate(weights)
    variables, about = files.load_params(path)
    if about.get("kind") != self.name:
      raise UserError(
        f"{weights} holds weights of {about.get('kind')!r}: config.encoder "
        f"with name={self.name!r} needs others."
      )
    # A network with BatchNorm has "batch_stats" beside its "params".
    variables = variables if "params" in variables else {"params": variables}
    return path, variables, about


def family_of(kind: str) -> Family:
  """Returns the family of a kind of weights."""
  return schema.resolve(kind, FAMILIES)


def make_encoder(
  family: Family,
  model: Any,
  variables: Any,
  *,
  fields: Mapping[str, Any],
  weights: epath.Path,
  tokenizer: epath.Path,
  tokenize: Callable[[Sequence[str]], np.ndarray],
  batch_size: int,
  precision: str,
  resize: str | None,
  dtype: str,
  embed_prompts: Callable[..., Any] | None = None,
) -> Encoder:
  """Returns the encoder of a network that has `encode_image` and `encode_text`.

  What is compiled is compiled when it is first used.

  Args:
    family: of the network.
    model: also has `image_size`, and `embed_dim`, the numbers of a feature.
    variables: of it, on the host; `logit_scale` is a logarithm.
    fields: of it, in float32.
    weights: their file.
    tokenizer: its file.
    tokenize: texts -> int32 [n, l].
    batch_size: images, or texts, that each device encodes at once.
    precision: of products of float32.
    resize: "host" or "device". None is the host where the device is a CPU, as
      Pillow is faster there.
    dtype: of the activations.
    embed_prompts: (variables, names, number) -> see `Encoder.embed_prompts`.
  """
  size = model.image_size
  visual = {name: value["visual"] for name, value in variables.items()}
  network = family.image_network(fields, visual)
  batch_size = batching.on_all_devices(batch_size)
  logit_scale = float(np.exp(variables["params"]["logit_scale"]))
  variables = batching.replicate(variables)
  run = partial(batching.in_batches, batch_size=batch_size, precision=precision)

  def reader(model, visual):
    """Returns what encodes images by a model's image tower."""
    tower = family.image_tower(model)
    of_pixels = run(
      lambda visual, x: tower.apply(
        visual, family.preprocess(family.fit_images(x, size))
      ),
      visual,
      width=model.embed_dim,
    )
    # Resized a batch at a time: all at once may not fit the memory.
    return lambda images: of_pixels(
      map(stack, batching.chunks(images, batch_size))
    )

  of_tokens = run(
    lambda variables, x: model.apply(variables, x, method="encode_text"),
    variables,
    width=model.embed_dim,
  )
  if resize is None:
    resize = "host" if jax.default_backend() == "cpu" else "device"
  stack = batching.stacked(network.fit, on_device=resize == "device")

  def encode_texts(texts: Sequence[str]) -> np.ndarray:
    tokens = tokenize(given.texts("texts", texts))
    return of_tokens(batching.chunks(tokens, batch_size))

  identity = {
    "encoder": family.name,
    "weights": files.sha256(weights),
    "tokenizer": files.sha256(tokenizer),
    "pixels": family.pixels.format(size),
    "dtype": dtype,
  }
  if precision != "highest":  # absent otherwise, so that older runs are found
    identity["precision"] = precision
  fit = partial(batching.fitted, network.fit, may_wait=resize == "device")
  on_device = {name: value["visual"] for name, value in variables.items()}
  unprojected = None
  if last := projection.read(on_device["params"]):
    width = len(last.kernel)
    params = projection.replace(on_device["params"], projection.identity(width))
    unprojected = ImageEncoder(
      reader(
        model.clone(embed_dim=width),
        batching.replicate(on_device | {"params": params}),
      ),
      identity | {"features": "before the projection"},
      fit,
    )
  return Encoder(
    reader(model, on_device),
    encode_texts,
    logit_scale,
    identity,
    embed_prompts=embed_prompts and partial(embed_prompts, variables),
    fit=fit,
    network=network,
    unprojected=unprojected,
  )
