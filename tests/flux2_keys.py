"""The weights of the released FLUX.2-klein-4B, as diffusers names them.

Written from the structure of Flux2Transformer2DModel, AutoencoderKLFlux2 and
Qwen3ForCausalLM with the released configurations. Those of the autoencoder that
Stable Diffusion has as well are `sdxl_keys`'.
"""

import sdxl_keys

CONFIGS = {
  "transformer": {
    "attention_head_dim": 128,
    "axes_dims_rope": [32, 32, 32, 32],
    "eps": 1e-6,
    "guidance_embeds": False,
    "in_channels": 128,
    "joint_attention_dim": 7680,
    "mlp_ratio": 3.0,
    "num_attention_heads": 24,
    "num_layers": 5,
    "num_single_layers": 20,
    "out_channels": None,
    "patch_size": 1,
    "rope_theta": 2000,
    "timestep_guidance_channels": 256,
  },
  "vae": {
    "batch_norm_eps": 1e-4,
    "block_out_channels": [128, 256, 512, 512],
    "latent_channels": 32,
    "layers_per_block": 2,
    "patch_size": [2, 2],
  },
  "text_encoder": {
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "model_type": "qwen3",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1_000_000,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151_936,
  },
  "scheduler": {
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
  },
  "model_index": {"is_distilled": True},
}


def shapes() -> dict[str, dict[str, tuple[int, ...]]]:
  """Returns the names and shapes of each network's weights."""
  return {"transformer": _transformer(), "vae": _vae(), "text_encoder": _text()}


def _transformer():
  d, mlp = 3072, 9216
  matrices = {
    "x_embedder": (d, 128),
    "context_embedder": (d, 7680),
    "proj_out": (128, d),
    "norm_out.linear": (2 * d, d),
    "double_stream_modulation_img.linear": (6 * d, d),
    "double_stream_modulation_txt.linear": (6 * d, d),
    "single_stream_modulation.linear": (3 * d, d),
    "time_guidance_embed.timestep_embedder.linear_1": (d, 256),
    "time_guidance_embed.timestep_embedder.linear_2": (d, d),
  }
  for i in range(5):
    block = f"transformer_blocks.{i}"
    for x in "qkv":
      matrices[f"{block}.attn.to_{x}"] = d, d
      matrices[f"{block}.attn.add_{x}_proj"] = d, d
    for name in ("to_out.0", "to_add_out"):
      matrices[f"{block}.attn.{name}"] = d, d
    for x in "qk":
      matrices[f"{block}.attn.norm_{x}"] = (128,)
      matrices[f"{block}.attn.norm_added_{x}"] = (128,)
    for name in ("ff", "ff_context"):
      matrices[f"{block}.{name}.linear_in"] = 2 * mlp, d
      matrices[f"{block}.{name}.linear_out"] = d, mlp
  for i in range(20):
    block = f"single_transformer_blocks.{i}.attn"
    matrices[f"{block}.to_qkv_mlp_proj"] = 3 * d + 2 * mlp, d
    matrices[f"{block}.to_out"] = d, d + mlp
    for x in "qk":
      matrices[f"{block}.norm_{x}"] = (128,)
  return {f"{name}.weight": shape for name, shape in matrices.items()}


def _vae():
  weights = sdxl_keys.shapes()["vae"]
  for name, shape in (
    ("encoder.conv_out", (64, 512, 3, 3)),
    ("decoder.conv_in", (512, 32, 3, 3)),
    ("quant_conv", (64, 64, 1, 1)),
    ("post_quant_conv", (32, 32, 1, 1)),
  ):
    weights |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
  return weights | {
    "bn.num_batches_tracked": (),
    "bn.running_mean": (128,),
    "bn.running_var": (128,),
  }


def _text():
  weights = {"model.embed_tokens": (151_936, 2560), "model.norm": (2560,)}
  for i in range(36):
    layer = f"model.layers.{i}"
    for name, width in (("q", 4096), ("k", 1024), ("v", 1024)):
      weights[f"{layer}.self_attn.{name}_proj"] = width, 2560
    weights[f"{layer}.self_attn.o_proj"] = 2560, 4096
    for name in ("q_norm", "k_norm"):
      weights[f"{layer}.self_attn.{name}"] = (128,)
    for name in ("gate", "up"):
      weights[f"{layer}.mlp.{name}_proj"] = 9728, 2560
    weights[f"{layer}.mlp.down_proj"] = 2560, 9728
    for name in ("input_layernorm", "post_attention_layernorm"):
      weights[f"{layer}.{name}"] = (2560,)
  return {f"{name}.weight": shape for name, shape in weights.items()}
