"""Converts a file of released weights of any family.

A family's mapping stands beside its network, in `models/FAMILY/weights`.
"""

import importlib
import inspect
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_json
from synthjax.weights import read, snapshots
from synthjax.weights.catalogue import FAMILIES

_PART = re.compile(r"-\d+-of-\d+\.")


class Converted(NamedTuple):
  """A network."""

  family: str  # of FAMILIES
  variables: dict[str, Any]  # float16 stays float16
  description: dict[str, Any]  # for `files.save_params`
  note: str  # for people: what the weights did not show; "" is nothing


def convert(
  source: pathlib.Path,
  families: Sequence[str],
  options: Mapping[str, Any] | None = None,
  *,
  name: str | None = None,
  model: str | None = None,
  configs: Mapping[str, pathlib.Path] | None = None,
) -> Converted:
  """Converts one network.

  Args:
    source: a file of weights, or the index of several.
    families: of FAMILIES; the first that takes the weights is theirs.
    options: arguments of `from_released`.
    name: of the source in the description; by default that of the file.
    model: a network of the family that the weights are said to be, where its
      sizes fit.
    configs: of `snapshots.CONFIGS`, where they do not lie beside the source.

  Raises:
    UserError: when the weights cannot be read, or no family takes them.
  """
  weights, options = read.read_weights(source), dict(options or {})
  parts, problems = read.parts_of(source), []
  for family in families:
    module = importlib.import_module(FAMILIES[family])
    stated, config = {}, None
    takes = inspect.signature(module.from_released).parameters
    if "settings" in takes:
      beside = [
        (configs or {}).get(n, source.parent / n) for n in snapshots.CONFIGS
      ]
      config = next((path for path in beside if path.is_file()), None)
      stated["settings"] = read_json(config, dict) if config else None
    if "model" in takes:
      stated["model"] = model
    try:
      variables, about = module.from_released(weights, **stated | options)
    except UserError as error:
      hint = f" (Its config: {config}.)" if config else ""
      problems.append(f"{error}{hint}")
      continue
    digests = {path.name: artifacts.sha256(path) for path in parts}
    sources = {name or source.name: artifacts.sha256(source)} | digests
    note = ""
    if family == "clip":
      note = _clip_note(about["model"], options, config)
    return Converted(family, variables, about | {"sources": sources}, note)
  hint = ""
  if _PART.search(source.name):
    hint = " It is one of several files: give their index (*.index.json)."
  raise UserError(
    f"{source} cannot be converted: {' Nor as another: '.join(problems)}{hint}"
  )


def _clip_note(
  model: Mapping[str, Any],
  options: Mapping[str, Any],
  stated: pathlib.Path | None,
) -> str:
  """Says what the weights of a CLIP do not show, and where it is from."""
  model = {"activation": "quick_gelu"} | model
  shown = ("vision_heads", "text_heads", "heads", "activation")
  values = [f"{field}={model[field]}" for field in shown if field in model]
  whence = f"by {stated}" if stated else "by OpenAI's rule"
  return f"{', '.join(values)}, {'as given' if options else whence}."
