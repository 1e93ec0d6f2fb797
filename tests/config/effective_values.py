"""Every value that a config gives its tasks, by path, with the defaults.

A config, its recipes and the defaults of its dataclasses are read as the tasks
read them. Entries of a tuple of blocks go by their name:
`few_shot.methods[CoOp].options.lr`.
"""

import dataclasses
import functools
import inspect

from synthjax import main
from synthjax.adapt.few_shot_methods import Method
from synthjax.config import schema
from synthjax.tasks.generate import RealGuidance
from synthjax.training import finetune, optimizer, pretraining, recipes


def values_of(config):
  """Returns path -> plain value of all blocks of a config."""
  values = {}
  for name in config:
    block = config[name]
    if name == "pretrain":
      block = dict(pretraining.read(pretraining.blocks_of(block.to_dict())))
      block = block.get(pretraining.ALONE, block)
    elif name == "transfer":
      block = dict(finetune.read(block.to_dict()))
      block = (
        block if len({*map(str, block.values())}) > 1 else block.popitem()[1]
      )
    elif name in main.TASKS | main.LOADED:
      if name == "detect":
        block = recipes.fill(block.to_dict(), linear=True)
      fields = schema.resolve(name, main.TASKS | main.LOADED).FIELDS
      block = schema.read(fields, block, f"config.{name}")
    flatten(block, name, values)
  return values


def flatten(value, path, values):
  """Adds the leaves of a value to `values`, each by its path."""
  if isinstance(value, Method):
    fields = dataclasses.asdict(value) | {"options": value.learner()}
  elif isinstance(value, RealGuidance):
    fields = _fields(value) | {"start_steps": tuple(value.steps().values())}
  elif dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = _fields(value)
  elif isinstance(value, functools.partial):
    fields = _arguments(value)
  elif hasattr(value, "_asdict"):
    fields = value._asdict()
  elif hasattr(value, "keys"):
    fields = {key: value[key] for key in value.keys()}
  elif isinstance(value, tuple | list) and value and _are_named(value):
    for block in value:
      flatten(block, f"{path}[{_name(block)}]", values)
    return
  else:
    values[path] = _plain(value)
    return
  for key, inner in fields.items():
    flatten(inner, f"{path}.{key}", values)


def _fields(block):
  return {f.name: getattr(block, f.name) for f in dataclasses.fields(block)}


def _arguments(call):
  """Returns a call's arguments; of an optimizer, its own and its schedule's."""
  functions = [call.func]
  if call.func is optimizer.make_optimizer:
    functions += [
      optimizer.make_rate,
      optimizer.OPTIMIZERS[call.keywords["name"]],
      optimizer.RATES[call.keywords.get("rate", "cosine")],
    ]
  empty, defaults = inspect.Parameter.empty, {}
  for function in functions:
    parameters = inspect.signature(function).parameters
    defaults |= {
      name: p.default
      for name, p in parameters.items()
      if p.default is not empty
    }
  own = {"function": getattr(call.func, "__name__", None)}
  return own | defaults | call.keywords


def _are_named(blocks):
  return all(_name(block) is not None for block in blocks)


def _name(block):
  if hasattr(block, "keys"):
    return block.get("name")
  return getattr(block, "name", None)


def _plain(value):
  if isinstance(value, tuple | list):
    return [_plain(item) for item in value]
  return value if isinstance(value, int | float | str | None) else str(value)
