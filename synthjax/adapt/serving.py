"""Writes a network as one file that serves it without this package.

Every file maps uint8 images [n, s, s, 3] to logits float32 [n, k], for any n.
"""

import functools
import importlib
import json
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax import export
from jax.extend.core import Literal

from synthjax.encoders import Network
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.weights import files

CONFIG = "config.json"
PLATFORMS = ("cpu", "cuda", "tpu")  # of a StableHLO file
OPSET = 21  # of ONNX, which onnxruntime reads from 1.20 on
# Of the largest logit: how far those of a file may be from those of JAX.
TOLERANCE = 1e-5
_NAME = "classifier"


def write(
  folder: epath.PathLike, network: Network, formats: Collection[str]
) -> dict[str, float | None]:
  """Writes a network in some FORMATS, and CONFIG beside them.

  Args:
    folder: made if it is not there.
    network: of a `Classifier`, whose weights become a part of each file.
    formats: keys of FORMATS.

  Returns:
    The files, each with the largest difference of its logits from those of the
    network, on images of noise; None of safetensors, which hold weights alone.

  Raises:
    UserError: about an unknown format, a library that is not installed, or a
      file whose logits differ.
  """
  if unknown := [name for name in formats if name not in FORMATS]:
    raise unknown_names("format", unknown, FORMATS)
  folder, written = epath.Path(folder), {}
  folder.mkdir(parents=True, exist_ok=True)
  for name in dict.fromkeys(formats):
    path = folder / f"{_NAME}.{name}"
    FORMATS[name](network, path)
    written[path.name] = _difference(network, path)
  size = network.image_size
  about = network.about | {
    "image_size": size,
    "input": {
      "name": "images",
      "dtype": "uint8",
      "shape": ["n", size, size, 3],
    },
    "output": {"name": "logits", "dtype": "float32"},
    "files": [*written],
  }
  with replace(folder, CONFIG) as path:
    path.write_text(json.dumps(about, indent=1) + "\n")
  return written


def read(path: epath.PathLike) -> Callable[[np.ndarray], Any]:
  """Returns the function of a file: uint8 images [n, s, s, 3] -> logits [n, k].

  Args:
    path: of a StableHLO or an ONNX file.
  """
  path = epath.Path(path)
  if path.suffix == ".stablehlo":
    return export.deserialize(bytearray(path.read_bytes())).call
  return functools.partial(_run_onnx, path.read_bytes())


def _run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
  session = _library("onnxruntime").InferenceSession(content)
  return session.run(None, {"images": images})[0]


def _difference(network: Network, path: epath.Path) -> float | None:
  """Compares the logits of a file with those of the network."""
  if path.suffix == ".safetensors":
    return None
  size = network.image_size
  noise = np.random.default_rng(0).integers(0, 256, (3, size, size, 3))
  images = noise.astype(np.uint8)
  logits = np.asarray(jax.jit(network.function)(network.variables, images))
  difference = float(np.abs(read(path)(images) - logits).max())
  if not difference <= TOLERANCE * max(1.0, np.abs(logits).max()):
    raise UserError(
      f"The logits of {path} differ by {difference:.1e} from those of the "
      "network, which are up to "
      f"{np.abs(logits).max():.1f}: do not serve this file, and report it."
    )
  return difference


def _library(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"The library {name} is not installed ({error}): "
      "pip install 'synthjax[serving]'."
    ) from error


def _write_stablehlo(network: Network, path: epath.Path) -> None:
  _library("flatbuffers")  # which JAX needs for files
  exported = export.export(jax.jit(_with_weights(network)), platforms=PLATFORMS)
  content = exported(_images_of(network)).serialize()
  with replace(path.parent, path.name) as temporary:
    temporary.write_bytes(content)


