"""Classifiers on stored features in files: the heads of every arm and seed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.adapt import tip_adapter
from synthjax.adapt.linear_head import Head
from synthjax.adapt.linear_probe import RawHead
from synthjax.adapt.prolip import ProjectedHead
from synthjax.adapt.tip_adapter import TipAdapter
from synthjax.evals.arms import ZERO_SHOT
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights import files

HEADS = "heads.safetensors"  # in the folder of the task
KIND = "heads"
# What maps features [n, d] to logits [n, k]: dataclasses of arrays, by the name
# that files have for them. The last one takes features before the projection.
LEARNED = {
  "head": Head,
  "raw_head": RawHead,
  "tip_adapter": TipAdapter,
  "prolip": ProjectedHead,
}
Learned = Callable[[jax.Array], jax.Array]


class Saved(NamedTuple):
  """A classifier, and what its features are of."""

  head: Learned
  classes: tuple[str, ...]
  encoder: dict[str, Any]  # config: the arguments of load_encoder; identity


def save(
  folder: epath.PathLike,
  zero_shot: Head,
  trained: Mapping[str, Mapping[int, Learned]],
  classes: Sequence[str],
  encoder: Mapping[str, Any],
) -> dict[str, int]:
  """Writes the heads of every arm and seed to HEADS.

  Args:
    folder: of the task.
    zero_shot: the head of no training.
    trained: arm -> seed -> head.
    classes: their names, by label.
    encoder: see `Saved`.

  Returns:
    The number of heads in the file, by its name.
  """
  params, arms = {ZERO_SHOT: arrays(zero_shot)}, {ZERO_SHOT: [ZERO_SHOT]}
  forms = {}
  for arm, heads in trained.items():
    params |= {label(arm, seed): arrays(head) for seed, head in heads.items()}
    arms[arm] = [label(arm, seed) for seed in heads]
    forms[arm] = form_of(next(iter(heads.values())))
  description = {"kind": KIND, "classes": list(classes), "arms": arms}
  if {*forms.values()} - {"head"}:
    description["forms"] = forms
  files.save_params(
    epath.Path(folder) / HEADS, params, description | {"encoder": dict(encoder)}
  )
  return {HEADS: len(params)}


def load(path: epath.PathLike, *, arm: str | None = None) -> Saved:
  """Loads the classifier of an arm: the mean of its heads, so of their logits.

  Of ProLIP it is the mean of the projections, whose logits are not quite the
  mean, as features have unit length.

  Args:
    path: of a file that `save` wrote.
    arm: "zero_shot" or another that was saved; None is the first of those.

  Raises:
    UserError: about a file of something else or of an older version, or an arm
      that is not in it.
  """
  params, description = files.load_params(path)
  if description.get("kind") != KIND:
    raise UserError(
      f"{path} holds {description.get('kind')!r}, needed {KIND!r}."
    )
  if "arms" not in description:
    raise UserError(
      f"{path} does not name its encoder, as an older version wrote it. Run "
      "`tune` again, in a copy of the workdir without the folder `tune`."
    )
  arms = description["arms"]
  arm = arm or next((name for name in arms if name != ZERO_SHOT), ZERO_SHOT)
  if arm not in arms:
    raise unknown_names("arm", [arm], arms)
  form = description.get("forms", {}).get(arm, "head")
  head = _mean([LEARNED[form](**params[name]) for name in arms[arm]])
  # Older versions wrote one name for two classes.
  names = description["classes"]
  names = class_names.unique(names, range(len(names)))
  return Saved(head, names, description["encoder"])


def _mean(heads: Sequence[Learned]) -> Learned:
  if isinstance(heads[0], TipAdapter):
    return tip_adapter.mean(heads)
  return jax.tree.map(lambda *x: np.mean(x, axis=0), *heads)


def label(arm: str, seed: int) -> str:
  """Returns the name of a head in HEADS; a slash would split it."""
  return f"{arm}, seed {seed}".replace("/", "|")


def form_of(head: Learned) -> str:
  """Returns the key of LEARNED."""
  return next(name for name, cls in LEARNED.items() if type(head) is cls)


def arrays(head: Learned) -> dict[str, np.ndarray]:
  """Returns the fields of a head, from which its class makes it again."""
  names = [field.name for field in dataclasses.fields(head)]
  return {name: np.asarray(getattr(head, name)) for name in names}
