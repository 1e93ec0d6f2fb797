"""CLIP's image tower by itself, as something to tune."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.adapt import linear_head
from synthjax.encoders.resize import fit_image
from synthjax.models.clip import model as clip
from synthjax.weights import files


class Tower(NamedTuple):
  """An image encoder to tune."""

  module: Any
  variables: dict[str, Any]  # of it
  image_size: int  # px


def load(weights: str, *, dtype: str = "float32", remat: bool = False) -> Tower:
  """Loads the image tower of a CLIP.

  Args:
    weights: as `encoders.clip.load` takes them.
    dtype: of the activations.
    remat: computes activations again for the gradients, which saves memory.

  Raises:
    UserError: about missing weights.
  """
  path = files.locate(weights, field="encoder.weights", family="clip")
  variables, about = files.load_params(path)
  variables = variables if "params" in variables else {"params": variables}
  fields = {"dtype": jnp.dtype(dtype), "remat": remat}
  whole = clip.CLIP(**about["model"] | fields)
  return Tower(
    clip.make_image_tower(whole),
    {name: value["visual"] for name, value in variables.items()},
    whole.image_size,
  )


def fit(example: Any, rng: np.random.Generator, *, size: int) -> Any:
  """Resizes and crops as CLIP does."""
  del rng
  return example | {"image": fit_image(example["image"], size)}


def encode(
  tower: Tower, variables: Any, images: jax.Array, train: bool
) -> tuple[jax.Array, Any]:
  """Encodes uint8 images [n, s, s, 3] of the tower's size.

  Returns:
    Features float32 [n, d] and the new `batch_stats`, which are those of
    `variables` unless `train`, and empty where there are none.
  """
  features, updated = tower.module.apply(
    variables,
    clip.preprocess(images),
    train=train,
    mutable=["batch_stats"],
  )
  return features, updated.get("batch_stats", {})


def predictor(tower: Tower, batch_size: int = 256) -> Callable:
  """Returns a function of an encoder and its head, and images.

  It maps a dict of `encoder` (variables of the tower) and `head`, and a source
  of m rows with uint8 `image` [h, w, 3], to logits float32 [m, k].
  """

  @jax.jit
  def predict(found, images):
    features, _ = encode(tower, found["encoder"], images, False)
    return linear_head.logits_fn(found["head"], features)

  def logits(found, source):
    every = []
    for first in range(0, len(source), batch_size):
      rows = range(first, min(first + batch_size, len(source)))
      images = [fit_image(source[i]["image"], tower.image_size) for i in rows]
      # The last batch is filled up, so that one shape is compiled.
      images += [images[0]] * (batch_size - len(images))
      every.append(np.asarray(predict(found, np.stack(images)))[: len(rows)])
    return np.concatenate(every)

  return logits
