"""Recipes of RECIPES, filled with what a user gives."""

from collections.abc import Mapping
from typing import Any

from synthjax.errors import unknown_names
from synthjax.train.recipe import RECIPES, for_batch_size


def fill(fields: Mapping[str, Any], *, linear: bool = False) -> dict[str, Any]:
  """Returns the fields with those of the recipe that `recipe` names.

  What is given wins: of an optimizer each field, unless another optimizer is
  given, which then is taken whole.

  Args:
    fields: of a config; what a recipe does not know stays.
    linear: fits the recipe to the batch size that is given, by the linear
      rule.

  Raises:
    UserError: for an unknown recipe.
  """
  name = fields.get("recipe")
  if name is None:
    return dict(fields)
  if name not in RECIPES:
    raise unknown_names("recipe", [name], RECIPES)
  recipe = RECIPES[name]
  if linear and fields.get("batch_size"):
    recipe = for_batch_size(recipe, fields["batch_size"])
  given, stated = fields.get("optimizer") or {}, recipe["optimizer"]
  if given.get("name", stated["name"]) == stated["name"]:
    given = stated | given
  return recipe | dict(fields) | {"optimizer": dict(given)}
