"""Draws labelled images, filters them and learns recognisers from them.

| module             | subject                                                |
| ------------------ | ------------------------------------------------------ |
| main, config       | runs the tasks of a config; the schema of its blocks   |
| tasks              | the tasks, one module each                             |
| labels             | classes and their names                                |
| prompts            | texts about classes                                    |
| generators         | draw images: GLIDE, Stable Diffusion, FLUX.2           |
| diffusion          | the maths of sampling                                  |
| encoders           | CLIP and others, to score and filter by                |
| models, tokenizers | the networks, and what they read                       |
| weights            | files of weights; each model converts its own          |
| data               | images: real, generated, in batches, exported          |
| adapt              | recognisers on CLIP                                    |
| training           | pre-training and finetuning                            |
| detection          | Faster R-CNN                                           |
| evals, report      | measures; the page of a run, and the card              |
| embedded           | the small world in which every config runs             |
| runtime            | what every room needs: folders, locks, errors, devices |
| classify, detect   | commands that use what a run has learned,              |
| evaluate, export   | and `push`, `verify`, `datasets`                       |
"""

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
