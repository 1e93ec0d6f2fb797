"""DINOv2 as an encoder of images: its class token, from 224 px."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from etils import epath

from synthjax.encoders import ImageEncoder, batching
from synthjax.encoders.resize import fit_image
from synthjax.models.dinov2 import model as dinov2
from synthjax.weights import files

# As the authors evaluate it: the shorter side to 256 px, and the middle 224 of
# them, 16 patches of 14 px.
PATCHES, MARGIN = 16, 8 / 7


def load(path: epath.PathLike, *, batch_size: int) -> ImageEncoder:
  """Loads the weights; what is compiled is compiled when first used.

  Args:
    path: of weights whose kind is "dinov2".
    batch_size: images encoded at once.
  """
  variables, about = files.load_params(path)
  model = dinov2.make(**about["model"])
  run = batching.in_batches(
    lambda variables, x: model.apply(variables, dinov2.preprocess(x)),
    batching.replicate(variables),
    batch_size=batch_size,
    width=model.width,
  )
  crop = PATCHES * model.patch_size
  size = round(MARGIN * crop)
  fit = partial(fit_image, size=size, crop=crop)
  stack = batching.stacked(fit, on_device=False)

  def encode_images(images: Sequence[np.ndarray]) -> np.ndarray:
    return run(map(stack, batching.chunks(images, batch_size)))

  identity = {
    "encoder": "dinov2",
    "weights": files.sha256(path),
    "pixels": f"bicubic, shorter side of {size} and middle of {crop}",
  }
  return ImageEncoder(encode_images, identity)
