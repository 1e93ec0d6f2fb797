"""Encoders of images alone: DINOv2's class token, and FID's Inception.

Distances are measured by their features, so products are float32 on every
device ("highest").
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath

from synthjax.encoders import ImageEncoder, batching
from synthjax.encoders.resize import fit_image, stretch_image, stretch_images
from synthjax.models.dinov2 import model as dinov2s
from synthjax.models.inception import model as inceptions
from synthjax.weights import files

# As DINOv2's authors evaluate it: the shorter side to 256 px, and the middle
# 224 of them, 16 patches of 14 px.
PATCHES, MARGIN = 16, 8 / 7


def dinov2(path: epath.PathLike, *, batch_size: int) -> ImageEncoder:
  """Loads a DINOv2: its class token, from 224 px.

  Args:
    path: of weights whose kind is "dinov2".
    batch_size: images that each device encodes at once.
  """
  variables, about = files.load_params(path)
  model = dinov2s.make(**about["model"])
  crop = PATCHES * model.patch_size
  size = round(MARGIN * crop)
  return make_encoder(
    lambda variables, x: model.apply(variables, dinov2s.preprocess(x)),
    variables,
    fit=partial(fit_image, size=size, crop=crop),
    on_device=False,
    batch_size=batch_size,
    width=model.width,
    identity={
      "encoder": "dinov2",
      "weights": files.sha256(path),
      "pixels": f"bicubic, shorter side of {size} and middle of {crop}",
    },
  )


def inception(path: epath.PathLike, *, batch_size: int) -> ImageEncoder:
  """Loads FID's Inception, with the pixels of clean-fid.

  Parmar et al. (2022) showed how much a distance depends on how images are
  resized, and made one way a standard, the mode "clean" of clean-fid: the whole
  image, stretched to 299 x 299 px whatever its shape, each channel by Pillow's
  antialiased bicubic in floats, clipped to 0 to 255 and not rounded. So images
  of 64 or 256 px are enlarged, as in published figures. Figures by the older
  ways of TensorFlow and pytorch-fid, bilinear without antialiasing, differ.

  Args:
    path: of weights whose kind is "inception".
    batch_size: images that each device encodes at once.
  """
  variables, about = files.load_params(path)
  model, size = inceptions.make(**about["model"]), inceptions.SIZE
  return make_encoder(
    lambda variables, x: model.apply(
      variables, inceptions.preprocess(stretch_images(x, size))
    ),
    variables,
    fit=partial(stretch_image, size=size),
    on_device=jax.default_backend() != "cpu",
    batch_size=batch_size,
    width=model.num_features,
    identity={
      "encoder": "inception",
      "weights": files.sha256(path),
      "pixels": f"bicubic in floats to {size} x {size}, as clean-fid",
    },
  )


def make_encoder(
  function: Callable[[Any, jax.Array], jax.Array],
  variables: Any,
  *,
  fit: Callable[[np.ndarray], np.ndarray],
  on_device: bool,
  batch_size: int,
  width: int,
  identity: dict[str, Any],
) -> ImageEncoder:
  """Compiles a function of images; `batching` explains the arguments.

  Args:
    function: maps variables and images [n, h, w, 3] to [n, width].
    variables: of the function.
    fit: resizes an image on the host.
    on_device: leaves that to the function, where images have one size.
    batch_size: images that each device encodes at once.
    width: of the outputs.
    identity: see `Encoder`.
  """
  batch_size = batching.on_all_devices(batch_size)
  run = batching.in_batches(
    function,
    batching.replicate(variables),
    batch_size=batch_size,
    width=width,
  )
  stack = batching.stacked(fit, on_device=on_device)

  def encode_images(images: Sequence[np.ndarray]) -> np.ndarray:
    return run(map(stack, batching.chunks(images, batch_size)))

  # Small images stay small: Inception's own size is large, and of floats.
  fit = partial(batching.fitted, fit, may_wait=True)
  return ImageEncoder(encode_images, identity, fit)
