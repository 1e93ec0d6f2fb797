"""What low-rank updates of GLIDE's base learn, and how they are called."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import numpy as np

from synthjax.generators import Adaptable
from synthjax.models import lora
from synthjax.models.glide import weights
from synthjax.models.glide.model import Glide
from synthjax.tokenizers import bpe
from synthjax.training import denoising


def adaptable(
  model: Glide,
  params: Mapping[str, Any],
  tokenizer: bpe.Tokenizer,
  *,
  betas: np.ndarray,
  image_size: int,
) -> Adaptable:
  """Returns how updates of the base are learned, which decides what is drawn.

  They are of the attention of the UNet and of the transformer that reads the
  prompt. The loss is GLIDE's own, but no prompt is emptied.

  Args:
    model: the base.
    params: the weights of all stages, on the devices.
    tokenizer: of prompts.
    betas: [T], of the base.
    image_size: px, of its images.
  """
  loss = denoising.make_loss(
    betas=betas, pad_token=model.vocab_size - 1, drop_prompt=0.0
  )

  def loss_of(frozen, updates, batch, rng):
    def apply(updates, x, t, tokens, mask, low_res, rng):
      del rng
      with nn.intercept_methods(lora.added(updates)):
        return model.apply({"params": frozen}, x, t, tokens, mask, low_res)

    return loss(apply, updates, batch, rng)

  def read(images, prompts: Sequence[str]):
    tokens, mask = tokenizer.glide_tokens(prompts, model.text_context)
    return {"image": images, "tokens": tokens, "mask": mask}

  return Adaptable(
    frozen=lambda: params["base"],
    held=lambda: params,
    init=partial(lora.init, params["base"], weights.LOW_RANK),
    loss=loss_of,
    read=read,
    image_size=image_size,
    to_released=weights.to_lora_names,
    from_released=weights.from_lora_names,
  )
