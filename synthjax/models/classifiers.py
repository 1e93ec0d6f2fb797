"""Image classifiers by name."""

from collections.abc import Mapping
from typing import Any

from synthjax.config import schema
from synthjax.models.resnet import model as resnet
from synthjax.models.vit import model as vit

CLASSIFIERS = {**resnet.MODELS, **vit.MODELS}

# The heads, from features to logits: of ResNets, of MoCo's, of ViTs.
HEADS = ("fc", "fc_0", "fc_2", "head")
# A block `model`: a key of CLASSIFIERS, and fields of its module that differ.
MODEL = schema.Choice("name", CLASSIFIERS, filled=("num_classes",))


def make_classifier(
  name: str | None = None,
  *,
  num_classes: int | None,
  dtype: str = "float32",
  **sizes: Any,
) -> Any:
  """Returns the module that is called `name`.

  Args:
    name: a key of CLASSIFIERS.
    num_classes: k; None makes the module return its features.
    dtype: of the activations.
    **sizes: fields of the module to change, such as `width`.

  Raises:
    UserError: for an unknown model or field, or a wrong value.
  """
  block = {"name": name, "dtype": dtype, **sizes}
  return schema.read(MODEL, block, "model")(num_classes=num_classes)


def describe(family: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict:
  """Returns the shortest arguments of `make_classifier` that give `sizes`.

  Args:
    family: the names to choose from, such as `resnet.MODELS`.
    sizes: fields of the module, plain data with lists for tuples.

  Returns:
    {"name": ...} and the sizes that differ from those of the named model.
  """

  def differing(name):
    module = make_classifier(name, num_classes=None)
    plain = lambda v: list(v) if isinstance(v, tuple) else v
    return {k: v for k, v in sizes.items() if plain(getattr(module, k)) != v}

  name = min(family, key=lambda name: len(differing(name)))
  return {"name": name} | differing(name)


def backbone(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a classifier's variables without its head.

  They fit the same model with `num_classes=None`, and start the same model with
  other classes and a new head.
  """
  params = {k: v for k, v in variables["params"].items() if k not in HEADS}
  return {**variables, "params": params}
