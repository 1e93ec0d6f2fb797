"""JPEG files by simplejpeg where it is installed: Pillow's pixels, sooner.

Both are libjpeg-turbo, with its accurate transform and smooth colours. What
simplejpeg saves is Pillow's copy of all pixels from four bytes each to three.
So only whole images gain, not parts that Pillow resizes.
"""

from typing import BinaryIO

import numpy as np
from PIL import Image

try:
  import simplejpeg
except ImportError:
  simplejpeg = None


def decode(file: BinaryIO) -> np.ndarray | None:
  """Returns a JPEG of three colours as uint8 [h, w, 3], as it is stored.

  It is None where Pillow has to decode, or to say what is wrong: without
  simplejpeg, and of other files, other colours, damaged and too large images.
  """
  if simplejpeg is None:
    return None
  file.seek(0)
  content = file.read()
  if not content.startswith(b"\xff\xd8\xff"):
    return None
  try:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
    most = Image.MAX_IMAGE_PIXELS
    if colours != "YCbCr" or (most and height * width > most):
      return None
    return simplejpeg.decode_jpeg(content)
  except ValueError:  # also about what Pillow would repair
    return None
