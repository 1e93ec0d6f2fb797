"""CLIP's image towers in PyTorch, and images read for them from files.

What the benchmark of encoding compares with: the ViT is that of transformers,
the ResNet is here, by the names of OpenAI's weights without their "visual.".
"""

import pathlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from synthjax.models.clip.model import MEAN, STD


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 residual block that pools where it would have a stride."""

  def __init__(self, channels: int, width: int, stride: int):
    super().__init__()
    wide = 4 * width
    self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
    self.bn3 = nn.BatchNorm2d(wide)
    self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
    self.downsample = None
    if stride > 1 or channels != wide:
      layers = {
        "-1": self.pool,
        "0": nn.Conv2d(channels, wide, 1, bias=False),
        "1": nn.BatchNorm2d(wide),
      }
      self.downsample = nn.Sequential(OrderedDict(layers))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.bn1(self.conv1(x)), inplace=True)
    y = self.pool(F.relu(self.bn2(self.conv2(y)), inplace=True))
    y = self.bn3(self.conv3(y))
    return F.relu(y + (x if self.downsample is None else self.downsample(x)))


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
    for i, size in enumerate(layers):
      blocks = []
      for j in range(size):
        stride = 2 if i > 0 and j == 0 else 1
        blocks.append(Bottleneck(channels, width * 2**i, stride))
        channels = 4 * width * 2**i
      setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
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
  """Returns the image tower of a CLIP of these fields of `models.clip.CLIP`."""
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
    forward: the tower, or what torch.compile has made of it.
  """
  on = "cuda" if torch.cuda.is_available() else "cpu"
  tower.to(on, memory_format=torch.channels_last)
  dtype = torch.float16 if on == "cuda" else torch.float32
  tower.to(dtype)
  mean, std = (
    torch.tensor(x, device=on, dtype=dtype)[:, None, None] for x in (MEAN, STD)
  )

  def encode(images):
    with torch.no_grad():
      x = images.to(on).to(dtype, memory_format=torch.channels_last)
      found = forward((x / 255 - mean) / std)
      return getattr(found, "image_embeds", found).cpu()

  return encode


def make_encoders(
  fields: Mapping[str, Any], images: np.ndarray, *, compiled: bool
) -> tuple[dict[str, Callable], float, int | None]:
  """Returns an encoder as it is, and through torch.compile where that works.

  Args:
    fields: of `models.clip.CLIP`.
    images: uint8 [n, h, w, 3].
    compiled: tries torch.compile.

  Returns:
    The encoders, the FLOPs of encoding the images, and a GPU's bytes at most.
  """
  tower, peak_bytes = make_tower(fields), None
  encoders = {"PyTorch": make_encode(tower, tower)}
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  with FlopCounterMode(display=False) as counter:
    encoders["PyTorch"](x)
  if torch.cuda.is_available():
    torch.cuda.reset_peak_memory_stats()
    encoders["PyTorch"](x)
    peak_bytes = torch.cuda.max_memory_allocated()
  if compiled:
    encode = make_encode(tower, torch.compile(tower))
    try:
      encode(x)  # a compiler may be missing, which shows now
      encoders["torch.compile"] = encode
    except Exception as error:  # of TorchDynamo, its compiler, or the system
      problem = f"{type(error).__name__}: {error}".splitlines()[0]
      print(f"torch.compile does not work here: {problem}\n")
  return encoders, counter.get_total_flops(), peak_bytes


class Folder:
  """Image files, resized and cropped as CLIP's are; a data set of PyTorch's."""

  def __init__(self, files: Sequence[pathlib.Path], size: int):
    self.files, self.size = files, size

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: int) -> torch.Tensor:
    with self.files[index].open("rb") as file:
      image = Image.open(file).convert("RGB")
    short = min(image.size)
    wide, high = (int(self.size * side / short) for side in image.size)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    x, y = round((wide - self.size) / 2), round((high - self.size) / 2)
    image = image.crop((x, y, x + self.size, y + self.size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read(
  folder: pathlib.Path, *, size: int, batch_size: int, num_workers: int
) -> torch.utils.data.DataLoader:
  """Returns batches of uint8 [n, 3, size, size], in the order of the files."""
  return torch.utils.data.DataLoader(
    Folder(sorted(folder.iterdir()), size),
    batch_size=batch_size,
    num_workers=num_workers,
    # A fork would copy the locks of JAX's threads, taken as they may be.
    multiprocessing_context="spawn" if num_workers else None,
  )
