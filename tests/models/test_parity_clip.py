"""CLIP's features equal those of other implementations, through the converter.

The largest error is stated relative to the largest output, in float32.
"""

import pathlib

import clip_keys
import jax
import numpy as np
import pytest
from flax import serialization, traverse_util

from synthjax.models.clip import model as clip
from synthjax.models.clip.weights import from_released, to_released

TOLERANCE = 1e-4
FLAX = pathlib.Path(__file__).parents[1] / "golden" / "clip_flax"


def outputs(weights, images, tokens, **stated):
  """Converts the weights and returns features and logits, and a description.

  Args:
    weights: of any released layout.
    images: [n, 3, h, w], normalised.
    tokens: [m, l].
    **stated: what `from_released` is told beside the weights.
  """
  variables, description = from_released(weights, **stated)
  model = clip.CLIP(**description["model"])

  def features(variables, images, tokens):
    return (
      model.apply(variables, images, method="encode_image"),
      model.apply(variables, tokens, method="encode_text"),
      model.apply(variables, images, tokens),
    )

  with jax.default_matmul_precision("highest"):
    got = jax.jit(features)(variables, images.transpose(0, 2, 3, 1), tokens)
  names = ("image_features", "text_features", "logits_per_image")
  return dict(zip(names, map(np.asarray, got), strict=True)), description


def assert_close(got, want, tolerance=TOLERANCE):
  for name, value in want.items():
    assert got[name].shape == value.shape, name
    error = np.abs(got[name] - value).max() / np.abs(value).max()
    assert error < tolerance, (name, error)


# --- recorded outputs of the reference --------------------------------------


@pytest.mark.golden
@pytest.mark.parametrize("name", ["clip_vit", "clip_resnet"])
def test_both_towers_equal_the_reference(golden, name):
  case = golden(name)
  start = "weights/"
  weights = {k[len(start) :]: case[k] for k in case if k.startswith(start)}
  config = case["meta"]["config"]
  width, layers = config["vision_width"], config["vision_layers"]
  resnet = isinstance(layers, list)
  # OpenAI's class computes the heads of its image tower.
  heads = (width * 32 if resnet else width) // 64
  stated = {
    "vision_heads": config.get("vision_heads", heads),
    "text_heads": config["transformer_heads"],
    "activation": config.get("activation", "quick_gelu"),
  }
  got, description = outputs(
    weights, case["in/images"], case["in/tokens"], **stated
  )
  want = {k: case[f"out/{k}"] for k in got}
  assert_close(got, want)
  np.testing.assert_array_equal(
    got["logits_per_image"].T.argmax(0), case["out/logits_per_text"].argmax(0)
  )

  # The sizes were found, too.
  assert {"activation": "quick_gelu"} | description["model"] == stated | {
    "image_tower": "resnet" if resnet else "vit",
    "embed_dim": config["embed_dim"],
    "image_size": config["image_resolution"],
    "patch_size": config["vision_patch_size"],
    "vision_width": width,
    "vision_layers": layers,
    "context_length": config["context_length"],
    "vocab_size": config["vocab_size"],
    "text_width": config["transformer_width"],
    "text_layers": config["transformer_layers"],
  }


def test_features_equal_those_of_flax_clip():
  """A flax_model.msgpack of FlaxCLIPModel, as it was saved.

  Written by transformers 4.57.6, the last release with Flax, with flax 0.12.8
  and jax 0.10.2. Its config has eos_token_id 2, with which Hugging Face reads
  a text at the largest id, as OpenAI does. With any other it reads at the
  first token of that id: the same place as long as the end of text is the
  largest id, and comes first where it is repeated as padding.
  """
  weights = serialization.msgpack_restore(
    (FLAX / "flax_model.msgpack").read_bytes()
  )
  with np.load(FLAX / "outputs.npz") as case:
    case = dict(case)
  stated = clip_keys.HEADS | {"vision_heads": 1}
  got, description = outputs(
    weights, case["in/images"], case["in/tokens"], **stated
  )
  assert_close(got, {k: case[f"out/{k}"] for k in got}, 1e-5)
  variables, _ = from_released(weights, **stated)
  back = to_released(variables, description, "huggingface_flax")
  nested = traverse_util.unflatten_dict(back, sep="/")
  jax.tree.map(np.testing.assert_array_equal, nested, weights)


