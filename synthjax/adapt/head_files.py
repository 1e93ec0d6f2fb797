"""Linear classifiers of an encoder's features, as a file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.adapt.linear_head import Head
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights import files

FILE = "heads.safetensors"  # in the folder of the task
ZERO_SHOT = "zero_shot"  # the arm that has learned nothing
_KIND = "heads"


class Known(NamedTuple):
  """A classifier, and what its features are of."""

  head: Head
  classes: tuple[str, ...]
  encoder: dict[str, Any]  # config: the arguments of load_encoder; identity


def write(
  folder: epath.PathLike,
  zero_shot: Head,
  trained: Mapping[str, Mapping[int, Head]],
  classes: Sequence[str],
  encoder: Mapping[str, Any],
) -> dict[str, int]:
  """Writes the heads of every arm and seed.

  Args:
    folder: of the task.
    zero_shot: the head of no training.
    trained: arm -> seed -> head.
    classes: their names, by label.
    encoder: see `Known`.

  Returns:
    The number of heads in the file, by its name.
  """
  params, arms = {ZERO_SHOT: _plain(zero_shot)}, {ZERO_SHOT: [ZERO_SHOT]}
  for arm, heads in trained.items():
    for seed, head in heads.items():
      params[label(arm, seed)] = _plain(head)
    arms[arm] = [label(arm, seed) for seed in heads]
  description = {"kind": _KIND, "classes": list(classes), "arms": arms}
  files.save_params(
    epath.Path(folder) / FILE, params, description | {"encoder": dict(encoder)}
  )
  return {FILE: len(params)}


def read(path: epath.PathLike, *, arm: str | None = None) -> Known:
  """Reads the classifier of an arm: the mean of its heads, so of their logits.

  Args:
    path: of a file of `write`.
    arm: "zero_shot" or another that was written; None is the first of those.

  Raises:
    UserError: about a file of something else or of an older version, or an arm
      that is not in it.
  """
  params, about = files.load_params(path)
  if about.get("kind") != _KIND:
    raise UserError(f"{path} holds {about.get('kind')!r}, needed {_KIND!r}.")
  if "arms" not in about:
    raise UserError(
      f"{path} does not tell its encoder, as an older version wrote it. Run "
      "`tune` again, in a copy of the workdir without the folder `tune`."
    )
  arms = about["arms"]
  arm = arm or next((name for name in arms if name != ZERO_SHOT), ZERO_SHOT)
  if arm not in arms:
    raise unknown_names("arm", [arm], arms)
  own = [Head(**params[name]) for name in arms[arm]]
  head = jax.tree.map(lambda *x: np.mean(x, axis=0), *own)
  return Known(head, tuple(about["classes"]), about["encoder"])


def label(arm: str, seed: int) -> str:
  """Returns what a head of an arm is called; a slash would part names."""
  return f"{arm}, seed {seed}".replace("/", "|")


def _plain(head: Head) -> dict[str, np.ndarray]:
  return {"weight": np.asarray(head.weight), "bias": np.asarray(head.bias)}
