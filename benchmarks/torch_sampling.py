"""GLIDE's sampling loops in PyTorch, as the benchmark of sampling runs them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import torch_timing
from benchmarks.torch_glide import Glide, Text
from synthjax.diffusion.schedule import Schedule

# (x_t [n, c, h, w], t [n]) -> [n, 2c, h, w]: noise, and its variance in -1..1.
Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
TEMPERATURE = 0.997  # of the upsampler's first noise


def make_predictor(
  forward: Callable[..., torch.Tensor],
  text: Text,
  *,
  guidance_scale: float | None = None,
  low_res: torch.Tensor | None = None,
) -> Predictor:
  """Returns a predictor of n images.

  Args:
    forward: a Glide, or its compiled version.
    text: of n prompts; guided, of them and of n empty ones.
    guidance_scale: without a classifier; None: unguided.
    low_res: [n, c, h', w'] in [-1, 1], for the upsampler.
  """

  def predict(x, t):
    if guidance_scale is None:
      if low_res is not None:
        enlarged = F.interpolate(
          low_res, x.shape[2:], mode="bilinear", align_corners=False
        )
        x = torch.cat([x, enlarged], 1)
      return forward(x, t, *text)
    eps, v = forward(torch.cat([x, x]), torch.cat([t, t]), *text).chunk(2, 1)
    prompted, empty = eps.chunk(2)
    eps = empty + guidance_scale * (prompted - empty)
    return torch.cat([eps, v[: len(x)]], 1)

  return predict


def walk(
  predict: Predictor, steps: Schedule, sampler: str, x: torch.Tensor
) -> torch.Tensor:
  """Walks from noise [n, c, h, w] to images in [-1, 1].

  Args:
    predict: see `Predictor`.
    steps: the kept steps.
    sampler: "ancestral", "ddim" without noise, or "dpmpp_2m".
    x: at the last of the steps.
  """
  last, last_h, count = None, None, len(steps.timestep)
  for i in reversed(range(count)):
    s = Schedule(*(table[i].item() for table in steps))
    t = torch.full((len(x),), s.timestep, device=x.device)
    eps, v = predict(x, t).chunk(2, 1)
    alpha, sigma = math.sqrt(s.alpha_bar), math.sqrt(1 - s.alpha_bar)
    x0 = (x / alpha - sigma / alpha * eps).clamp(-1, 1)
    next_alpha = math.sqrt(s.alpha_bar_prev)
    next_sigma = math.sqrt(1 - s.alpha_bar_prev)
    if sampler == "ancestral":
      f = (v + 1) / 2
      log_variance = f * math.log(s.beta) + (1 - f) * s.log_variance
      x = s.mean_coef_x0 * x0 + s.mean_coef_x * x
      if i:
        x = x + torch.exp(0.5 * log_variance) * torch.randn_like(x)
    elif sampler == "ddim":
      x = next_alpha * x0 + next_sigma / sigma * (x - alpha * x0)
    elif i == 0:  # to no noise, of first order
      x = x0
    else:
      h = math.log(next_alpha * sigma / (next_sigma * alpha))
      d = x0 if last is None else x0 + h / (2 * last_h) * (x0 - last)
      x = next_sigma / sigma * x - next_alpha * math.expm1(-h) * d
      last, last_h = x0, h
  return x


def quantise(x: torch.Tensor) -> torch.Tensor:
  """Rounds [-1, 1] to 8 bits."""
  return ((x + 1) * 127.5).round().clamp(0, 255)


# --- what is timed ----------------------------------------------------------


def make_model(sizes: dict[str, Any], *, upsampler: bool) -> Glide:
  """Returns a network on the device: on a GPU its torso is float16."""
  model = Glide(in_channels=6 if upsampler else 3, **sizes).eval()
  if torch.cuda.is_available():
    model = model.cuda().halve()
  return model.to(memory_format=torch.channels_last)


def make_step(
  model: Glide,
  forward: Callable[..., torch.Tensor],
  steps: Schedule,
  sampler: str,
  *,
  batch: int,
  image_size: int,
  low_res: int | None,
  guidance_scale: float | None,
) -> Callable[[], None]:
  """Returns a run of `steps`, with the prompts read in advance."""
  on = model.time_embed[0].weight.device
  draw = lambda *shape: torch.randn(shape, device=on)
  x = draw(batch, 3, image_size, image_size)
  small = low_res and draw(batch, 3, low_res, low_res)
  context = model.positional_embedding.shape[0]
  prompts = batch * (1 if guidance_scale is None else 2)
  tokens = torch.zeros((prompts, context), dtype=torch.long, device=on)
  with torch.inference_mode():
    text = model.encode_text(tokens, tokens == 0)

  def run():
    # Compiled models do not run in inference mode.
    with torch.no_grad():
      predict = make_predictor(
        forward, text, guidance_scale=guidance_scale, low_res=small
      )
      walk(predict, steps, sampler, x)
    torch_timing.wait()

  return run


def make_steps(
  model: Glide, *args: Any, compiled: bool, **kwargs: Any
) -> torch_timing.Ways:
  """Returns the runs of a model; the other arguments are those of `make_step`.

  Args:
    model: of `make_model`.
    *args: from `steps` on.
    compiled: tries torch.compile.
    **kwargs: of the shapes.
  """
  make_run = lambda forward: make_step(model, forward, *args, **kwargs)
  return torch_timing.make_ways(model, make_run, compiled=compiled)


def make_draw(
  models: Mapping[str, Glide],
  forwards: Mapping[str, Callable[..., torch.Tensor]],
  walks: Mapping[str, tuple[Schedule, str]],
  *,
  batch: int,
  image_sizes: Mapping[str, int],
  guidance_scale: float,
) -> Callable[[], np.ndarray]:
  """Returns a run from prompts to uint8 images.

  Args:
    models: "base" and "upsampler".
    forwards: those, or their compiled versions.
    walks: the steps and the sampler of each.
    batch: images.
    image_sizes: px of each.
    guidance_scale: of the base.
  """
  on = models["base"].time_embed[0].weight.device
  context = models["base"].positional_embedding.shape[0]
  tokens = torch.zeros((2 * batch, context), dtype=torch.long, device=on)
  mask = (torch.arange(2 * batch, device=on) < batch)[:, None] & (tokens == 0)
  noise = lambda name: torch.randn(
    (batch, 3, image_sizes[name], image_sizes[name]), device=on
  )

  def run():
    with torch.no_grad():
      text = models["base"].encode_text(tokens, mask)
      predict = make_predictor(
        forwards["base"], text, guidance_scale=guidance_scale
      )
      small = walk(predict, *walks["base"], noise("base"))
      small = quantise(small) / 127.5 - 1
      text = models["upsampler"].encode_text(tokens[:batch], mask[:batch])
      predict = make_predictor(forwards["upsampler"], text, low_res=small)
      first = TEMPERATURE * noise("upsampler")
      large = walk(predict, *walks["upsampler"], first)
      return quantise(large).byte().permute(0, 2, 3, 1).cpu().numpy()

  return run
