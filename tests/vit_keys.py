"""The names of released ViTs with their shapes, written down by hand."""

VIT_NAMES = (
  "layernorm_before",
  "layernorm_after",
  "intermediate.dense",
  "output.dense",
)


def timm_shapes(*, width, depth, patch, grid, classes, hidden=None):
  """Returns timm's names with their shapes, written down by hand."""
  hidden = hidden or 4 * width
  shapes = {
    "cls_token": (1, 1, width),
    "pos_embed": (1, grid * grid + 1, width),
    "patch_embed.proj.weight": (width, 3, patch, patch),
    "patch_embed.proj.bias": (width,),
  }
  for i in range(depth):
    for name, out, in_ in (
      ("attn.qkv", 3 * width, width),
      ("attn.proj", width, width),
      ("mlp.fc1", hidden, width),
      ("mlp.fc2", width, hidden),
    ):
      shapes[f"blocks.{i}.{name}.weight"] = (out, in_)
      shapes[f"blocks.{i}.{name}.bias"] = (out,)
    for norm in ("norm1", "norm2"):
      shapes[f"blocks.{i}.{norm}.weight"] = (width,)
      shapes[f"blocks.{i}.{norm}.bias"] = (width,)
  shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
  if classes:
    shapes |= {"head.weight": (classes, width), "head.bias": (classes,)}
  return shapes


def huggingface_shapes(
  *, width, depth, patch, grid, classes, prefix="vit.", names=VIT_NAMES
):
  """Returns the names of ViTForImageClassification with their shapes.

  `names` are those of a block's norms and of its MLP's layers.
  """
  *norms, fc1, fc2 = names
  shapes = {
    "embeddings.cls_token": (1, 1, width),
    "embeddings.position_embeddings": (1, grid * grid + 1, width),
    "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
    "embeddings.patch_embeddings.projection.bias": (width,),
  }
  for i in range(depth):
    layer = f"encoder.layer.{i}"
    for name, out, in_ in (
      ("attention.attention.query", width, width),
      ("attention.attention.key", width, width),
      ("attention.attention.value", width, width),
      ("attention.output.dense", width, width),
      (fc1, 4 * width, width),
      (fc2, width, 4 * width),
    ):
      shapes[f"{layer}.{name}.weight"] = (out, in_)
      shapes[f"{layer}.{name}.bias"] = (out,)
    for norm in norms:
      shapes[f"{layer}.{norm}.weight"] = (width,)
      shapes[f"{layer}.{norm}.bias"] = (width,)
  shapes |= {"layernorm.weight": (width,), "layernorm.bias": (width,)}
  shapes = {f"{prefix}{name}": shape for name, shape in shapes.items()}
  if classes:
    shapes["classifier.weight"] = (classes, width)
    shapes["classifier.bias"] = (classes,)
  return shapes


SHAPES = {"timm": timm_shapes, "huggingface": huggingface_shapes}
