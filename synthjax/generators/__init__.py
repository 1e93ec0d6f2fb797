"""Text-to-image generators behind one interface."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Generator(NamedTuple):
  """What every generator offers.

  `draw(prompts, rngs)` maps n prompts and n keys to uint8 images [n, h, w, 3];
  `stream` takes the same and yields them a batch at a time, while the device is
  at the next one. `warm_up(start_steps)` compiles what they would.
  With `references`, real uint8 images [n, r, r, 3], and `start_steps` it starts
  from those, noised, so many steps before the end (real guidance, Section 3.2).
  An image depends on its prompt, its key and its reference alone, not on what
  else is in the batch.
  """

  draw: Callable[..., np.ndarray]
  stream: Callable[..., Iterator[np.ndarray]]
  batch_size: int  # images drawn at once
  image_size: int  # px
  reference_size: int  # r, px
  num_steps: int  # the most start_steps there can be
  identity: dict[str, Any]  # plain data that tells weights and sampling apart
  warm_up: Callable[..., None] = lambda start_steps=None: None
