"""What the files of configs/ import: their argument, and shared blocks."""

from synthjax.config.arguments import parse_arg
from synthjax.config.presets import (
  EMBEDDED_PRESETS,
  PRESETS,
  data_set,
  embedded_pretraining,
  embedded_world,
  exports,
  finetuning_on_cifar100,
  real_images,
  released_clip,
  released_glide,
  released_t5,
  report,
  use_deit_finetuning,
  use_deit_recipe,
)
from synthjax.runtime.errors import unknown_names

__all__ = [
  "EMBEDDED_PRESETS",
  "PRESETS",
  "data_set",
  "embedded_pretraining",
  "embedded_world",
  "exports",
  "finetuning_on_cifar100",
  "parse_arg",
  "real_images",
  "released_clip",
  "released_glide",
  "released_t5",
  "report",
  "unknown_names",
  "use_deit_finetuning",
  "use_deit_recipe",
]
