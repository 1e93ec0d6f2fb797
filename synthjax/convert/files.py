"""Weights on disk: safetensors that describe themselves."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util

from synthjax.atomic import replace
from synthjax.errors import UserError


def save_params(
  path: epath.PathLike,
  params: Mapping,
  description: Mapping[str, Any],
  *,
  dtype: str = "float32",
) -> None:
  """Writes parameters and what they are parameters of.

  Args:
    path: of the new file.
    params: nested dicts of arrays.
    description: plain data, such as the model's sizes; kept in the header.
    dtype: of the floats on disk.
  """
  from safetensors.numpy import save

  flat = traverse_util.flatten_dict(params, sep="/")
  arrays = {
    # Not np.ascontiguousarray, which gives scalars a dimension.
    name: np.asarray(value, order="C").astype(dtype, order="C")
    for name, value in sorted(flat.items())
  }
  path = epath.Path(path)
  header = {"description": json.dumps(description, sort_keys=True)}
  with replace(path.parent, path.name) as temporary:
    epath.Path(temporary).write_bytes(save(arrays, metadata=header))


def load_params(path: epath.PathLike) -> tuple[dict, dict[str, Any]]:
  """Reads a file of `save_params`: float32 parameters and the description.

  Raises:
    UserError: when the file is missing, damaged or not one of ours.
  """
  from safetensors import SafetensorError
  from safetensors.numpy import load

  path = epath.Path(path)
  if not path.exists():
    raise UserError(
      f"There are no weights at {path}. Give the path of a .safetensors file "
      "that `train_generator` or `train_clip` has written."
    )
  data = path.read_bytes()
  try:
    arrays = load(data)
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    description = json.loads(header["description"])
  except (SafetensorError, ValueError, KeyError) as error:
    raise UserError(
      f"{path} cannot be read as weights ({type(error).__name__}: {error}). "
      "It is cut short, damaged, or was not written by synthjax: fetch or "
      "train it again."
    ) from None
  arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
  return traverse_util.unflatten_dict(arrays, sep="/"), description


EMBEDDED = epath.Path(__file__).parent.parent / "embedded"
RELEASED = {
  "glide": (
    "the released base.pt and upsample.pt of GLIDE (filtered), converted to "
    "safetensors"
  ),
  "clip": "the released CLIP weights, converted to safetensors",
}


def locate(weights: str | None, *, field: str, family: str) -> epath.Path:
  """Finds a weights file, or says how to get one.

  Args:
    weights: a path, or "embedded:NAME" for a file of the package.
    field: of the config, for the message.
    family: a key of RELEASED.

  Raises:
    UserError: when the field is empty or no such file exists.
  """
  if weights and weights.startswith("embedded:"):
    path = EMBEDDED / "weights" / weights.removeprefix("embedded:")
  else:
    path = epath.Path(weights or "")
  if weights and path.exists():
    return path
  found = f"there is no file {path}" if weights else "it is not set"
  raise UserError(
    f"config.{field} must name a weights file, but {found}. It takes "
    f"{RELEASED[family]}; this version does not download or convert them yet, "
    "so bring files that `synthjax.convert` has written, or try the same run "
    "in the embedded world, which ships its weights: add :runlocal to the "
    "config."
  )


def sha256(path: epath.PathLike) -> str:
  """Returns the SHA-256 of a file, to tell weights from other weights."""
  return hashlib.sha256(epath.Path(path).read_bytes()).hexdigest()
