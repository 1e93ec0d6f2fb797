"""The stages of GLIDE: one network each, and how it is walked."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.convert import files
from synthjax.diffusion import sample, schedule
from synthjax.errors import UserError
from synthjax.models.glide import Glide

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


def load_stage(
  name: str, block: Mapping[str, Any], dtype: str, copied: jax.sharding.Sharding
) -> tuple[Stage, Any]:
  """Returns a stage and its parameters, the latter on the devices.

  Args:
    name: "base" or "upsampler".
    block: `weights` (a file), `sampler`, `respacing` and optionally `start`.
    dtype: of the network's activations.
    copied: gives every device a copy.

  Raises:
    UserError: about unfit weights, or a sampler or a start that is not known.
  """
  params, about = files.load_params(block["weights"])
  if about.get("kind") != "glide" or bool(about.get("low_res")) != (
    name == "upsampler"
  ):
    raise UserError(
      f"{block['weights']} holds {about.get('kind')!r}, stage "
      f"{about.get('stage')!r}: config.generator.{name} needs a GLIDE {name}."
    )
  if block["sampler"] not in sample.SAMPLERS:
    raise UserError(
      f"Sampler {block['sampler']!r} of config.generator.{name} is not known; "
      f"choose one of {sorted(sample.SAMPLERS)}."
    )
  start = block.get("start", "noise")
  if start not in STARTS[: 2 if name == "upsampler" else 1]:
    raise UserError(
      f"config.generator.{name}.start={start!r} is not known; choose "
      f"{' or '.join(STARTS)} for the upsampler, and nothing for the base."
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
    walk=sample.SAMPLERS[block["sampler"]],
    start=start,
  )
  return stage, jax.device_put(params.get("params", params), copied)
