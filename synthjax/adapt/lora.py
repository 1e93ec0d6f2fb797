"""CLIP-LoRA (Zanella and Ben Ayed 2024, arXiv 2405.18541): both towers, a bit.

The attention of every block of CLIP's image and text tower gets low-rank
updates of its q, k and v, and nothing else is trained. An image is classified
by the texts of the classes, which move too. Of generated images the loss is
that of DataDream (Kim et al. 2024, arXiv 2407.10910): a weighted sum with that
of real ones. What is learned is merged into the weights, so that a tuned CLIP
costs no more than before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from synthjax.adapt.linear_head import init_head
from synthjax.adapt.soft_targets import hard_cross_entropy
from synthjax.config.schema import (
  BelowOne,
  Count,
  Flag,
  Positive,
  Share,
  Text,
  one_of,
)
from synthjax.data.pipeline.host_augment import VIEWS
from synthjax.encoders.clip import FAMILY
from synthjax.models import lora as low_rank
from synthjax.models.clip import model as clip
from synthjax.models.lora import Updates
from synthjax.models.unit import unit
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.training.loop import Objective
from synthjax.training.lora import lora_learning

LAYER = "attn/in_proj"  # ends the path of the layers that hold q, k and v


@dataclass(frozen=True, kw_only=True)
class LoRA:
  """How an arm learns updates; the defaults are those of the authors' code."""

  rank: Count = 2
  alpha: Positive = 1.0
  dropout: BelowOne = 0.25  # of what an update reads, in training
  steps_per_shot: Count = 500  # whatever the number of classes
  template: Text = "a photo of a {}."  # of each class, in every data set
  augmentation: Annotated[str, one_of(VIEWS)] = "photo"
  # Of the loss of real images where there are generated ones too (DataDream).
  real_weight: Share = 0.8
  together: Flag = True  # trains all seeds in one step, in the memory of all

  @property
  def scale(self) -> float:
    """The factor on an update, as in the authors' code; LoRA's is alpha / r."""
    return self.alpha / math.sqrt(self.rank)


class Towers(NamedTuple):
  """A CLIP, and the texts of the classes."""

  module: clip.CLIP
  variables: dict[str, Any]  # of it
  tokens: np.ndarray  # int32 [k, l]
  fields: Mapping[str, Any]  # of the module, as files have them


def load_towers(
  weights: str,
  texts: Sequence[str],
  *,
  tokenizer: str | None = None,
  dtype: str = "float32",
  remat: bool = False,
) -> Towers:
  """Loads a CLIP whose image tower is a ViT.

  Args:
    weights: as `encoders.clip.load` takes them, as it does tokenizer and dtype.
    texts: one of each class.
    tokenizer: None is the one beside the weights.
    dtype: of the activations.
    remat: computes activations again for the gradients, which saves memory.

  Raises:
    UserError: about weights of something else.
  """
  _, variables, about = FAMILY.load_weights(weights)
  fields = about["model"]
  if fields.get("image_tower", "vit") != "vit":
    raise UserError(
      f"{weights} is a CLIP whose image tower is a ResNet, which has no q, k "
      "and v in its blocks for `lora` to update: choose one with a ViT."
    )
  params = variables["params"]
  # Files may hold a scalar as an array of one number.
  params["logit_scale"] = np.reshape(params["logit_scale"], ())
  module = clip.CLIP(**fields | {"dtype": jnp.dtype(dtype), "remat": remat})
  vocabulary = bpe.load(FAMILY.locate_tokenizer(weights, tokenizer))
  tokens = vocabulary.clip_tokens(texts, module.context_length)
  return Towers(module, variables, np.asarray(tokens), fields)


# --- updates ------------------------------------------------------------------


def init(params: Any, rank: int, rng: jax.Array) -> Updates:
  """Draws updates of q, k and v of a CLIP that change nothing yet."""
  return low_rank.init(params, {LAYER: 3}, rank, rng)


def merged(towers: Towers, updates: Updates, scale: float) -> dict[str, Any]:
  """Returns what `encoder_tuning.predictor` takes: a tuned tower, and a head.

  The head are the texts of the classes, as the tuned text tower reads them.
  """
  params = low_rank.merge(towers.variables["params"], updates, scale)
  texts = towers.module.apply(
    {"params": params}, towers.tokens, method="encode_text"
  )
  head = init_head(texts[:, None], float(np.exp(params["logit_scale"])))
  return {"encoder": {"params": params["visual"]}, "head": head}


def share_tuned(towers: Towers, rank: int) -> float:
  """Returns the share that updates are of all parameters of both towers."""
  params = towers.variables["params"]
  updates = jax.eval_shape(lambda: init(params, rank, jax.random.key(0)))
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  return size(updates) / size(params)


def logits_fn(
  towers: Towers,
  variables: Any,
  updates: Updates,
  images: jax.Array,
  scale: float,
  **options: Any,
) -> jax.Array:
  """Classifies uint8 images [n, s, s, 3] by the texts: float32 [n, k].

  Args:
    towers: of the variables.
    variables: that stay as they are.
    updates: see `init`.
    images: of the size of the tower.
    scale: see `lora.added`, as are the options.
    **options: rng and dropout.
  """
  with nn.intercept_methods(low_rank.added(updates, scale, **options)):
    apply = lambda x, name: towers.module.apply(variables, x, method=name)
    features = apply(clip.preprocess(images), "encode_image")
    texts = apply(towers.tokens, "encode_text")
  cosine = jnp.einsum(
    "nd,kd->nk", unit(features), unit(texts), precision="highest"
  )
  return jnp.exp(variables["params"]["logit_scale"]) * cosine


# --- training -----------------------------------------------------------------


def lora_tuning(
  towers: Towers,
  tx: optax.GradientTransformation,
  recipe: LoRA,
  *,
  weights: Sequence[float] = (1.0,),
) -> Objective:
  """Returns the objective of learning updates, of several seeds at once.

  It starts from a key of each seed. A batch holds the `frozen` variables of the
  towers and, as `rows`, uint8 `image` [n, seeds, sets, s, s, 3] and `label` int
  [n, seeds, sets]: those of one set are real images, of another generated ones.

  Args:
    towers: to start from.
    tx: the optimizer, of each seed by itself.
    recipe: rank, scale and dropout.
    weights: of the losses of the sets, which are added.
  """

  def loss(frozen, updates, rows, rng):
    images, labels = rows["image"], rows["label"]  # [n, sets, ...]
    logits = logits_fn(
      *(towers, frozen, updates),
      images.reshape(-1, *images.shape[2:]),
      recipe.scale,
      rng=rng,
      dropout=recipe.dropout,
    )
    losses = hard_cross_entropy(logits, labels.reshape(-1))
    losses = losses.reshape(labels.shape)  # [n, sets]
    top1 = jnp.mean(logits.argmax(-1) == labels.reshape(-1))
    return losses.mean(0) @ jnp.array(weights), {"top1": top1}

  start = lambda rng: init(towers.variables["params"], recipe.rank, rng)
  return lora_learning(loss, start, tx, axis=1)


def keys_of(seeds: Sequence[int]) -> jax.Array:
  """Returns the keys [k] that `lora_tuning` starts from.

  A seed learns the same whichever others learn beside it.
  """
  return jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
