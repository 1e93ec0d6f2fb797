"""The random key of each image, whatever the batches."""

import collections
import hashlib
import json
from collections.abc import Sequence

import jax
import numpy as np

from synthjax.data.generated.plan import Row


def image_keys(rows: Sequence[Row]) -> jax.Array:
  """Makes the key of each image from its seed, class, prompt and number.

  So an image depends neither on other images nor on the number of devices.
  A text that several prompts of a class share gives other images for each of
  them: see `Row.repeat`.
  """
  data = np.empty((len(rows), 2), np.uint32)
  for i, row in enumerate(rows):
    origin = [row.seed, row.class_name, row.prompt, row.number]
    if row.reference is not None:
      origin += [row.reference, row.start_steps]
    if row.repeat:
      origin.append({"repeat": row.repeat})
    digest = hashlib.sha256(json.dumps(origin).encode()).digest()
    data[i] = np.frombuffer(digest[:8], "<u4")
  return jax.random.wrap_key_data(data, impl="threefry2x32")


def prompt_keys(prompts: Sequence[str], seed: int) -> jax.Array:
  """Makes a key [n] for each prompt; those of equal prompts differ."""
  seen, rows = collections.Counter(), []
  for prompt in prompts:
    rows.append(Row("", 0, "", prompt, seed, seen[prompt]))
    seen[prompt] += 1
  return image_keys(rows)
