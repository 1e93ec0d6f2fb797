"""Converts FID's Inception-v3, by the names of pytorch-fid and torch-fidelity.

The Inception-v3 of torchvision and timm has the same names and shapes but for
its last layer, of 1000 classes. Its weights are others, and its features give
other distances: their last layer differs, and they are refused.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from synthjax.models.inception import model as inception
from synthjax.runtime.errors import UserError
from synthjax.weights import rules
from synthjax.weights.rules import Rule

_FIRST, _LAST = "Conv2d_1a_3x3.conv.weight", "fc.weight"
# PyTorch's BatchNorm counts batches and does not use the number.
_DROPPED = ".num_batches_tracked"


def from_released(
  weights: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the variables of an Inception, and their description.

  Args:
    weights: by the names of pt_inception-2015-12-05-6726825d.pth.

  Raises:
    UserError: listing what is missing, unused or misshapen.
  """
  weights = {k: w for k, w in weights.items() if not k.endswith(_DROPPED)}
  width = _width(weights)
  like = _shapes(width)
  variables = rules.convert(weights, rules_of(like), like)
  description = {
    "kind": "inception",
    "model": {"width": width},
    "image_size": inception.SIZE,
  }
  return variables, description


def to_released(
  variables: Mapping[str, Any], description: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Returns variables under their released names."""
  like = _shapes(**description["model"])
  return rules.restore(variables, rules_of(like))


def rules_of(like: Mapping[str, Any]) -> list[Rule]:
  """Returns a rule for each weight of the module, named as its path is."""
  layers = rules.dense("fc", "params/fc")
  for *layer, part, name in traverse_util.flatten_dict(like["params"]):
    if (part, name) == ("conv", "kernel"):
      name, at = ".".join(layer), "/".join(layer)
      layers.append(
        Rule(f"{name}.conv.weight", f"params/{at}/conv/kernel", rules.conv)
      )
      layers += rules.batch_norm(f"{name}.bn", f"{at}/bn")
  return layers


def _shapes(width: int) -> Mapping[str, Any]:
  images = jax.ShapeDtypeStruct((1, inception.SIZE, inception.SIZE, 3), "f4")
  model = inception.make(width=width)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def _width(weights: Mapping[str, np.ndarray]) -> int:
  """Returns the width of the first convolution.

  Raises:
    UserError: for the weights of another network.
  """
  first, last = (
    np.shape(weights[name]) if name in weights else None
    for name in (_FIRST, _LAST)
  )
  if not first or len(first) != 4 or not first[0] or first[0] % 2:
    raise UserError(
      "These are not the weights of FID's Inception as pytorch-fid calls them. "
      f"Looked for {_FIRST} of 32 kernels (found {first or 'none'}). Names "
      f"found: {rules.some_names(weights)}."
    )
  if last and last[0] != inception.NUM_CLASSES:
    raise UserError(
      f"This Inception has {last[0]:,} classes ({_LAST}), that of FID "
      f"{inception.NUM_CLASSES:,}. It is torchvision's or timm's, whose "
      "distances cannot be compared with FID. `python -m synthjax.weights "
      "fetch inception_fid` fetches the right one."
    )
  return int(first[0])
