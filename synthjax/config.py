"""What configs need: their argument, and a check for misspelt fields."""

import types
from collections.abc import Iterable, Mapping
from typing import Any

from synthjax.errors import UserError, unknown_names

_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def parse_arg(arg: str | None, **defaults: Any) -> types.SimpleNamespace:
  """Reads the "runlocal,shots=16" behind the colon of --config=FILE:...

  Args:
    arg: names and values, separated by commas; a name alone means True. None
      and "" change nothing.
    **defaults: every name with its default. A value is read as the type of
      its default, bool, int, float or str; one whose default is None stays a
      str.

  Returns:
    A namespace of all names, so that `arg.shots` is 16.

  Raises:
    UserError: about an unknown name, a name given twice, or a bad value.
  """
  values = {}
  given = [item.partition("=") for item in (arg or "").split(",") if item]
  names = [name.strip() for name, _, _ in given]
  if unknown := [name for name in names if name not in defaults]:
    raise unknown_names("config argument", unknown, defaults)
  for name, (_, equals, text) in zip(names, given, strict=True):
    if name in values:
      raise UserError(f"Config argument {name!r} is given twice in {arg!r}.")
    if not equals and not isinstance(defaults[name], bool):
      raise UserError(
        f"Config argument {name!r} needs a value: "
        f"{name}={defaults[name]} is its default."
      )
    text = text.strip() if equals else "true"
    values[name] = _read_value(name, text, defaults[name])
  return types.SimpleNamespace(**defaults | values)


def _read_value(name: str, text: str, default: Any) -> Any:
  kind = str if default is None else type(default)
  if kind not in (bool, int, float, str):
    raise TypeError(f"{name}={default!r}: only bool, int, float and str work.")
  try:
    return _BOOLS[text.lower()] if kind is bool else kind(text)
  except (KeyError, ValueError):
    raise UserError(
      f"Config argument {name}={text} is not of type {kind.__name__}; "
      f"its default is {default}."
    ) from None


def released_glide(batch_size: int = 64) -> dict[str, Any]:
  """Returns the block `generator` of the released GLIDE, as the paper samples.

  `python -m synthjax.weights fetch glide` gets its weights.
  """
  return dict(
    name="glide",
    base=dict(
      weights="released:glide/base.safetensors",
      sampler="ancestral",
      respacing="100",
    ),
    upsampler=dict(
      weights="released:glide/upsampler.safetensors",
      sampler="ddim",
      respacing="fast27",
    ),
    tokenizer="released:glide/tokenizer.json",
    guidance_scale=3.0,
    batch_size=batch_size,
    dtype="bfloat16",
  )


def released_clip(name: str = "clip_rn50") -> dict[str, Any]:
  """Returns the block `encoder` of a released CLIP.

  Args:
    name: that `python -m synthjax.weights fetch NAME` takes.
  """
  return dict(
    name="clip",
    weights=f"released:{name}/clip.safetensors",
    tokenizer=f"released:{name}/tokenizer.json",
    batch_size=256,
    dtype="float32",
  )


def released_t5(space: str) -> dict[str, Any]:
  """Returns the block `prompts.writer` of the paper's language model.

  Args:
    space: a label space; the authors' labels of EuroSAT have an article, "a
      River", "a Annual Crop Land", ...
  """
  return dict(
    name="t5",
    weights="released:t5_common_gen/t5.safetensors",
    tokenizer="released:t5_common_gen/spiece.model",
    article=space == "eurosat",
  )


CLIPS = {"vit": "clip", "resnet": "clip_resnet"}


def embedded_world(tower: str = "vit") -> dict[str, Any]:
  """Returns the blocks `generator` and `encoder` of the embedded world.

  Small models that the package holds; what they were trained on and how they
  are sampled was chosen on the validation style.

  Args:
    tower: of the encoder's images, "vit" or "resnet".
  """
  tokenizer = "embedded:tokenizer.json"
  generator = dict(
    name="glide",
    # The noisiest steps are left out: a short training hardly learns them.
    base=dict(
      weights="embedded:base.safetensors", sampler="ddim", respacing="12<960"
    ),
    upsampler=dict(
      weights="embedded:upsampler.safetensors",
      sampler="ddim",
      respacing="4<250",
      start="low_res",
    ),
    tokenizer=tokenizer,
    guidance_scale=3.0,
    batch_size=64,
    dtype="float32",
  )
  encoder = dict(
    name="clip",
    weights=f"embedded:{CLIPS[tower]}.safetensors",
    tokenizer=tokenizer,
    batch_size=64,
  )
  return dict(generator=generator, encoder=encoder)


def validate(
  block: Mapping[str, Any],
  allowed: Iterable[str],
  *,
  name: str,
  required: Iterable[str] = (),
) -> None:
  """Checks the keys of a block of a config.

  Args:
    block: the block, such as `config.generate`.
    allowed: every key that it may hold.
    name: of the block, for the message.
    required: the keys that it must hold.

  Raises:
    UserError: naming every unknown key with the nearest allowed one, or every
      missing key.
  """
  allowed = set(allowed) | set(required)
  if unknown := [key for key in block if key not in allowed]:
    raise unknown_names(f"config.{name} field", unknown, allowed)
  if missing := [key for key in required if key not in block]:
    raise UserError(
      f"config.{name} lacks {', '.join(missing)}; "
      f"it holds {', '.join(sorted(block)) or 'nothing'}."
    )


def unknown_fields(config: Mapping, fields: Iterable[str]) -> UserError | None:
  """Returns an error about the dotted `fields` that a config does not hold."""
  problems = []
  for field in fields:
    block, path = config, ["config"]
    for key in field.split("."):
      if not hasattr(block, "keys"):
        problems.append(f"{'.'.join(path)} is a value and has no fields.")
        break
      if key not in block:
        error = unknown_names(f"{'.'.join(path)} field", [key], block.keys())
        problems.append(str(error))
        break
      block, path = block[key], [*path, key]
  return UserError("\n".join(problems)) if problems else None
