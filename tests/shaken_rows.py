"""A random transform of the input pipeline, for tests of its order."""

import numpy as np


def shake(example, rng):
  """Adds noise to `x`, of the generator that the pipeline passes."""
  return example | {"x": example["x"] + rng.normal(size=2).astype(np.float32)}