# --- Hugging Face's CLIPModel -----------------------------------------------


def huggingface(
  *, embed, text, vision, size, layers, length, vocab, eos, head, act
):
  """Builds a CLIPModel of these sizes, as `clip_keys.openai` names them.

  Its heads read `head` numbers, and its activation is `act`.
  """
  transformers = pytest.importorskip("transformers")
  patch, width, deep = vision
  tower = lambda width, layers: {
    "hidden_size": width,
    "intermediate_size": 4 * width,
    "num_hidden_layers": layers,
    "num_attention_heads": width // head,
    "hidden_act": act,
  }
  config = transformers.CLIPConfig(
    projection_dim=embed,
    text_config=tower(text, layers)
    | {
      "vocab_size": vocab,
      "max_position_embeddings": length,
      "eos_token_id": eos,
      "bos_token_id": 0,
      "pad_token_id": 1,
    },
    vision_config=tower(width, deep)
    | {"image_size": size, "patch_size": patch},
  )
  return transformers.CLIPModel(config).eval()


def compare_with_hugging_face(*, eos, head=64, act="quick_gelu", **sizes):
  torch = pytest.importorskip("torch")
  model = huggingface(eos=eos, head=head, act=act, **sizes)
  shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  weights = clip_keys.randoms(shapes)
  model.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})

  rng = np.random.default_rng(1)
  size, length, end = sizes["size"], sizes["length"], sizes["vocab"] - 1
  images = rng.normal(size=(2, 3, size, size)).astype(np.float32)
  tokens = rng.integers(0, end, (2, length))
  tokens[0, 4:], tokens[1, -1] = end, end  # padded with the end, and full
  with torch.no_grad():
    batch = torch.from_numpy(images), torch.from_numpy(tokens)
    vision = model.vision_model(batch[0]).pooler_output
    text = model.text_model(batch[1]).pooler_output
    want = {
      "image_features": model.visual_projection(vision),
      "text_features": model.text_projection(text),
      "logits_per_image": model(
        pixel_values=batch[0], input_ids=batch[1]
      ).logits_per_image,
    }
  want = {k: v.numpy() for k, v in want.items()}
  config = model.config.to_dict()
  got, description = outputs(weights, images, tokens, settings=config)
  assert_close(got, want)
  variables, _ = from_released(weights, settings=config)
  back = to_released(variables, description, "huggingface")
  assert back.keys() == weights.keys()
  for name, value in weights.items():
    np.testing.assert_array_equal(back[name], value, err_msg=name)


@pytest.mark.parametrize(
  ("eos", "head", "act"), [(2, 64, "quick_gelu"), (39, 32, "gelu")]
)
def test_features_equal_those_of_hugging_faces_clip(eos, head, act):
  """Whether the end of text is found as the largest id (eos 2) or by its id.

  Its config alone states the heads, here of 64 and of 32, and the activation.
  """
  compare_with_hugging_face(
    embed=24,
    text=128,
    vision=(8, 192, 3),
    size=32,
    layers=2,
    length=10,
    vocab=40,
    eos=eos,
    head=head,
    act=act,
  )


@pytest.mark.slow
def test_features_of_the_full_size_equal_those_of_hugging_faces_clip():
  sizes = dict(clip_keys.SIZES["clip_vit_b32"], size=224, layers=12)
  compare_with_hugging_face(**sizes, length=77, vocab=49408, eos=49407)


# --- the ResNet tower, written down in PyTorch ------------------------------


