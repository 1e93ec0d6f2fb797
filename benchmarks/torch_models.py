"""ResNet-50 and DeiT-S in PyTorch, by the names of torchvision and timm.

The benchmark of training compares with them. They load the weights that
`models.resnet.weights` and `models.vit.weights` write.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
  """1x1, 3x3 and 1x1 residual block; the stride is on the 3x3."""

  def __init__(self, channels: int, width: int, stride: int):
    super().__init__()
    wide = 4 * width
    self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
    self.bn3 = nn.BatchNorm2d(wide)
    nn.init.zeros_(self.bn3.weight)
    self.pool, self.downsample = nn.Identity(), None
    if stride > 1 or channels != wide:
      self.downsample = nn.Sequential(
        nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
      )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.bn1(self.conv1(x)), inplace=True)
    y = self.pool(F.relu(self.bn2(self.conv2(y)), inplace=True))
    y = self.bn3(self.conv3(y))
    return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def add_stages(
  model: nn.Module, block: type[nn.Module], sizes: Sequence[int], width: int
) -> int:
  """Adds layer1, layer2, ...; returns the channels of the last one."""
  channels = width
  for i, size in enumerate(sizes):
    blocks = []
    for j in range(size):
      stride = 2 if i > 0 and j == 0 else 1
      blocks.append(block(channels, width * 2**i, stride))
      channels = 4 * width * 2**i
    setattr(model, f"layer{i + 1}", nn.Sequential(*blocks))
  return channels


class ResNet(nn.Module):
  """A ResNet of bottlenecks, with the stem of ImageNet."""

  def __init__(self, stage_sizes=(3, 4, 6, 3), width=64, num_classes=1000):
    super().__init__()
    self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.num_stages = len(stage_sizes)
    channels = add_stages(self, Bottleneck, stage_sizes, width)
    self.fc = nn.Linear(channels, num_classes)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Maps [n, 3, h, w] to logits [n, k]."""
    x = F.relu(self.bn1(self.conv1(images)), inplace=True)
    x = F.max_pool2d(x, 3, 2, 1)
    for i in range(self.num_stages):
      x = getattr(self, f"layer{i + 1}")(x)
    return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
  """Multi-head self-attention."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.qkv = nn.Linear(width, 3 * width)
    self.proj = nn.Linear(width, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    n, length, d = x.shape
    qkv = self.qkv(x).reshape(n, length, 3, self.heads, d // self.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [n, heads, l, d / heads]
    y = F.scaled_dot_product_attention(q, k, v)
    return self.proj(y.transpose(1, 2).reshape(n, length, d))


class Block(nn.Module):
  """Pre-norm attention and MLP."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.norm1 = nn.LayerNorm(width, eps=1e-6)
    self.attn = Attention(width, heads)
    self.norm2 = nn.LayerNorm(width, eps=1e-6)
    layers = [nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]
    self.mlp = nn.Sequential(
      OrderedDict(fc1=layers[0], act=nn.GELU(), fc2=layers[1])
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
  """A vision transformer that classifies by its class token."""

  def __init__(
    self,
    image_size=224,
    patch_size=16,
    width=384,
    depth=12,
    heads=6,
    num_classes=1000,
  ):
    super().__init__()
    proj = nn.Conv2d(3, width, patch_size, patch_size)
    self.patch_embed = nn.Sequential(OrderedDict(proj=proj))
    length = 1 + (image_size // patch_size) ** 2
    self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
    self.pos_embed = nn.Parameter(0.02 * torch.randn(1, length, width))
    self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
    self.norm = nn.LayerNorm(width, eps=1e-6)
    self.head = nn.Linear(width, num_classes)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Maps [n, 3, h, w] to logits [n, k]."""
    x = self.patch_embed(images).flatten(2).transpose(1, 2)  # [n, l, d]
    x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
    x = self.blocks(x + self.pos_embed)
    return self.head(self.norm(x[:, 0]))
