"""Text-to-image generators behind one interface."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Generator(NamedTuple):
  """What every generator offers.

  `draw(prompts, rngs, references=None)` maps n prompts and n keys to uint8
  images [n, h, w, 3]. An image depends on its prompt, its key and its reference
  alone, not on what else is in the batch.
  """

  draw: Callable[..., np.ndarray]
  image_size: int  # px
  identity: dict[str, Any]  # plain data that tells weights and sampling apart
