"""Names and shapes of released CLIP weights, written down from the releases.

Nothing here asks our own models. The numbers of tensors are those of the
archives: 489 (RN50), 302 (ViT-B/32, ViT-B/16) and 446 (ViT-L/14). open_clip
3.3.0 gives its RN50 the same 489 names and shapes.
"""

import numpy as np

# Beside the weights in OpenAI's archives.
EXTRA = {"input_resolution": (), "context_length": (), "vocab_size": ()}

# vision: (patch, width, layers), or (width, layers of each stage).
SIZES = {
  "clip_rn50": {"embed": 1024, "text": 512, "vision": (64, (3, 4, 6, 3))},
  "clip_vit_b32": {"embed": 512, "text": 512, "vision": (32, 768, 12)},
  "clip_vit_b16": {"embed": 512, "text": 512, "vision": (16, 768, 12)},
  "clip_vit_l14": {"embed": 768, "text": 768, "vision": (14, 1024, 24)},
}


def batch_norm(name, width):
  parts = ("weight", "bias", "running_mean", "running_var")
  return {f"{name}.{part}": (width,) for part in parts} | {
    f"{name}.num_batches_tracked": ()
  }


def affine(name, *shape):
  return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def transformer(prefix, width, layers):
  shapes = {}
  for i in range(layers):
    block = f"{prefix}transformer.resblocks.{i}"
    shapes |= {
      f"{block}.attn.in_proj_weight": (3 * width, width),
      f"{block}.attn.in_proj_bias": (3 * width,),
    }
    shapes |= affine(f"{block}.attn.out_proj", width, width)
    shapes |= affine(f"{block}.ln_1", width) | affine(f"{block}.ln_2", width)
    shapes |= affine(f"{block}.mlp.c_fc", 4 * width, width)
    shapes |= affine(f"{block}.mlp.c_proj", width, 4 * width)
  return shapes


