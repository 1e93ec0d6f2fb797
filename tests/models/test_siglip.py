"""SigLIP: parity with transformers, released layouts, sizes, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from synthjax.models.siglip import model as siglip
from synthjax.models.siglip import weights as siglip_weights
from synthjax.models.siglip.weights import from_released, to_released
from synthjax.runtime.errors import UserError

VISION = dict(
  hidden_size=24,
  intermediate_size=40,  # not four times the width, as in So400m
  num_hidden_layers=2,
  num_attention_heads=3,
  image_size=35,  # its last pixels are in no patch
  patch_size=8,
)
TEXT = dict(
  hidden_size=20,
  intermediate_size=36,
  num_hidden_layers=3,
  num_attention_heads=2,
  vocab_size=50,
  max_position_embeddings=10,
  projection_size=24,
)
SETTINGS = {"vision_config": VISION, "text_config": TEXT}
FIELDS = dict(
  image_size=35,
  patch_size=8,
  vision_width=24,
  vision_layers=2,
  vision_heads=3,
  vision_mlp_width=40,
  context_length=10,
  vocab_size=50,
  text_width=20,
  text_layers=3,
  text_heads=2,
  text_mlp_width=36,
)


@pytest.fixture(scope="module")
def weights():
  """Random weights under Hugging Face's names."""
  model = siglip.SigLIP(**FIELDS)
  variables = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 35, 35, 3)),
    jnp.zeros((1, 10), int),
  )
  rng = np.random.default_rng(0)
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  return to_released(jax.tree.map(draw, variables), {})


def features(weights, images, tokens):
  variables, about = from_released(weights, settings=SETTINGS)
  assert about["kind"] == "siglip" and about["model"] == FIELDS
  model = siglip.SigLIP(**about["model"])
  with jax.default_matmul_precision("highest"):
    return (
      model.apply(variables, images, method="encode_image"),
      model.apply(variables, tokens, method="encode_text"),
      model.apply(variables, images, tokens),
    )


@pytest.fixture(scope="module")
def inputs():
  rng = np.random.default_rng(1)
  images = rng.normal(size=(2, 35, 35, 3)).astype(np.float32)
  return images, rng.integers(0, 50, (3, 10))


def test_both_towers_equal_transformers(weights, inputs):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = transformers.SiglipConfig(
    vision_config=VISION, text_config=TEXT | {"bos_token_id": None}
  )
  model = transformers.SiglipModel(config).eval()
  model.load_state_dict(
    {name: torch.tensor(np.array(w)) for name, w in weights.items()}
  )
  images, tokens = inputs
  with torch.no_grad():
    theirs = model(
      input_ids=torch.tensor(tokens),
      pixel_values=torch.tensor(images.transpose(0, 3, 1, 2)),
    )
  image, text, logits = map(np.asarray, features(weights, images, tokens))
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  for ours, want in (
    (unit(image), theirs.image_embeds),  # the same up to their length
    (unit(text), theirs.text_embeds),
    (logits, theirs.logits_per_image),
  ):
    want = want.numpy()
    assert np.abs(ours - want).max() < 1e-5 * np.abs(want).max()


