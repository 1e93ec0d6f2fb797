"""Names of the Inception-v3 of FID: pytorch-fid's, which torch-fidelity shares.

Of the same names and shapes, but for the last layer, are torchvision's and
timm's Inception-v3 of 1000 classes: other weights, whose features give other
distances. They are refused by that layer.
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
  """Returns the variables of an Inception and what they are variables of.

  Args:
    weights: by the names of pt_inception-2015-12-05-6726825d.pth.

  Returns:
    `params` and `batch_stats`; and the description, whose `model` are the
    arguments of `models.inception.make`.

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
  """Returns the variables under their released names: the way back.

  Args:
    variables: `params` and `batch_stats`.
    description: of `from_released`.

  Raises:
    UserError: for variables that are not an Inception's.
  """
  like = _shapes(**description["model"])
  return rules.restore(variables, rules_of(like))


def rules_of(like: Mapping[str, Any]) -> list[Rule]:
  """Returns a rule for each weight of the module, named as its path is."""
  found = rules.dense("fc", "params/fc")
  for path in traverse_util.flatten_dict(like["params"]):
    if path[-2:] == ("conv", "kernel"):
      layer = path[:-2]
      name, at = ".".join(layer), "/".join(layer)
      found.append(
        Rule(f"{name}.conv.weight", f"params/{at}/conv/kernel", rules.conv)
      )
      found += rules.batch_norm(f"{name}.bn", f"{at}/bn")
  return found


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
    found = ", ".join(sorted(weights)[:5]) or "none at all"
    raise UserError(
      "These are not the weights of FID's Inception as pytorch-fid calls them. "
      f"Looked for {_FIRST} of 32 kernels (found {first or 'none'}). Names "
      f"found: {found}."
    )
  if last and last[0] != inception.NUM_CLASSES:
    raise UserError(
      f"This Inception tells {last[0]:,} classes apart ({_LAST}), that of FID "
      f"{inception.NUM_CLASSES:,}: torchvision's and timm's is another one, "
      "whose distances compare with no FID. `python -m synthjax.weights fetch "
      "inception_fid` gets the one that is meant."
    )
  return int(first[0])
