"""GLIDE in PyTorch, by the names of its released weights.

The benchmark of sampling compares with it; it loads the weights that
`models.glide.weights` writes. As in the release, half precision is that of the
convolutions of the UNet's blocks, the transformer's products and the tokens'
table: norms, activations after them and the time's embedding stay float32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Text(NamedTuple):
  """An encoded prompt."""

  pooled: torch.Tensor  # [n, 4 * model_channels]
  sequence: torch.Tensor  # [n, d, l]


class GroupNorm(nn.GroupNorm):
  """Normalises 32 groups in float32."""

  def __init__(self, channels: int):
    super().__init__(32, channels)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return super().forward(x.float()).to(x.dtype)


class LayerNorm(nn.LayerNorm):
  """Normalises in float32."""

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return super().forward(x.float()).to(x.dtype)


class ResBlock(nn.Module):
  """A residual block that the time's embedding scales and shifts."""

  def __init__(
    self, channels: int, wide: int, embedding: int, scale: float | None = None
  ):
    super().__init__()
    self.scale = scale  # of the image's side: 0.5, 2 or None
    self.in_layers = nn.Sequential(
      GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, wide, 3, padding=1)
    )
    self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * wide))
    self.out_layers = nn.Sequential(
      GroupNorm(wide), nn.SiLU(), nn.Identity(), nn.Conv2d(wide, wide, 3, 1, 1)
    )
    same = channels == wide
    self.skip_connection = (
      nn.Identity() if same else nn.Conv2d(channels, wide, 1)
    )

  def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    """Maps [n, c, h, w] and float32 [n, e] to [n, c', h', w']."""
    h = self.in_layers[1](self.in_layers[0](x))
    h = self.in_layers[2](self.resample(h))
    modulation = self.emb_layers(embedding)[:, :, None, None].to(h.dtype)
    scale, shift = modulation.chunk(2, 1)
    h = self.out_layers[0](h) * (1 + scale) + shift
    return self.skip_connection(self.resample(x)) + self.out_layers[1:](h)

  def resample(self, x: torch.Tensor) -> torch.Tensor:
    if self.scale == 0.5:
      return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2) if self.scale else x


class Attention(nn.Module):
  """Self-attention over the image that also reads the prompt."""

  def __init__(self, channels: int, text: int, head_channels: int):
    super().__init__()
    self.heads = channels // head_channels
    self.norm = GroupNorm(channels)
    self.qkv = nn.Conv1d(channels, 3 * channels, 1)
    self.encoder_kv = nn.Conv1d(text, 2 * channels, 1)
    self.proj_out = nn.Conv1d(channels, channels, 1)

  def forward(self, x: torch.Tensor, sequence: torch.Tensor) -> torch.Tensor:
    """Maps [n, c, h, w], with text [n, d, l], to [n, c, h, w]."""
    n, c, *_ = x.shape

    def split(y, parts):  # [n, heads, length, head_channels] each
      y = y.reshape(n, self.heads, -1, y.shape[-1])
      return y.transpose(2, 3).chunk(parts, -1)

    q, k, v = split(self.qkv(self.norm(x).reshape(n, c, -1)), 3)
    text_k, text_v = split(self.encoder_kv(sequence), 2)
    k, v = torch.cat([text_k, k], 2), torch.cat([text_v, v], 2)
    h = F.scaled_dot_product_attention(q, k, v)
    h = self.proj_out(h.transpose(2, 3).reshape(n, c, -1))
    return x + h.reshape(x.shape)


