"""Names of the released GLIDE weights (base.pt, upsample.pt)."""

from synthjax.convert.rules import (
  Rule,
  conv,
  dense,
  norm,
  pointwise1d,
  pointwise2d,
)


def _block(torch_name: str, path: str) -> list[Rule]:
  """Returns the rules of a residual block or an attention block."""
  return [
    *norm(f"{torch_name}.in_layers.0", f"{path}/in_layers_0"),
    *dense(f"{torch_name}.in_layers.2", f"{path}/in_layers_2", conv),
    *dense(f"{torch_name}.emb_layers.1", f"{path}/emb_layers_1"),
    *norm(f"{torch_name}.out_layers.0", f"{path}/out_layers_0"),
    *dense(f"{torch_name}.out_layers.3", f"{path}/out_layers_3", conv),
    *dense(
      f"{torch_name}.skip_connection", f"{path}/skip_connection", pointwise2d
    ),
    *norm(f"{torch_name}.norm", f"{path}/norm"),
    *dense(f"{torch_name}.qkv", f"{path}/qkv", pointwise1d),
    *dense(f"{torch_name}.encoder_kv", f"{path}/encoder_kv", pointwise1d),
    *dense(f"{torch_name}.proj_out", f"{path}/proj_out", pointwise1d),
  ]


_TEXT, _UNET = "params/text", "params/unet"
_LAYER = "transformer.resblocks.{i}", f"{_TEXT}/transformer_resblocks_{{i}}"

RULES = [
  Rule("positional_embedding", f"{_TEXT}/positional_embedding"),
  Rule("padding_embedding", f"{_TEXT}/padding_embedding"),
  Rule("token_embedding.weight", f"{_TEXT}/token_embedding/embedding"),
  *norm("final_ln", f"{_TEXT}/final_ln"),
  *dense("transformer_proj", f"{_TEXT}/transformer_proj"),
  *norm(f"{_LAYER[0]}.ln_1", f"{_LAYER[1]}/ln_1"),
  *norm(f"{_LAYER[0]}.ln_2", f"{_LAYER[1]}/ln_2"),
  *dense(f"{_LAYER[0]}.attn.c_qkv", f"{_LAYER[1]}/attn_c_qkv"),
  *dense(f"{_LAYER[0]}.attn.c_proj", f"{_LAYER[1]}/attn_c_proj"),
  *dense(f"{_LAYER[0]}.mlp.c_fc", f"{_LAYER[1]}/mlp_c_fc"),
  *dense(f"{_LAYER[0]}.mlp.c_proj", f"{_LAYER[1]}/mlp_c_proj"),
  *dense("time_embed.{i}", f"{_UNET}/time_embed_{{i}}"),
  *norm("out.0", f"{_UNET}/out_0"),
  *dense("out.2", f"{_UNET}/out_2", conv),
  *dense("input_blocks.0.0", f"{_UNET}/input_blocks_0_0", conv),
  *_block("input_blocks.{i}.{j}", f"{_UNET}/input_blocks_{{i}}_{{j}}"),
  *_block("middle_block.{i}", f"{_UNET}/middle_block_{{i}}"),
  *_block("output_blocks.{i}.{j}", f"{_UNET}/output_blocks_{{i}}_{{j}}"),
]
