"""Draws labelled images, filters them and learns recognisers from them."""

import importlib
from typing import Any

# Imported when they are used, so that `import synthjax` takes no seconds.
_LAZY = {
  "load_generator": "synthjax.generators:load_generator",
  "load_encoder": "synthjax.encoders:load_encoder",
  "load_space": "synthjax.labels.spaces:load_space",
  "read_image": "synthjax.data.pipeline.image_files:read_pixels",
  "score_images": "synthjax.data.generated.scores:score_images",
  "select_images": "synthjax.data.generated.filters:select",
  "zero_shot_head": "synthjax.adapt.feature_sets:zero_shot_head",
  "tune_head": "synthjax.adapt.linear_head:fit",
  "make_classifier": "synthjax.adapt.classifier:of_head",
  "load_classifier": "synthjax.adapt.classifier:load",
  "evaluate_classifier": "synthjax.adapt.evaluation:evaluate",
  "export_network": "synthjax.adapt.serving:write",
  "open_images": "synthjax.data.generated.drawn_images:open_run",
  "read_results": "synthjax.report.results:read_run",
}
__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
  if name == "__version__":
    return _version()
  if name not in _LAZY:
    raise AttributeError(f"module 'synthjax' has no attribute {name!r}")
  module, _, attribute = _LAZY[name].partition(":")
  return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
  return sorted([*globals(), *__all__])


def _version() -> str:
  from importlib import metadata

  try:
    return metadata.version("synthjax")
  except metadata.PackageNotFoundError:  # run from a clone, not installed
    return "0+unknown"
