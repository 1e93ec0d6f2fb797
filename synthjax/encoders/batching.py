"""Runs a network over any number of rows in batches of one shape."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.data.pipeline import given
from synthjax.runtime import memory
from synthjax.runtime import mesh as meshes

# Each size of images that the device resizes is compiled; others wait for the
# host.
MAX_SHAPES = 8
# Pixels of an image that may wait to be resized; larger ones, as photographs
# are, are reduced when they are read.
MAX_WAITING = 512 * 512


def replicate(variables: Any) -> Any:
  """Puts variables on every device of this process."""
  return jax.device_put(variables, meshes.copied(_mesh()))


def on_all_devices(batch_size: int) -> int:
  """Returns the rows of a batch of so many on each device of this process."""
  return batch_size * _mesh().size


def in_batches(
  function: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  *,
  batch_size: int,
  width: int,
  precision: str = "highest",
) -> Callable[[Iterable[np.ndarray]], np.ndarray]:
  """Compiles a function, which then maps batches to the features of all rows.

  Args:
    function: maps variables and rows [batch_size, ...] to [batch_size, width].
    variables: of `replicate`.
    batch_size: smaller batches are filled up, so that one shape is compiled.
    width: of the features.
    precision: of products of float32; see `schema.Precision`.

  Raises:
    UserError: when it is first called, about a batch that does not fit.
  """
  mesh = _mesh()  # each process encodes for itself
  copied, split = meshes.copied(mesh), meshes.split(mesh)
  compiled = memory.checked(
    jax.jit(function, in_shardings=(copied, split), out_shardings=split),
    held=variables,
    batch_size=batch_size // mesh.size,
    field="batch_size",
  )

  def encode(batches: Iterable[np.ndarray]) -> np.ndarray:
    def outputs():
      for batch in batches:
        lack = batch_size - len(batch)
        filled = np.pad(batch, [(0, lack)] + [(0, 0)] * (batch.ndim - 1))
        # Where there are several processes, `jit` takes no arrays of the host.
        rows = jax.device_put(filled, split)
        with jax.default_matmul_precision(precision):
          features = compiled(variables, rows)
        yield features, len(batch)

    empty = np.zeros((0, width), np.float32)
    done = meshes.fetch_ahead(outputs())
    return np.concatenate([empty, *(rows[:count] for rows, count in done)])

  return encode


def chunks(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
  """Cuts rows into batches, the last of which may be smaller."""
  for first in range(0, len(rows), size):
    yield rows[first : first + size]


class Fitted(NamedTuple):
  """An image that has been resized for its encoder."""

  pixels: np.ndarray


def fitted(
  fit: Callable[[np.ndarray], np.ndarray], image: np.ndarray, *, may_wait: bool
) -> np.ndarray | Fitted:
  """Resizes an image as it is read, so that many are held at little memory.

  Args:
    fit: resizes it on the host.
    image: [h, w, 3].
    may_wait: leaves an image of up to MAX_WAITING pixels as it is.
  """
  height, width = np.shape(image)[:2]
  if may_wait and height * width <= MAX_WAITING:
    return image
  return Fitted(fit(image))


def stacked(
  fit: Callable[[np.ndarray], np.ndarray], *, on_device: bool
) -> Callable[[Sequence[np.ndarray | Fitted]], np.ndarray]:
  """Returns what makes one array of a batch of images, `fitted` or not.

  Args:
    fit: resizes an image on the host.
    on_device: leaves images of one size as they are, as long as no more than
      MAX_SHAPES sizes are left so.
  """
  left: set[tuple[int, ...]] = set()

  def stack(images: Sequence[np.ndarray | Fitted]) -> np.ndarray:
    given.images("images", images, besides=Fitted)
    if on_device and not any(isinstance(image, Fitted) for image in images):
      shapes = {np.shape(image) for image in images}
      if len(shapes) == 1 and (shapes <= left or len(left) < MAX_SHAPES):
        left.update(shapes)
        return np.stack(images)
    return np.stack(
      [
        image.pixels if isinstance(image, Fitted) else fit(image)
        for image in images
      ]
    )

  return stack


def _mesh() -> Any:
  return meshes.make_mesh(local=True)