def vit(patch, width, layers, *, embed, size):
  return {
    "visual.class_embedding": (width,),
    "visual.positional_embedding": ((size // patch) ** 2 + 1, width),
    "visual.proj": (width, embed),
    "visual.conv1.weight": (width, 3, patch, patch),
    **affine("visual.ln_pre", width),
    **transformer("visual.", width, layers),
    **affine("visual.ln_post", width),
  }


def resnet(width, layers, *, embed, size):
  half, shapes = width // 2, {}
  for i, (out, into) in enumerate([(half, 3), (half, half), (width, half)]):
    shapes[f"visual.conv{i + 1}.weight"] = (out, into, 3, 3)
    shapes |= batch_norm(f"visual.bn{i + 1}", out)
  into = width
  for i, blocks in enumerate(layers):
    narrow = width * 2**i
    for j in range(blocks):
      block = f"visual.layer{i + 1}.{j}"
      convs = [(narrow, into, 1), (narrow, narrow, 3), (4 * narrow, narrow, 1)]
      for k, (out, channels, kernel) in enumerate(convs):
        name = f"{block}.conv{k + 1}.weight"
        shapes[name] = (out, channels, kernel, kernel)
        shapes |= batch_norm(f"{block}.bn{k + 1}", out)
      if j == 0:
        shapes[f"{block}.downsample.0.weight"] = (4 * narrow, into, 1, 1)
        shapes |= batch_norm(f"{block}.downsample.1", 4 * narrow)
      into = 4 * narrow
  pool = "visual.attnpool"
  shapes[f"{pool}.positional_embedding"] = ((size // 32) ** 2 + 1, into)
  for x in "kqv":
    shapes |= affine(f"{pool}.{x}_proj", into, into)
  return shapes | affine(f"{pool}.c_proj", embed, into)


def openai(*, embed, text, vision, size=224, layers=12, length=77, vocab=49408):
  """Returns the shapes of OpenAI's weights, without EXTRA.

  Args:
    embed: numbers of a feature.
    text: width of the text tower.
    vision: as in SIZES.
    size: of the images.
    layers: of the text tower.
    length: of a text.
    vocab: tokens that are known.
  """
  tower = vit if len(vision) == 3 else resnet
  return {
    "positional_embedding": (length, text),
    "text_projection": (text, embed),
    "logit_scale": (),
    **tower(*vision, embed=embed, size=size),
    **transformer("", text, layers),
    "token_embedding.weight": (vocab, text),
    **affine("ln_final", text),
  }


def huggingface(*, embed, text, vision, size=224, layers=12):
  """Returns the shapes of CLIPModel's state dict, with its position_ids."""
  patch, wide, deep = vision
  positions = {"text_model": 77, "vision_model": (size // patch) ** 2 + 1}
  shapes = {
    "logit_scale": (),
    "text_model.embeddings.token_embedding.weight": (49408, text),
    "vision_model.embeddings.class_embedding": (wide,),
    "vision_model.embeddings.patch_embedding.weight": (wide, 3, patch, patch),
    "visual_projection.weight": (embed, wide),
    "text_projection.weight": (embed, text),
    **affine("vision_model.pre_layrnorm", wide),
    **affine("vision_model.post_layernorm", wide),
    **affine("text_model.final_layer_norm", text),
  }
  for tower, width, count in [
    ("text_model", text, layers),
    ("vision_model", wide, deep),
  ]:
    embeddings = f"{tower}.embeddings.position_"
    shapes[f"{embeddings}embedding.weight"] = (positions[tower], width)
    shapes[f"{embeddings}ids"] = (1, positions[tower])
    for i in range(count):
      layer = f"{tower}.encoder.layers.{i}"
      for x in ("k_proj", "v_proj", "q_proj", "out_proj"):
        shapes |= affine(f"{layer}.self_attn.{x}", width, width)
      shapes |= affine(f"{layer}.layer_norm1", width)
      shapes |= affine(f"{layer}.layer_norm2", width)
      shapes |= affine(f"{layer}.mlp.fc1", 4 * width, width)
      shapes |= affine(f"{layer}.mlp.fc2", width, 4 * width)
  return shapes


def timm_resnet(width, layers, *, embed, size=224):
  """Returns the shapes of resnet50_clip, as timm 1.0.31 has them."""

  def conv_bn(name, out, into, kernel):
    weight = {f"{name}.conv.weight": (out, into, kernel, kernel)}
    return weight | batch_norm(f"{name}.bn", out)

  half = width // 2
  shapes = conv_bn("stem.conv1", half, 3, 3)
  shapes |= conv_bn("stem.conv2", half, half, 3)
  shapes |= conv_bn("stem.conv3", width, half, 3)
  into = width
  for i, blocks in enumerate(layers):
    narrow = width * 2**i
    for j in range(blocks):
      block = f"stages.{i}.{j}"
      if j == 0:
        shapes |= conv_bn(f"{block}.shortcut.conv", 4 * narrow, into, 1)
      shapes |= conv_bn(f"{block}.conv1_1x1", narrow, into, 1)
      shapes |= conv_bn(f"{block}.conv2_kxk", narrow, narrow, 3)
      shapes |= conv_bn(f"{block}.conv3_1x1", 4 * narrow, narrow, 1)
      into = 4 * narrow
  shapes["head.pos_embed"] = ((size // 32) ** 2 + 1, into)
  for x in "qkv":
    shapes |= affine(f"head.{x}", into, into)
  return shapes | affine("head.proj", embed, into)


def randoms(shapes, *, seed=0, dtype=np.float32):
  """Returns weights under which activations stay near one, none of them equal.

  Scales and variances lie in 0.5..1.5; biases, means and vectors about 0.
  """
  rng = np.random.default_rng(seed)
  weights = {}
  for name, shape in shapes.items():
    layer, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
      weights[name] = np.array(7)
      continue
    if name == "logit_scale":
      value = np.array(2.5)
    elif kind == "running_var" or (kind == "weight" and len(shape) == 1):
      value = rng.uniform(0.5, 1.5, shape)
    elif kind in ("weight", "in_proj_weight") and "embed" not in layer:
      value = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
    elif "proj" in kind and len(shape) == 2:
      value = rng.normal(0, shape[0] ** -0.5, shape)
    else:
      value = rng.normal(0, 0.2, shape)
    weights[name] = value.astype(dtype)
  return weights


# The smallest that OpenAI's rule gives heads to, with two text layers and two
# blocks in a stage so that no number is mixed up.
VIT = dict(embed=24, text=64, vision=(8, 128, 3), size=16, layers=2)
RESNET = dict(embed=24, text=64, vision=(4, (1, 2, 1, 1)), size=64, layers=2)
SMALL = dict(length=10, vocab=40)
# What their weights do not show.
HEADS = dict(vision_heads=2, text_heads=1, activation="quick_gelu")


def weights_of(sizes, **kwargs):
  return randoms(openai(**sizes, **SMALL), **kwargs)
