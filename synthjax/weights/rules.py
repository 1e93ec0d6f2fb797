"""Turns released PyTorch weights into Flax variables, and back."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from synthjax.runtime.errors import UserError


class Layout(NamedTuple):
  """How the entries of a weight are ordered in PyTorch and in Flax."""

  to_flax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


same = Layout(lambda w: w, lambda w: w)
# Kernels [o, i, h, w] are [h, w, i, o] in Flax.
conv = Layout(
  lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1)
)
# Matrices [o, i] are [i, o].
linear = Layout(lambda w: w.T, lambda w: w.T)
# Convolutions over one place, [o, i, 1] or [o, i, 1, 1], are matrices [i, o].
pointwise1d = Layout(
  lambda w: w.reshape(w.shape[:2]).T, lambda w: w.T[..., None]
)
pointwise2d = Layout(
  lambda w: w.reshape(w.shape[:2]).T, lambda w: w.T[..., None, None]
)


class Rule(NamedTuple):
  """How weights of one kind are called here, and how they are laid out."""

  torch_name: str  # "{i}" stands for a number
  flax_path: str  # "params/...", with the same numbers
  layout: Layout = same


def dense(
  torch_name: str,
  flax_path: str,
  layout: Layout = linear,
) -> list[Rule]:
  """Returns the rules of a layer with a matrix (or kernel) and a bias."""
  return [
    Rule(f"{torch_name}.weight", f"{flax_path}/kernel", layout),
    Rule(f"{torch_name}.bias", f"{flax_path}/bias"),
  ]


def norm(torch_name: str, flax_path: str) -> list[Rule]:
  """Returns the rules of a normalisation's scale and bias."""
  return [
    Rule(f"{torch_name}.weight", f"{flax_path}/scale"),
    Rule(f"{torch_name}.bias", f"{flax_path}/bias"),
  ]


def batch_norm(torch_name: str, flax_path: str) -> list[Rule]:
  """Returns the rules of a BatchNorm below "params" and "batch_stats".

  Args:
    torch_name: as in `Rule`.
    flax_path: without the collection.
  """
  return [
    *norm(torch_name, f"params/{flax_path}"),
    Rule(f"{torch_name}.running_mean", f"batch_stats/{flax_path}/mean"),
    Rule(f"{torch_name}.running_var", f"batch_stats/{flax_path}/var"),
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
        got[path] = rule.layout.to_flax(np.asarray(weight))
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


def restore(variables: Mapping, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
  """Returns Flax variables under their PyTorch names: `convert` undone.

  Args:
    variables: nested dicts of arrays.
    rules: tried in order.

  Raises:
    UserError: listing every variable that no rule gives a name.
  """
  patterns = [(_pattern(rule.flax_path), rule) for rule in rules]
  got, problems = {}, []
  for path, value in traverse_util.flatten_dict(variables, sep="/").items():
    for pattern, rule in patterns:
      if match := pattern.fullmatch(path):
        name = rule.torch_name.format(**match.groupdict())
        got[name] = rule.layout.to_torch(np.asarray(value))
        break
    else:
      problems.append(f"{path}: no rule takes it")
  if problems:
    raise UserError(
      "These variables have no released names:\n  "
      + "\n  ".join(sorted(problems))
    )
  return got


def _pattern(template: str) -> re.Pattern:
  """Lets "layer{i}.conv.weight" match "layer3.conv.weight"."""
  escaped = re.escape(template)
  return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", escaped))
