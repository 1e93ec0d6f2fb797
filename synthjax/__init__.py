"""Draws labelled images, filters them and learns recognisers from them."""

import importlib
from typing import Any

# Imported when they are used, so that `import synthjax` takes no seconds.
_LAZY = {"load_classifier": "synthjax.adapt.classifier:load"}
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
