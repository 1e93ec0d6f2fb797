"""The blocks of generators, encoders and writers: released or embedded."""

from collections.abc import Mapping
from typing import Any

from synthjax.errors import unknown_names

# How a released GLIDE walks: sampler and respacing of the base and upsampler.
# "fast" has a fifth of the base's steps and a third of the upsampler's. Its
# like was chosen in the embedded world, by the accuracy of what learns from the
# images; on the released weights it has not been run.
PRESETS = {
  "paper": (("ancestral", "100"), ("ddim", "fast27")),
  "fast": (("dpmpp_2m", "logsnr20"), ("dpmpp_2m", "logsnr10")),
}
EMBEDDED_PRESETS = {
  # The noisiest steps are left out: a short training hardly learns them.
  "paper": (("ddim", "12<960"), ("ddim", "4<250")),
  "fast": (("dpmpp_2m", "logsnr6<960"), ("dpmpp_2m", "2<250")),
}


def _walks(presets: Mapping[str, Any], preset: str) -> list[dict[str, str]]:
  """Returns the fields `sampler` and `respacing` of the base and upsampler."""
  if preset not in presets:
    raise unknown_names("preset", [preset], presets)
  return [
    dict(sampler=sampler, respacing=respacing)
    for sampler, respacing in presets[preset]
  ]


def released_glide(
  batch_size: int = 64, preset: str = "paper"
) -> dict[str, Any]:
  """Returns the block `generator`: the released GLIDE.

  Args:
    batch_size: images drawn at once.
    preset: a key of PRESETS.
  """
  base, upsampler = _walks(PRESETS, preset)
  return dict(
    name="glide",
    base=dict(weights="released:glide/base.safetensors", **base),
    upsampler=dict(weights="released:glide/upsampler.safetensors", **upsampler),
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

  The authors' labels of EuroSAT have an article, "a River", ...
  """
  return dict(
    name="t5",
    weights="released:t5_common_gen/t5.safetensors",
    tokenizer="released:t5_common_gen/spiece.model",
    article=space == "eurosat",
  )


CLIPS = {"vit": "clip", "resnet": "clip_resnet"}


def embedded_world(tower: str = "vit", preset: str = "paper") -> dict[str, Any]:
  """Returns the blocks `generator` and `encoder` of the embedded world.

  Small models that the package holds; what they were trained on and how they
  are sampled was chosen on the validation style.

  Args:
    tower: of the encoder's images, "vit" or "resnet".
    preset: of the generator, a key of EMBEDDED_PRESETS.
  """
  base, upsampler = _walks(EMBEDDED_PRESETS, preset)
  tokenizer = "embedded:tokenizer.json"
  generator = dict(
    name="glide",
    base=dict(weights="embedded:base.safetensors", **base),
    upsampler=dict(
      weights="embedded:upsampler.safetensors", start="low_res", **upsampler
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
