"""Image classifiers by name."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from synthjax.errors import unknown_names
from synthjax.models import resnet

CLASSIFIERS = {**resnet.MODELS}


def make_classifier(
  name: str, *, num_classes: int | None, dtype: str = "float32", **sizes: Any
) -> Any:
  """Returns the module that is called `name`.

  Args:
    name: a key of CLASSIFIERS.
    num_classes: k; None makes the module return its features.
    dtype: of the activations.
    **sizes: fields of the module that shall differ, such as `width`.

  Raises:
    UserError: for an unknown model or field.
  """
  if name not in CLASSIFIERS:
    raise unknown_names("model", [name], CLASSIFIERS)
  make = CLASSIFIERS[name]
  fields = {field.name for field in dataclasses.fields(make.func)}
  fields -= {"parent", "name", "num_classes"}
  if unknown := sizes.keys() - fields:
    raise unknown_names(f"field of {name},", sorted(unknown), fields)
  return make(num_classes=num_classes, dtype=jnp.dtype(dtype), **sizes)
