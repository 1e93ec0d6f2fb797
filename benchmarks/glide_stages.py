"""The released GLIDE's two networks, by sizes and random weights."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.made_up import repeated_noise
from benchmarks.timing import Compiled, compile_timed, plain_flops

GUIDANCE_SCALE = 3.0


class Stage(NamedTuple):
  """A network of the cascade as it was released."""

  sizes: dict[str, Any]  # fields of models.glide.Glide
  image_size: int  # px
  low_res: int | None  # px of the small image
  betas: str  # of schedule.BETAS
  guidance_scale: float | None


RELEASED = {
  "base": Stage({}, 64, None, "squared_cosine", GUIDANCE_SCALE),
  "upsampler": Stage(
    dict(
      channel_mult=(1, 1, 2, 2, 4, 4),
      num_res_blocks=2,
      attention_downsamples=(8, 16, 32),
    ),
    256,
    64,
    "linear",
    None,
  ),
}
_SMALL = dict(
  text_context=8,
  text_width=16,
  text_layers=1,
  text_heads=2,
  model_channels=32,
  channel_mult=(1, 2),
  num_res_blocks=1,
  attention_downsamples=(2,),
  head_channels=16,
)
# Instead of them, for tests.
TINY = {
  "base": Stage(_SMALL, 8, None, "squared_cosine", GUIDANCE_SCALE),
  "upsampler": Stage(_SMALL, 16, 8, "linear", None),
}


def make_model(stage: Stage, dtype: str) -> tuple[Any, dict]:
  """Returns a Glide and random variables, drawn without compiling."""
  import jax
  import jax.numpy as jnp

  from synthjax.models.glide.model import Glide

  model = Glide(**stage.sizes, dtype=jnp.dtype(dtype))
  side = 2 ** (len(model.channel_mult) - 1)  # the smallest that works
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  tokens = jax.ShapeDtypeStruct((1, model.text_context), jnp.int32)
  like = jax.eval_shape(
    model.init,
    jax.random.key(0),
    images,
    jax.ShapeDtypeStruct((1,), jnp.int32),
    tokens,
    tokens,
    images if stage.low_res else None,
  )
  rng = np.random.default_rng(0)
  noise = repeated_noise(rng)

  def fill(path, x):
    values = noise(x.shape)
    return values + (path[-1].key == "scale")

  return model, jax.tree_util.tree_map_with_path(fill, like)


def keep_one(steps: Any) -> Any:
  """Cuts a schedule down to one step, in its middle: each costs the same."""
  middle = len(steps.timestep) // 2
  return type(steps)(*(table[middle : middle + 1] for table in steps))


def our_step(
  stage: Stage,
  steps: Any,
  sampler: str,
  *,
  batch: int,
  dtype: str,
  compiled: bool = True,
) -> Compiled:
  """Compiles one step of a stage's walk, for prompts that were read before.

  Without `compiled`, only its FLOPs are counted: the rest is of no use.
  """
  import jax
  import jax.numpy as jnp

  from synthjax.diffusion import guidance, samplers, schedule
  from synthjax.models.glide.model import Text

  model, variables = make_model(stage, dtype)
  betas = schedule.BETAS[stage.betas]()
  prompts = batch * (1 if stage.guidance_scale is None else 2)
  draw = lambda *shape: np.random.default_rng(0).normal(size=shape)
  side, low = stage.image_size, stage.low_res
  arrays = (
    variables,
    draw(batch, side, side, 3).astype(np.float32),
    Text(
      draw(prompts, 4 * model.model_channels).astype(np.float32),
      draw(prompts, model.text_context, model.text_width).astype(model.dtype),
    ),
    low and draw(batch, low, low, 3).astype(np.float32),
    jax.random.split(jax.random.key(0), batch),
  )

  def step(variables, x, text, low_res, rngs):
    def predict(x, t):
      return model.apply(variables, x, t, text, low_res, method="predict")

    if stage.guidance_scale is not None:
      predict = guidance.classifier_free(predict, stage.guidance_scale)
    denoise = guidance.from_noise(predict, betas)
    noise = samplers.image_noise(rngs, x.shape[1:])
    return samplers.SAMPLERS[sampler](denoise, steps, jnp.asarray(x), noise)

  if not compiled:
    flops = plain_flops(jax.jit(step), *arrays)
    return Compiled(None, seconds=0.0, flops=flops, peak_bytes=0)
  arrays = jax.device_put(arrays)
  made = compile_timed(jax.jit(step), *arrays)
  run = lambda: jax.block_until_ready(made.run(*arrays))
  return made._replace(run=run)


def write_weights(folder: pathlib.Path, stages: Mapping[str, Stage]) -> None:
  """Writes NAME.safetensors for each stage, as a generator reads them."""
  from synthjax.weights import files

  for name, stage in stages.items():
    _, variables = make_model(stage, "float32")
    description = stage._asdict() | {"kind": "glide", "stage": name}
    description["model"] = description.pop("sizes")
    del description["guidance_scale"]
    files.save_params(
      folder / f"{name}.safetensors", variables["params"], description
    )
