"""The weights of the released SDXL, as diffusers and transformers name them.

Written from the structure of UNet2DConditionModel, AutoencoderKL and
CLIPTextModel with the released configurations.
"""

CONFIGS = {
  "unet": {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "layers_per_block": 2,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "use_linear_projection": True,
  },
  "vae": {
    "block_out_channels": [128, 256, 512, 512],
    "force_upcast": True,
    "layers_per_block": 2,
    "scaling_factor": 0.13025,
  },
  "text_encoder": {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "vocab_size": 49408,
  },
  "text_encoder_2": {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "max_position_embeddings": 77,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "vocab_size": 49408,
  },
  "scheduler": {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
  },
  "model_index": {"force_zeros_for_empty_prompt": True},
}


def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns the names and shapes of each network's weights."""
  return {
    "unet": _unet(),
    "vae": _vae(),
    "text_encoder": _text("text_encoder"),
    "text_encoder_2": _text("text_encoder_2")
    | {"text_projection.weight": (1280, 1280)},
  }


def _layer(name, *shape, bias=True):
  weights = {f"{name}.weight": shape}
  return weights | ({f"{name}.bias": shape[:1]} if bias else {})


def _resnet(name, inner, outer, time=None):
  weights = _layer(f"{name}.norm1", inner)
  weights |= _layer(f"{name}.conv1", outer, inner, 3, 3)
  if time:
    weights |= _layer(f"{name}.time_emb_proj", outer, time)
  weights |= _layer(f"{name}.norm2", outer)
  weights |= _layer(f"{name}.conv2", outer, outer, 3, 3)
  if inner != outer:
    weights |= _layer(f"{name}.conv_shortcut", outer, inner, 1, 1)
  return weights


def _transformer(name, width, depth, context):
  weights = _layer(f"{name}.norm", width)
  weights |= _layer(f"{name}.proj_in", width, width)
  weights |= _layer(f"{name}.proj_out", width, width)
  for i in range(depth):
    block = f"{name}.transformer_blocks.{i}"
    for k in (1, 2, 3):
      weights |= _layer(f"{block}.norm{k}", width)
    for k, read in ((1, width), (2, context)):
      attn = f"{block}.attn{k}"
      weights |= _layer(f"{attn}.to_q", width, width, bias=False)
      weights |= _layer(f"{attn}.to_k", width, read, bias=False)
      weights |= _layer(f"{attn}.to_v", width, read, bias=False)
      weights |= _layer(f"{attn}.to_out.0", width, width)
    weights |= _layer(f"{block}.ff.net.0.proj", 8 * width, width)
    weights |= _layer(f"{block}.ff.net.2", width, 4 * width)
  return weights


def _unet():
  widths, depths, context, time = (320, 640, 1280), (0, 2, 10), 2048, 1280
  weights = _layer("conv_in", 320, 4, 3, 3) | _layer("conv_out", 4, 320, 3, 3)
  weights |= _layer("conv_norm_out", 320)
  for name, read in (("time_embedding", 320), ("add_embedding", 2816)):
    weights |= _layer(f"{name}.linear_1", time, read)
    weights |= _layer(f"{name}.linear_2", time, time)

  def block(name, j, inner, outer, depth):
    layers = _resnet(f"{name}.resnets.{j}", inner, outer, time)
    if depth:
      attention = f"{name}.attentions.{j}"
      layers |= _transformer(attention, outer, depth, context)
    return layers

  skips, width = [320], 320
  for i, (outer, depth) in enumerate(zip(widths, depths, strict=True)):
    name = f"down_blocks.{i}"
    for j in range(2):
      weights |= block(name, j, width, outer, depth)
      width = outer
      skips.append(width)
    if i < 2:
      weights |= _layer(f"{name}.downsamplers.0.conv", width, width, 3, 3)
      skips.append(width)
  weights |= block("mid_block", 0, width, width, 10)
  weights |= block("mid_block", 1, width, width, 0)
  levels = zip(widths[::-1], depths[::-1], strict=True)
  for i, (outer, depth) in enumerate(levels):
    name = f"up_blocks.{i}"
    for j in range(3):
      weights |= block(name, j, width + skips.pop(), outer, depth)
      width = outer
    if i < 2:
      weights |= _layer(f"{name}.upsamplers.0.conv", width, width, 3, 3)
  return weights


def _vae():
  weights = _layer("quant_conv", 8, 8, 1, 1)
  weights |= _layer("post_quant_conv", 4, 4, 1, 1)
  for half, widths, count, sampler in (
    ("encoder.down_blocks", (128, 256, 512, 512), 2, "downsamplers"),
    ("decoder.up_blocks", (512, 512, 256, 128), 3, "upsamplers"),
  ):
    root, width = half.split(".")[0], widths[0]
    read, write = (3, 8) if root == "encoder" else (4, 3)
    weights |= _layer(f"{root}.conv_in", width, read, 3, 3)
    weights |= _layer(f"{root}.conv_norm_out", widths[-1])
    weights |= _layer(f"{root}.conv_out", write, widths[-1], 3, 3)
    for i, outer in enumerate(widths):
      for j in range(count):
        weights |= _resnet(f"{half}.{i}.resnets.{j}", width, outer)
        width = outer
      if i < 3:
        weights |= _layer(f"{half}.{i}.{sampler}.0.conv", width, width, 3, 3)
    middle = f"{root}.mid_block"
    weights |= _layer(f"{middle}.attentions.0.group_norm", 512)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
      weights |= _layer(f"{middle}.attentions.0.{name}", 512, 512)
    for j in range(2):
      weights |= _resnet(f"{middle}.resnets.{j}", 512, 512)
  return weights


def _text(part):
  width = CONFIGS[part]["hidden_size"]
  weights = {
    "text_model.embeddings.token_embedding.weight": (49408, width),
    "text_model.embeddings.position_embedding.weight": (77, width),
  }
  for i in range(CONFIGS[part]["num_hidden_layers"]):
    layer = f"text_model.encoder.layers.{i}"
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
      weights |= _layer(f"{layer}.self_attn.{name}", width, width)
    weights |= _layer(f"{layer}.layer_norm1", width)
    weights |= _layer(f"{layer}.layer_norm2", width)
    weights |= _layer(f"{layer}.mlp.fc1", 4 * width, width)
    weights |= _layer(f"{layer}.mlp.fc2", width, 4 * width)
  return weights | _layer("text_model.final_layer_norm", width)