def _write_onnx(network: Network, path: epath.Path) -> None:
  jax2onnx = _library("jax2onnx")
  # It warns of each constant whose type it has not noted, which none needs.
  logging.getLogger("onnx_ir").setLevel(logging.ERROR)
  images = _images_of(network)
  # As primitives of JAX, since what replaces Flax's layers and functions of
  # jax.numpy knows not all of their arguments.
  traced = jax.make_jaxpr(_with_weights(network))(images)
  evaluate = lambda x: _evaluate(traced.jaxpr, traced.consts, x)[0]
  try:
    model = jax2onnx.to_onnx(
      evaluate,
      [images],
      model_name=_NAME,
      opset=OPSET,
      input_names=["images"],
      output_names=["logits"],
    )
    content = model.SerializeToString()
    _run_onnx(content, np.zeros((1, *images.shape[1:]), np.uint8))
  except Exception as error:  # of either library, for what they lack
    raise UserError(
      f"This network cannot be written as ONNX ({type(error).__name__}: "
      f"{str(error):.300}). StableHLO takes all: --format=stablehlo."
    ) from error
  with replace(path.parent, path.name) as temporary:
    temporary.write_bytes(content)


def _evaluate(jaxpr: Any, consts: Sequence[Any], *args: Any) -> list[Any]:
  """Evaluates what JAX has traced, with `_max_of_slices` for max pooling.

  jax2onnx makes it a MaxPool over all four axes of [n, h, w, c], of which
  onnxruntime takes three at most.
  """
  names = (*jaxpr.constvars, *jaxpr.invars)
  values = dict(zip(names, (*consts, *args), strict=True))
  read = lambda x: x.val if isinstance(x, Literal) else values[x]
  for eqn in jaxpr.eqns:
    inputs = [*map(read, eqn.invars)]
    if eqn.primitive is jax.lax.reduce_window_max_p:
      outputs = _max_of_slices(*inputs, **eqn.params)
    else:
      params = eqn.primitive.get_bind_params(eqn.params)
      outputs = eqn.primitive.bind(*inputs, **params)
    several = eqn.primitive.multiple_results
    values |= zip(eqn.outvars, outputs if several else [outputs], strict=True)
  return [*map(read, jaxpr.outvars)]


def _max_of_slices(
  x: jax.Array,
  *,
  window_dimensions: Sequence[int],
  window_strides: Sequence[int],
  padding: Sequence[tuple[int, int]],
  **dilations: Sequence[int],
) -> jax.Array:
  """Returns lax.reduce_window_max, as the largest of shifted slices."""
  assert all(each == 1 for axes in dilations.values() for each in axes)
  for axis, (size, stride, ends) in enumerate(
    zip(window_dimensions, window_strides, padding, strict=True)
  ):
    if size == stride == 1:
      continue
    cut = functools.partial(jax.lax.slice_in_dim, axis=axis)
    # A copy of the edge is as good as a pad, since its window holds the edge.
    edges = cut(x, 0, 1), cut(x, x.shape[axis] - 1, None)
    assert max(ends) < size
    parts = [edges[0]] * ends[0] + [x] + [edges[1]] * ends[1]
    x = jax.lax.concatenate(parts, axis)
    last = x.shape[axis] - size
    shifted = [cut(x, i, i + last + 1, stride=stride) for i in range(size)]
    x = functools.reduce(jax.numpy.maximum, shifted)
  return x


def _write_safetensors(network: Network, path: epath.Path) -> None:
  files.save_params(path, network.variables, network.about)


def _images_of(network: Network) -> jax.ShapeDtypeStruct:
  """Returns the outline of any number of images."""
  (n,), size = export.symbolic_shape("n"), network.image_size
  return jax.ShapeDtypeStruct((n, size, size, 3), np.uint8)


def _with_weights(network: Network) -> Callable[[jax.Array], jax.Array]:
  """Returns a function of images alone: its weights become constants."""
  variables = jax.device_get(network.variables)
  return lambda images: network.function(variables, images)


FORMATS = {
  "stablehlo": _write_stablehlo,
  "onnx": _write_onnx,
  "safetensors": _write_safetensors,
}
