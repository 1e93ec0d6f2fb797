"""A config of the task `prompts`, for a tiny label space."""

import ml_collections
import tiny_world

from synthjax.prompts import strategies


def prompt_config(folder, **prompts):
  """Returns a config whose block `prompts` has other fields.

  Args:
    folder: gets the label space.
    **prompts: fields of the block; a writer takes the place of the grammar.
  """
  config = ml_collections.ConfigDict()
  config.tasks, config.seed = ("prompts",), 0
  config.space = tiny_world.write_space(folder)
  config.prompts = {"strategies": ("basic", "enhanced"), "per_class": 5}
  config.prompts.grammar = "drawing"
  config.prompts.update(prompts)
  return config


def read_prompts(path):
  """Reads prompts.jsonl into dicts."""
  return [prompt._asdict() for prompt in strategies.open_prompts(path)]
