"""Renames and transposes released PyTorch weights into Flax variables."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from synthjax.errors import UserError


class Rule(NamedTuple):
  """How weights of one kind are called here, and how they are laid out."""

  torch_name: str  # "{i}" stands for a number
  flax_path: str  # "params/...", with the same numbers
  transform: Callable[[np.ndarray], np.ndarray] = lambda w: w


def conv(w: np.ndarray) -> np.ndarray:
  """Turns a kernel [o, i, h, w] into [h, w, i, o]."""
  return w.transpose(2, 3, 1, 0)


def linear(w: np.ndarray) -> np.ndarray:
  """Turns a matrix [out, in] into [in, out]."""
  return w.T


def pointwise(w: np.ndarray) -> np.ndarray:
  """Turns a 1x1 convolution [o, i, 1] or [o, i, 1, 1] into [i, o]."""
  return w.reshape(w.shape[:2]).T


def dense(
  torch_name: str,
  flax_path: str,
  transform: Callable[[np.ndarray], np.ndarray] = linear,
) -> list[Rule]:
  """Returns the rules of a layer with a matrix (or kernel) and a bias."""
  return [
    Rule(f"{torch_name}.weight", f"{flax_path}/kernel", transform),
    Rule(f"{torch_name}.bias", f"{flax_path}/bias"),
  ]


def norm(torch_name: str, flax_path: str) -> list[Rule]:
  """Returns the rules of a normalisation's scale and bias."""
  return [
    Rule(f"{torch_name}.weight", f"{flax_path}/scale"),
    Rule(f"{torch_name}.bias", f"{flax_path}/bias"),
  ]


def convert(
  weights: Mapping[str, np.ndarray], rules: Sequence[Rule], like: Mapping
) -> dict:
  """Returns the PyTorch weights as variables of the structure of `like`.

  Args:
    weights: by the released names; the caller drops what is not wanted, such
      as `num_batches_tracked`.
    rules: tried in order.
    like: variables, or their shapes from `jax.eval_shape`.

  Raises:
    UserError: listing every weight that is unused, missing or misshapen.
  """
  patterns = [(_pattern(rule.torch_name), rule) for rule in rules]
  want = traverse_util.flatten_dict(like, sep="/")
  got, problems = {}, []
  for name, weight in weights.items():
    for pattern, rule in patterns:
      if match := pattern.fullmatch(name):
        path = rule.flax_path.format(**match.groupdict())
        got[path] = rule.transform(np.asarray(weight))
        break
    else:
      problems.append(f"{name}: no rule takes it")
  for path in want.keys() | got.keys():
    have, need = (np.shape(t[path]) if path in t else None for t in (got, want))
    if have != need:
      problems.append(f"{path}: weights have {have}, the model needs {need}")
  if problems:
    raise UserError(
      "These weights do not fit this model:\n  " + "\n  ".join(sorted(problems))
    )
  return traverse_util.unflatten_dict(got, sep="/")


def _pattern(torch_name: str) -> re.Pattern:
  """Lets "layer{i}.conv.weight" match "layer3.conv.weight"."""
  escaped = re.escape(torch_name)
  return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", escaped))