class TextAttention(nn.Module):
  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    self.c_qkv = nn.Linear(width, 3 * width)
    self.c_proj = nn.Linear(width, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    n, length, d = x.shape
    qkv = self.c_qkv(x).reshape(n, length, self.heads, -1).transpose(1, 2)
    y = F.scaled_dot_product_attention(*qkv.chunk(3, -1))
    return self.c_proj(y.transpose(1, 2).reshape(n, length, d))


class TextBlock(nn.Module):
  """A pre-norm transformer block."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.ln_1, self.ln_2 = LayerNorm(width), LayerNorm(width)
    self.attn, self.mlp = TextAttention(width, heads), nn.Module()
    self.mlp.c_fc = nn.Linear(width, 4 * width)
    self.mlp.c_proj = nn.Linear(4 * width, width)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x = x + self.attn(self.ln_1(x))
    return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


class Glide(nn.Module):
  """The base by default; the fields are those of `models.glide.Glide`."""

  def __init__(
    self,
    vocab_size: int = 50_257,
    text_context: int = 128,
    text_width: int = 512,
    text_layers: int = 16,
    text_heads: int = 8,
    model_channels: int = 192,
    channel_mult: Sequence[int] = (1, 2, 3, 4),
    num_res_blocks: int = 3,
    attention_downsamples: Sequence[int] = (2, 4, 8),
    head_channels: int = 64,
    in_channels: int = 3,
    out_channels: int = 6,
  ):
    super().__init__()
    self.dtype, width = torch.float32, 4 * model_channels
    self.token_embedding = nn.Embedding(vocab_size, text_width)
    table = lambda: nn.Parameter(0.01 * torch.randn(text_context, text_width))
    self.positional_embedding, self.padding_embedding = table(), table()
    self.transformer = nn.Module()
    self.transformer.resblocks = nn.Sequential(
      *(TextBlock(text_width, text_heads) for _ in range(text_layers))
    )
    self.final_ln = LayerNorm(text_width)
    self.transformer_proj = nn.Linear(text_width, width)
    self.model_channels = model_channels
    self.time_embed = nn.Sequential(
      nn.Linear(model_channels, width), nn.SiLU(), nn.Linear(width, width)
    )

    attention = lambda c: Attention(c, text_width, head_channels)
    residual = lambda *args: ResBlock(*args[:2], width, *args[2:])
    widths = [mult * model_channels for mult in channel_mult]
    channels, levels = widths[0], len(widths)
    first = nn.Conv2d(in_channels, channels, 3, padding=1)
    blocks, skips = [[first]], [channels]
    for level, wide in enumerate(widths):
      for _ in range(num_res_blocks):
        attended = 2**level in attention_downsamples
        blocks.append([residual(channels, wide)] + attended * [attention(wide)])
        channels = wide
        skips.append(channels)
      if level < levels - 1:
        blocks.append([residual(channels, channels, 0.5)])
        skips.append(channels)
    self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
    self.middle_block = nn.ModuleList(
      [
        residual(channels, channels),
        attention(channels),
        residual(channels, channels),
      ]
    )
    blocks = []
    for level in reversed(range(levels)):
      for i in range(num_res_blocks + 1):
        wide = widths[level]
        blocks.append([residual(channels + skips.pop(), wide)])
        if 2**level in attention_downsamples:
          blocks[-1].append(attention(wide))
        if level and i == num_res_blocks:
          blocks[-1].append(residual(wide, wide, 2))
        channels = wide
    self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
    self.out = nn.Sequential(
      GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, 1, 1)
    )

  def halve(self) -> "Glide":
    """Makes the torso float16."""
    self.dtype = torch.float16
    self.token_embedding.half()
    self.transformer_proj.half()
    for part in (self.transformer, self.input_blocks, self.middle_block):
      _halve(part)
    _halve(self.output_blocks)
    return self

  def encode_text(self, tokens: torch.Tensor, mask: torch.Tensor) -> Text:
    """Reads prompts: tokens [n, l], mask bool [n, l]."""
    x = self.token_embedding(tokens) + self.positional_embedding
    x = torch.where(mask[..., None], x, self.padding_embedding).to(self.dtype)
    x = self.final_ln(self.transformer.resblocks(x))
    return Text(self.transformer_proj(x[:, -1]).float(), x.transpose(1, 2))

  def forward(
    self,
    x: torch.Tensor,
    t: torch.Tensor,
    pooled: torch.Tensor,
    sequence: torch.Tensor,
  ) -> torch.Tensor:
    """Predicts float32 [n, 6, h, w].

    Args:
      x: float32 [n, c, h, w]; of the upsampler, the enlarged small image too.
      t: [n] original timesteps.
      pooled: of Text.
      sequence: of Text.
    """
    half = self.model_channels // 2
    steps = torch.arange(half, device=x.device) / half
    angles = t.float()[:, None] * 10_000.0**-steps
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    embedding = self.time_embed(waves) + pooled

    def run(h, block):
      for module in block:
        if isinstance(module, ResBlock):
          h = module(h, embedding)
        elif isinstance(module, Attention):
          h = module(h, sequence)
        else:
          h = module(h)
      return h

    h, skips = x.to(self.dtype), []
    for block in self.input_blocks:
      h = run(h, block)
      skips.append(h)
    h = run(h, self.middle_block)
    for block in self.output_blocks:
      h = run(torch.cat([h, skips.pop()], 1), block)
    return self.out(h.float())


def _halve(part: nn.Module) -> None:
  """Makes the products float16, but those of the time's embedding."""
  for name, module in part.named_modules():
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
      if "emb_layers" not in name:
        module.half()