def big_vision(weights, *, scan):
  """Returns Hugging Face's weights as the authors' arrays."""
  split = {}
  for name, w in weights.items():
    if ".in_proj_" in name:
      for x, part in zip("qkv", np.split(w, 3), strict=True):
        split[name.replace("in_proj_", f"{x}_proj.")] = part
    else:
      split[name] = w
  got = {}
  put = lambda name, w: got.__setitem__(
    f"params/{name}", np.ascontiguousarray(w)
  )

  def layer(ours, theirs):
    put(f"{theirs}/kernel", split[f"{ours}.weight"].T)
    put(f"{theirs}/bias", split[f"{ours}.bias"])

  def norm(ours, theirs):
    put(f"{theirs}/scale", split[f"{ours}.weight"])
    put(f"{theirs}/bias", split[f"{ours}.bias"])

  def attention(ours, theirs, heads):
    theirs += "/MultiHeadDotProductAttention_0"
    for x, name in zip("qkv", ("query", "key", "value"), strict=True):
      kernel = split[f"{ours}.{x}_proj.weight"].T
      put(f"{theirs}/{name}/kernel", kernel.reshape(len(kernel), heads, -1))
      bias = split[f"{ours}.{x}_proj.bias"]
      put(f"{theirs}/{name}/bias", bias.reshape(heads, -1))
    kernel = split[f"{ours}.out_proj.weight"].T
    put(f"{theirs}/out/kernel", kernel.reshape(heads, -1, kernel.shape[1]))
    put(f"{theirs}/out/bias", split[f"{ours}.out_proj.bias"])

  def mlp(ours, theirs):
    layer(f"{ours}.mlp.fc1", f"{theirs}/MlpBlock_0/Dense_0")
    layer(f"{ours}.mlp.fc2", f"{theirs}/MlpBlock_0/Dense_1")

  for ours, theirs, layers, heads, last in (
    ("vision_model", "img/Transformer", 2, 3, "post_layernorm"),
    ("text_model", "txt/Encoder_0", 3, 2, "final_layer_norm"),
  ):
    for i in range(layers):
      block, to = f"{ours}.encoder.layers.{i}", f"{theirs}/encoderblock_{i}"
      norm(f"{block}.layer_norm1", f"{to}/LayerNorm_0")
      norm(f"{block}.layer_norm2", f"{to}/LayerNorm_1")
      attention(f"{block}.self_attn", to, heads)
      mlp(block, to)
    norm(f"{ours}.{last}", f"{theirs}/encoder_norm")
  head = "vision_model.head"
  attention(f"{head}.attention", "img/MAPHead_0", 3)
  norm(f"{head}.layernorm", "img/MAPHead_0/LayerNorm_0")
  mlp(head, "img/MAPHead_0")
  put("img/MAPHead_0/probe", weights[f"{head}.probe"])
  patches = weights["vision_model.embeddings.patch_embedding.weight"]
  put("img/embedding/kernel", patches.transpose(2, 3, 1, 0))
  put(
    "img/embedding/bias",
    weights["vision_model.embeddings.patch_embedding.bias"],
  )
  for tower, to in (("vision", "img"), ("text", "txt")):
    places = weights[f"{tower}_model.embeddings.position_embedding.weight"]
    put(f"{to}/pos_embedding", places[None])
  put(
    "txt/Embed_0/embedding",
    weights["text_model.embeddings.token_embedding.weight"],
  )
  layer("text_model.head", "txt/head")
  put("t", weights["logit_scale"])
  put("b", weights["logit_bias"])
  if not scan:
    return got
  stacked, blocks = {}, {}
  for name, w in got.items():
    before, found, after = name.partition("/encoderblock_")
    number, _, rest = after.partition("/")
    if found:
      blocks.setdefault(f"{before}/encoderblock/{rest}", []).append(
        (int(number), w)
      )
    else:
      stacked[name] = w
  for name, numbered in blocks.items():
    stacked[name] = np.stack(
      [w for _, w in sorted(numbered, key=lambda x: x[0])]
    )
  return stacked


@pytest.mark.parametrize("scan", [False, True])
def test_the_authors_arrays_hold_the_same_network(weights, scan):
  want, _ = from_released(weights, settings=SETTINGS)
  arrays = big_vision(weights, scan=scan)
  got, about = from_released(arrays, settings=SETTINGS)
  assert about["model"] == FIELDS
  jax.tree.map(np.testing.assert_array_equal, got, want)
  # They show their heads, so that 32 px of whole patches need no config.
  _, about = from_released(arrays)
  assert about["model"] == FIELDS | {"image_size": 32}


def test_a_weight_that_is_lacking_or_too_much_is_named(weights):
  lacking = dict(weights)
  del lacking["vision_model.head.probe"]
  with pytest.raises(UserError, match="visual/pool/probe: weights have None"):
    from_released(lacking, settings=SETTINGS)
  more = weights | {"text_model.pooler.weight": np.zeros(3)}
  with pytest.raises(UserError, match=r"text_model.pooler.weight: no rule"):
    from_released(more, settings=SETTINGS)


@pytest.mark.parametrize(
  ("given", "words"),
  [
    ({"vision_config": None}, "no vision_config and text_config"),
    ({"vision_config": VISION | {"hidden_act": "gelu"}}, "hidden_act='gelu'"),
    ({"vision_config": VISION | {"vision_use_head": False}}, "vision_use_head"),
    ({"text_config": TEXT | {"num_attention_heads": 3}}, "does not divide"),
    ({"vision_config": VISION | {"image_size": 64}}, "positions for 32 px"),
  ],
)
def test_what_the_config_lacks_or_contradicts_is_said(weights, given, words):
  with pytest.raises(UserError, match=words):
    from_released(weights, settings=SETTINGS | given)


def test_heads_are_asked_for_and_not_guessed(weights):
  with pytest.raises(UserError, match=r"Give the config\.json"):
    from_released(weights)


@pytest.mark.parametrize(
  ("name", "number"),  # counted of transformers' SiglipModel
  [
    ("siglip2_vit_b16", 375_187_970),
    ("siglip2_vit_l16", 881_526_786),
    ("siglip2_so400m_14", 1_135_463_602),
  ],
)
def test_a_published_network_has_its_size_and_needs_no_config(name, number):
  fields = siglip.MODELS[name].keywords
  size = fields["image_size"]
  like = jax.eval_shape(
    siglip.SigLIP(**fields).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    jax.ShapeDtypeStruct((1, 64), jnp.int32),
  )
  assert sum(x.size for x in jax.tree.leaves(like)) == number
  hidden = {"vision_heads", "text_heads"}
  shown = {f: value for f, value in fields.items() if f not in hidden}
  found = siglip_weights.hidden_fields(shown, {}, {})
  assert found == {f: fields[f] for f in (*hidden, "image_size")}
