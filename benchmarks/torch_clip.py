"""CLIP's image towers in PyTorch, and images read for them from files.

The benchmark of encoding compares with them. The ViT is that of transformers;
the ResNet is here, by the names of OpenAI's weights without "visual.".
"""

import pathlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from benchmarks import torch_models, torch_timing
from benchmarks.made_up import ImageFiles
from synthjax.models.clip.model import MEAN, STD


class Bottleneck(torch_models.Bottleneck):
  """1x1, 3x3 and 1x1 residual block that pools where it would have a stride."""

  def __init__(self, channels: int, width: int, stride: int):
    super().__init__(channels, width, 1)
    if stride > 1:
      self.pool = nn.AvgPool2d(stride)
    if self.downsample is not None:
      layers = dict(zip("01", self.downsample, strict=True))
      self.downsample = nn.Sequential(OrderedDict({"-1": self.pool} | layers))


class AttentionPool(nn.Module):
  """One layer of attention, whose only query is the mean over the places."""

  def __init__(self, places: int, width: int, embed_dim: int, heads: int):
    super().__init__()
    self.heads = heads
    self.positional_embedding = nn.Parameter(torch.randn(places + 1, width))
    self.q_proj = nn.Linear(width, width)
    self.k_proj = nn.Linear(width, width)
    self.v_proj = nn.Linear(width, width)
    self.c_proj = nn.Linear(width, embed_dim)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = x.flatten(2).transpose(1, 2)  # [n, h w, d]
    x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
    split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
    y = F.scaled_dot_product_attention(*map(split, (q, k, v)))
    return self.c_proj(y.transpose(1, 2).flatten(1))


class ModifiedResNet(nn.Module):
  """The fields are those of our image tower."""

  def __init__(
    self,
    embed_dim: int,
    image_size: int,
    width: int,
    layers: Sequence[int],
    heads: int,
  ):
    super().__init__()
    channels = 3
    for i, wide in enumerate((width // 2, width // 2, width)):
      conv = nn.Conv2d(channels, wide, 3, 2 - min(i, 1), 1, bias=False)
      setattr(self, f"conv{i + 1}", conv)
      setattr(self, f"bn{i + 1}", nn.BatchNorm2d(wide))
      channels = wide
    channels = torch_models.add_stages(self, Bottleneck, layers, width)
    places = (image_size // 32) ** 2
    self.attnpool = AttentionPool(places, channels, embed_dim, heads)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Maps normalised [n, 3, h, w] to [n, embed_dim]."""
    x = images
    for i in (1, 2, 3):
      x = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x))
      x = F.relu(x, inplace=True)
    x = F.avg_pool2d(x, 2)
    for i in (1, 2, 3, 4):
      x = getattr(self, f"layer{i}")(x)
    return self.attnpool(x)


def make_tower(fields: Mapping[str, Any]) -> nn.Module:
  """Returns the image tower of a CLIP with these fields."""
  if fields["image_tower"] == "resnet":
    tower = ModifiedResNet(
      embed_dim=fields["embed_dim"],
      image_size=fields["image_size"],
      width=fields["vision_width"],
      layers=fields["vision_layers"],
      heads=fields["vision_heads"],
    )
  else:
    import transformers

    config = transformers.CLIPVisionConfig(
      hidden_size=fields["vision_width"],
      intermediate_size=4 * fields["vision_width"],
      num_hidden_layers=fields["vision_layers"],
      num_attention_heads=fields["vision_heads"],
      image_size=fields["image_size"],
      patch_size=fields["patch_size"],
      projection_dim=fields["embed_dim"],
      hidden_act="quick_gelu",
    )
    tower = transformers.CLIPVisionModelWithProjection(config)
  return tower.eval()


def make_encode(tower: nn.Module, forward: Callable) -> Callable:
  """Returns a function of uint8 images [n, 3, h, w] to features [n, d].

  Args:
    tower: of `make_tower`; a GPU's becomes float16, as CLIP's is there.
    forward: the tower, or its compiled version.
  """
  on = torch_timing.place()
  tower.to(on, memory_format=torch.channels_last)
  dtype = torch.float16 if on == "cuda" else torch.float32
  tower.to(dtype)
  mean, std = (
    torch.tensor(x, device=on, dtype=dtype)[:, None, None] for x in (MEAN, STD)
  )

  def encode(images):
    with torch.no_grad():
      x = images.to(on).to(dtype, memory_format=torch.channels_last)
      output = forward((x / 255 - mean) / std)
      return getattr(output, "image_embeds", output).cpu()

  return encode


def make_encoders(
  fields: Mapping[str, Any], images: np.ndarray, *, compiled: bool
) -> torch_timing.Ways:
  """Returns encoders of uint8 images [n, 3, h, w] to features [n, d].

  Args:
    fields: of `clip.model.CLIP`.
    images: uint8 [n, h, w, 3], to measure with.
    compiled: tries torch.compile.
  """
  tower = make_tower(fields)
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  make_run = lambda forward: make_encode(tower, forward)
  return torch_timing.make_ways(tower, make_run, x, compiled=compiled)


def fit(image: Image.Image, size: int) -> torch.Tensor:
  """Resizes and crops an image as CLIP's are, to uint8 [3, size, size]."""
  short = min(image.size)
  wide, high = (int(size * side / short) for side in image.size)
  image = image.resize((wide, high), Image.Resampling.BICUBIC)
  x, y = round((wide - size) / 2), round((high - size) / 2)
  image = image.crop((x, y, x + size, y + size))
  return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read(
  folder: pathlib.Path, *, size: int, batch_size: int, num_workers: int
) -> torch.utils.data.DataLoader:
  """Returns batches of uint8 [n, 3, size, size], in the order of the files."""
  return torch.utils.data.DataLoader(
    ImageFiles(sorted(folder.iterdir()), partial(fit, size=size)),
    batch_size=batch_size,
    num_workers=num_workers,
    # A fork would copy the locks of JAX's threads, which may be taken.
    multiprocessing_context="spawn" if num_workers else None,
  )
