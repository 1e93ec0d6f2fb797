"""FID's Inception as an encoder of images, with the pixels of clean-fid.

Parmar et al. (2022) showed how much a distance depends on how images are
resized, and made one way of it a standard, the mode "clean" of clean-fid: the
whole image, stretched to 299 x 299 px whatever its shape, each channel by
Pillow's antialiased bicubic in floats, clipped to 0 to 255 and not rounded.
So images of 64 or 256 px are enlarged, as in published figures. Figures by the
older ways of TensorFlow and pytorch-fid, bilinear without antialiasing, differ.
"""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from etils import epath

from synthjax.encoders import ImageEncoder, batching
from synthjax.encoders.resize import stretch_image, stretch_images
from synthjax.models.inception import model as inception
from synthjax.weights import files


def load(path: epath.PathLike, *, batch_size: int) -> ImageEncoder:
  """Loads the weights; what is compiled is compiled when first used.

  Args:
    path: of weights whose kind is "inception".
    batch_size: images encoded at once.
  """
  variables, about = files.load_params(path)
  model, size = inception.make(**about["model"]), inception.SIZE
  run = batching.in_batches(
    lambda variables, x: model.apply(
      variables, inception.preprocess(stretch_images(x, size))
    ),
    batching.replicate(variables),
    batch_size=batch_size,
    width=model.num_features,
  )
  fit = partial(stretch_image, size=size)
  stack = batching.stacked(fit, on_device=jax.default_backend() != "cpu")

  def encode_images(images: Sequence[np.ndarray]) -> np.ndarray:
    return run(map(stack, batching.chunks(images, batch_size)))

  identity = {
    "encoder": "inception",
    "weights": files.sha256(path),
    "pixels": f"bicubic in floats to {size} x {size}, as clean-fid",
  }
  return ImageEncoder(encode_images, identity)
