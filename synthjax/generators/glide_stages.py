"""The stages of GLIDE: one network each, and how it is walked."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from synthjax.diffusion import samplers, schedule
from synthjax.models.glide.model import Glide
from synthjax.runtime.errors import UserError, check_fields
from synthjax.weights import files

# What the upsampler's walk starts from: noise, as GLIDE's does, or the enlarged
# small image, noised up to the first step. The latter suits few steps that
# leave the noisiest out ("4<250").
STARTS = ("noise", "low_res")


class Stage(NamedTuple):
  """One network of the cascade, and how it is walked."""

  model: Glide
  image_size: int  # px
  betas: np.ndarray  # [T]
  steps: schedule.Schedule
  walk: Callable  # of sample.SAMPLERS
  start: str  # of STARTS


_NEEDED = ("weights", "sampler", "respacing")


def check_stage(name: str, block: Mapping[str, Any]) -> None:
  """Checks the fields of a stage, and that its weights are there.

  Args:
    name: "base" or "upsampler".
    block: as `load_stage` reads it.

  Raises:
    UserError: about fields that are unknown or missing, a sampler or a start
      that is not known, or no weights.
  """
  check_fields(f"config.generator.{name}", block, ["start"], _NEEDED)
  if block["sampler"] not in samplers.SAMPLERS:
    raise UserError(
      f"Sampler {block['sampler']!r} of config.generator.{name} is not known; "
      f"choose one of {sorted(samplers.SAMPLERS)}."
    )
  start = block.get("start", STARTS[0])
  if start not in STARTS[: 2 if name == "upsampler" else 1]:
    raise UserError(
      f"config.generator.{name}.start={start!r} is not known; choose "
      f"{' or '.join(STARTS)} for the upsampler, and nothing for the base."
    )
  schedule.kept_timesteps(block["respacing"])  # says what it cannot read
  locate(name, block)


def locate(name: str, block: Mapping[str, Any]) -> epath.Path:
  """Finds the file of a stage's weights; see `files.locate`."""
  return files.locate(
    block["weights"] and os.fspath(block["weights"]),
    field=f"generator.{name}.weights",
    family="glide",
  )


def load_stage(
  name: str, block: Mapping[str, Any], dtype: str, copied: jax.sharding.Sharding
) -> tuple[Stage, Any]:
  """Returns a stage and its parameters, the latter on the devices.

  Args:
    name: "base" or "upsampler".
    block: `weights` (see `files.locate`), `sampler`, `respacing` and optionally
      `start`.
    dtype: of the network's activations.
    copied: gives every device a copy.

  Raises:
    UserError: as `check_stage`, or about unfit weights.
  """
  check_stage(name, block)
  params, about = files.load_params(locate(name, block))
  if about.get("kind") != "glide" or bool(about.get("low_res")) != (
    name == "upsampler"
  ):
    raise UserError(
      f"{block['weights']} holds {about.get('kind')!r}, stage "
      f"{about.get('stage')!r}: config.generator.{name} needs a GLIDE {name}."
    )
  sizes = about["model"] | {"dtype": jnp.dtype(dtype)}
  for key in ("channel_mult", "attention_downsamples"):
    sizes[key] = tuple(sizes[key])
  betas = schedule.BETAS[about["betas"]]()
  stage = Stage(
    model=Glide(**sizes),
    image_size=about["image_size"],
    betas=betas,
    steps=schedule.respace(betas, block["respacing"]),
    walk=samplers.SAMPLERS[block["sampler"]],
    start=block.get("start", STARTS[0]),
  )
  return stage, jax.device_put(params.get("params", params), copied)