def torch_resnet(weights, images, *, layers, heads, train=False):
  """Computes the image tower of OpenAI's names; returns features [n, d].

  With `train`, BatchNorm uses the batch, and the running statistics among the
  weights are replaced by the new ones, with Flax's variance (of the batch, not
  of a sample).
  """
  import torch

  F = torch.nn.functional
  w = {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}

  def conv(x, name, stride=1):
    kernel = w[f"visual.{name}.weight"]
    return F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

  def norm(x, name):
    scale, bias = (w[f"visual.{name}.{s}"] for s in ("weight", "bias"))
    names = [f"visual.{name}.running_{s}" for s in ("mean", "var")]
    mean, var = (w[k] for k in names)
    if not train:
      return F.batch_norm(x, mean, var, scale, bias, False, 0.1, 1e-5)
    weights[names[0]] = (0.9 * mean + 0.1 * x.mean((0, 2, 3))).numpy()
    biased = x.var((0, 2, 3), unbiased=False)
    weights[names[1]] = (0.9 * var + 0.1 * biased).numpy()
    return F.batch_norm(x, None, None, scale, bias, True, 0.1, 1e-5)

  def block(x, name, stride):
    y = norm(conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
    y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2").relu()
    y = F.avg_pool2d(y, stride)
    y = norm(conv(y, f"{name}.conv3"), f"{name}.bn3")
    if f"visual.{name}.downsample.0.weight" in w:
      x = conv(F.avg_pool2d(x, stride), f"{name}.downsample.0")
      x = norm(x, f"{name}.downsample.1")
    return (x + y).relu()

  x = torch.from_numpy(images)
  for i in (1, 2, 3):
    x = norm(conv(x, f"conv{i}", 2 if i == 1 else 1), f"bn{i}").relu()
  x = F.avg_pool2d(x, 2)
  for i, blocks in enumerate(layers):
    for j in range(blocks):
      x = block(x, f"layer{i + 1}.{j}", 2 if i > 0 and j == 0 else 1)

  pool = "visual.attnpool"
  x = x.flatten(2).transpose(1, 2)  # [n, h w, d]
  x = torch.cat([x.mean(1, keepdim=True), x], 1)
  x = x + w[f"{pool}.positional_embedding"]

  def projected(x, name):
    y = F.linear(x, w[f"{pool}.{name}.weight"], w[f"{pool}.{name}.bias"])
    return y.unflatten(-1, (heads, -1)).transpose(1, 2)  # [n, heads, l, 64]

  q, k, v = (projected(x, f"{name}_proj") for name in "qkv")
  # Scaled by 64 ** -0.5, of the mean alone.
  x = F.scaled_dot_product_attention(q[:, :, :1], k, v)[:, :, 0].flatten(1)
  return F.linear(x, w[f"{pool}.c_proj.weight"], w[f"{pool}.c_proj.bias"])


def compare_with_torch(width, layers, *, embed, size, heads, train, n=2):
  torch = pytest.importorskip("torch")
  shapes = clip_keys.resnet(width, layers, embed=embed, size=size)
  weights = clip_keys.randoms(shapes)
  images = np.random.default_rng(1).normal(size=(n, 3, size, size))
  images = images.astype(np.float32)
  variables, description = from_released(weights, vision_heads=heads)
  model = clip.IMAGE_TOWERS["resnet"](**description["model"])

  @jax.jit
  def apply(variables, images):
    return model.apply(variables, images, train=train, mutable=["batch_stats"])

  with jax.default_matmul_precision("highest"):
    got, updated = apply(variables, images.transpose(0, 2, 3, 1))
  moved = dict(weights)
  with torch.no_grad():
    want = torch_resnet(
      moved, images, layers=layers, heads=heads, train=train
    ).numpy()
  assert_close({"features": np.asarray(got)}, {"features": want})
  after = to_released(dict(variables) | updated, description)
  for name, value in after.items():
    if "running" in name:
      assert train == (np.abs(value - weights[name]).max() > 1e-3), name
      np.testing.assert_allclose(value, moved[name], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("train", "heads"), [(False, 8), (True, 4)])
def test_the_resnet_equals_pytorch(train, heads):
  sizes = dict(embed=24, size=64, heads=heads)
  compare_with_torch(8, (1, 2, 2, 1), **sizes, train=train, n=4)


@pytest.mark.slow
def test_the_resnet_of_full_size_equals_pytorch():
  width, layers = clip_keys.SIZES["clip_rn50"]["vision"]
  sizes = dict(embed=1024, size=224, heads=32)
  compare_with_torch(width, layers, **sizes, train=False)
