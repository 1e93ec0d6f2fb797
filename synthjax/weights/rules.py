"""Turns released PyTorch weights into Flax variables, and back.

Each `models.NAME.weights` lists the `Rule`s of its network and has the same two
functions. `from_released(weights)` returns variables and their description,
plain data from which the module can be built again; `to_released(variables,
description, layout)` returns the weights under the names of one of its LAYOUTS.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flax import traverse_util

from synthjax.runtime.errors import UserError, unknown_names


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


def join_thirds(
  weights: Mapping[str, np.ndarray], parts: Sequence[str], whole: str
) -> dict[str, np.ndarray]:
  """Joins queries, keys and values, which most networks here have as one.

  Weights that do not come in threes of one shape stay as they are, so that
  `convert` reports them.

  Args:
    weights: by their released names.
    parts: of a name of queries, keys and values, such as (".query.", ...).
    whole: takes the place of the part, such as ".qkv.".
  """
  joined = dict(weights)
  for name in [name for name in joined if parts[0] in name]:
    thirds = [name.replace(parts[0], part) for part in parts]
    if len({np.shape(joined.get(third)) for third in thirds}) == 1:
      arrays = [joined.pop(third) for third in thirds]
      joined[name.replace(parts[0], whole)] = np.concatenate(arrays)
  return joined


def split_thirds(
  weights: Mapping[str, np.ndarray], parts: Sequence[str], whole: str
) -> dict[str, np.ndarray]:
  """Undoes `join_thirds`, with the same arguments."""
  split = {}
  for name, weight in weights.items():
    if whole in name:
      for part, third in zip(parts, np.split(weight, 3), strict=True):
        split[name.replace(whole, part)] = third
    else:
      split[name] = weight
  return split


def require(
  weights: Mapping[str, np.ndarray], names: Sequence[str], *, family: str
) -> None:
  """Checks that weights hold those that show the network's sizes.

  Raises:
    UserError: listing the missing ones, and some of those that are there.
  """
  if missing := [name for name in names if name not in weights]:
    raise UserError(
      f"These are not weights of {family}: no {', '.join(missing)} among "
      f"{len(weights)} weights, such as {some_names(weights)}. Give the "
      "released file."
    )


def find_layout(
  weights: Mapping[str, np.ndarray],
  decisive: Mapping[str, Sequence[str]],
  *,
  family: str,
  advice: str,
) -> str:
  """Returns the layout that weights are in.

  Args:
    weights: by the names of one of the layouts.
    decisive: for each layout, the names that show the network's sizes.
    family: for the message, as the layouts call it.
    advice: for the message: which weights can be given instead.

  Raises:
    UserError: when the weights have all decisive names of no layout.
  """
  for layout, names in decisive.items():
    if all(name in weights for name in names):
      return layout
  sought = "; or for ".join(map(", ".join, decisive.values()))
  raise UserError(
    f"These are not the weights of {family}. Looked for {sought}. Names "
    f"found: {some_names(weights)}. {advice}"
  )


def some_names(weights: Mapping[str, np.ndarray]) -> str:
  """Returns the first names of weights, for a message."""
  return ", ".join(sorted(weights)[:5]) or "none at all"


def check_layout(family: str, layout: str, layouts: Iterable[str]) -> None:
  """Raises UserError about a layout that is not one of `layouts`."""
  if layout not in layouts:
    raise unknown_names(f"layout of {family} weights", [layout], layouts)


def numbers_in(
  weights: Mapping[str, np.ndarray], pattern: str
) -> list[tuple[int, ...]]:
  """Returns the numbers in the names that start with a regular expression."""
  matches = (re.match(pattern, name) for name in weights)
  return [tuple(map(int, match.groups())) for match in matches if match]


MOST = 30  # lines of a message


def convert(
  weights: Mapping[str, np.ndarray], rules: Sequence[Rule], like: Mapping
) -> dict:
  """Returns the PyTorch weights as variables of the structure of `like`.

  Args:
    weights: by the released names, without those that the network does not
      use, such as `num_batches_tracked`.
    rules: tried in order.
    like: variables, or their shapes from `jax.eval_shape`.

  Raises:
    UserError: listing every weight that is unused, missing or misshapen; of
      another network's, the first MOST.
  """
  want = traverse_util.flatten_dict(like, sep="/")
  got, unused = rename(
    weights, [(r.torch_name, r.flax_path, r.layout.to_flax) for r in rules]
  )
  problems = [f"{name}: no rule takes it" for name in unused]
  for path in want.keys() | got.keys():
    have, need = (np.shape(t[path]) if path in t else None for t in (got, want))
    if have != need:
      problems.append(f"{path}: weights have {have}, the model needs {need}")
  if problems:
    lines = sorted(problems)
    if more := lines[MOST:]:
      lines[MOST:] = [f"and {len(more):,} more"]
    raise UserError(
      "These weights do not fit this model:\n  " + "\n  ".join(lines)
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
  got, nameless = rename(
    traverse_util.flatten_dict(variables, sep="/"),
    [(r.flax_path, r.torch_name, r.layout.to_torch) for r in rules],
  )
  if nameless:
    lines = [f"{path}: no rule takes it" for path in sorted(nameless)]
    raise UserError(
      "These variables have no released names:\n  " + "\n  ".join(lines)
    )
  return got


def rename(
  arrays: Mapping[str, np.ndarray],
  renames: Sequence[tuple[str, str, Callable[[np.ndarray], np.ndarray]]],
) -> tuple[dict[str, np.ndarray], list[str]]:
  """Renames and reorders arrays.

  Args:
    arrays: by their old names.
    renames: old names, new names and functions from old to new arrays; the
      first that matches a name counts.

  Returns:
    The arrays by their new names, and the old names that nothing matches.
  """
  patterns = [(_pattern(old), new, change) for old, new, change in renames]
  renamed, unmatched = {}, []
  for name, array in arrays.items():
    for pattern, new, change in patterns:
      if match := pattern.fullmatch(name):
        renamed[new.format(**match.groupdict())] = change(np.asarray(array))
        break
    else:
      unmatched.append(name)
  return renamed, unmatched


def _pattern(template: str) -> re.Pattern:
  """Returns an expression by which "layer{i}.conv" matches "layer3.conv"."""
  escaped = re.escape(template)
  return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", escaped))
