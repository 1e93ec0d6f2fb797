"""Released CLIP weights: every key of every layout, there and back."""

import json
from functools import partial

import clip_keys
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from clip_keys import RESNET, VIT, weights_of
from flax import traverse_util
from plain_weights import zeros

from synthjax import encoders
from synthjax.models.clip import model as clip
from synthjax.models.clip import weights as convert
from synthjax.models.clip.weights import to_released
from synthjax.tokenizers import bpe
from synthjax.weights import files

from_released = partial(convert.from_released, **clip_keys.HEADS)


def kept(weights):
  """Returns the weights but for counts of batches."""
  return {k: v for k, v in weights.items() if "num_batches" not in k}


def assert_equal(got, want):
  """Asserts that names, dtypes and every bit are equal."""
  assert got.keys() == want.keys()
  for name, value in want.items():
    assert got[name].dtype == value.dtype, name
    np.testing.assert_array_equal(got[name], value, err_msg=name)


# --- the full sizes ---------------------------------------------------------


@pytest.mark.parametrize(
  "name, tensors, numbers",
  [
    ("clip_rn50", 489, 102_007_137),
    ("clip_vit_b32", 302, 151_277_313),
    ("clip_vit_b16", 302, 149_620_737),
    ("clip_vit_l14", 446, 427_616_513),
  ],
)
def test_every_key_of_openais_archives_is_taken(name, tensors, numbers):
  shapes = clip_keys.openai(**clip_keys.SIZES[name])
  assert len(shapes) == tensors
  weights = zeros(shapes | clip_keys.EXTRA, np.float16)
  variables, description = convert.from_released(weights)

  flat = traverse_util.flatten_dict(variables, sep="/")
  assert sum(v.size for k, v in flat.items() if k[0] == "p") == numbers
  counts = sum("num_batches" in name for name in shapes)
  assert len(flat) == tensors - counts
  assert {leaf.dtype for leaf in flat.values()} == {np.dtype(np.float16)}

  assert json.loads(json.dumps(description)) == description
  fields = description["model"]
  layers = fields["vision_layers"]
  if isinstance(layers, list):
    fields = fields | {"vision_layers": tuple(layers)}
  assert clip.CLIP(**fields) == clip.MODELS[name]()
  assert (description["kind"], description["image_size"]) == ("clip", 224)

  back = to_released(variables, description)
  want = {k: v for k, v in shapes.items() if "num_batches" not in k}
  assert {k: v.shape for k, v in back.items()} == want


@pytest.mark.parametrize(
  "name, tensors", [("clip_vit_b32", 398), ("clip_vit_l14", 590)]
)
def test_every_key_of_hugging_faces_clip_is_taken(name, tensors):
  shapes = clip_keys.huggingface(**clip_keys.SIZES[name])
  assert len(shapes) == tensors + 2  # the position_ids of older files
  # One byte each, as q, k and v are copied.
  variables, description = convert.from_released(
    zeros(shapes, np.int8), model=name
  )
  assert clip.CLIP(**description["model"]) == clip.MODELS[name]()
  back = to_released(variables, description, "huggingface")
  assert {k: v.shape for k, v in back.items()} == {
    k: v for k, v in shapes.items() if not k.endswith("position_ids")
  }


def test_every_key_of_timms_resnet_is_taken():
  shapes = clip_keys.timm_resnet(64, (3, 4, 6, 3), embed=1024)
  assert len(shapes) == 339
  # As seen in timm.create_model("resnet50_clip").
  assert shapes["stem.conv3.conv.weight"] == (64, 32, 3, 3)
  assert shapes["stages.0.0.shortcut.conv.conv.weight"] == (256, 64, 1, 1)
  assert shapes["stages.1.0.conv2_kxk.bn.running_var"] == (128,)
  assert shapes["stages.3.2.conv3_1x1.conv.weight"] == (2048, 512, 1, 1)
  assert shapes["head.pos_embed"] == (50, 2048)
  assert shapes["head.proj.weight"] == (1024, 2048)
  variables, description = convert.from_released(zeros(shapes, np.float16))
  assert description == {
    "kind": "clip_visual",
    "image_tower": "resnet",
    "image_size": 224,
    "model": {
      "embed_dim": 1024,
      "image_size": 224,
      "patch_size": None,
      "width": 64,
      "layers": [3, 4, 6, 3],
      "heads": 32,
    },
  }
  leaves = jax.tree.leaves(variables["params"])
  assert sum(leaf.size for leaf in leaves) == 38_316_896


# --- there and back ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("layout", ["openai", "open_clip"])
@pytest.mark.parametrize("sizes", [VIT, RESNET], ids=["vit", "resnet"])
def test_openais_names_come_back_exactly(sizes, layout, dtype):
  weights = weights_of(sizes, dtype=dtype)
  back = to_released(*from_released(weights), layout)
  assert_equal(back, kept(weights))


@pytest.mark.parametrize("layout", ["huggingface", "huggingface_flax"])
def test_hugging_faces_names_come_back_exactly(layout):
  weights = weights_of(VIT)
  variables, description = from_released(weights)
  theirs = to_released(variables, description, layout)
  # q, k and v of 5 blocks, each with a matrix and a bias.
  assert len(theirs) == len(weights) + 5 * 4
  again, same = from_released(theirs)
  assert same == description
  assert_equal(to_released(again, same), weights)
  assert_equal(to_released(again, same, layout), theirs)


def test_thirds_and_projections_are_where_hugging_face_has_them():
  weights = weights_of(VIT)
  theirs = to_released(*from_released(weights), "huggingface")
  block, layer = "transformer.resblocks.1", "text_model.encoder.layers.1"
  for i, x in enumerate("qkv"):
    rows = slice(64 * i, 64 * (i + 1))
    np.testing.assert_array_equal(
      theirs[f"{layer}.self_attn.{x}_proj.weight"],
      weights[f"{block}.attn.in_proj_weight"][rows],
    )
    np.testing.assert_array_equal(
      theirs[f"{layer}.self_attn.{x}_proj.bias"],
      weights[f"{block}.attn.in_proj_bias"][rows],
    )
  np.testing.assert_array_equal(
    theirs["visual_projection.weight"], weights["visual.proj"].T
  )
  np.testing.assert_array_equal(
    theirs["text_projection.weight"], weights["text_projection"].T
  )


def test_timms_names_come_back_exactly():
  shapes = clip_keys.timm_resnet(4, (1, 2, 1, 1), embed=24, size=64)
  weights = clip_keys.randoms(shapes)
  variables, description = from_released(weights)
  assert_equal(to_released(variables, description, "timm"), kept(weights))

  # The same tower of OpenAI's names, counted from 1.
  openai = to_released(variables, description)
  assert_equal(
    {"visual": openai["visual.layer2.1.bn3.running_var"]},
    {"visual": weights["stages.1.1.conv3_1x1.bn.running_var"]},
  )
  assert {k: v.shape for k, v in openai.items()} == kept(
    clip_keys.resnet(4, (1, 2, 1, 1), embed=24, size=64)
  )
  again, same = from_released(openai)
  assert same == description
  jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize("sizes", [VIT, RESNET], ids=["vit", "resnet"])
def test_an_image_tower_alone_is_that_of_the_whole(sizes):
  weights = weights_of(sizes)
  whole, about = from_released(weights)
  visual = {k: v for k, v in weights.items() if k.startswith("visual.")}
  bare = {k.removeprefix("visual."): v for k, v in visual.items()}
  for alone in (visual, bare):
    variables, description = from_released(alone)
    assert description["kind"] == "clip_visual"
    for kind, tree in variables.items():
      jax.tree.map(np.testing.assert_array_equal, tree, whole[kind]["visual"])
    assert_equal(to_released(variables, description), kept(visual))
    fields = description["model"]
    module = clip.IMAGE_TOWERS[description["image_tower"]](**fields)
    assert module.heads == about["model"]["vision_heads"]


def test_a_state_dict_is_unwrapped():
  weights = weights_of(RESNET)
  want, about = from_released(weights)
  inner = {f"module.{name}": value for name, value in weights.items()}
  scale = inner["module.logit_scale"].reshape(1)
  wrapped = {
    "epoch": 32,
    "name": "RN50",
    "state_dict": inner | {"module.logit_scale": scale},
  }
  for form in (inner, wrapped):
    got, description = from_released(form)
    assert description == about
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert np.shape(got["params"]["logit_scale"]) == ()


def test_flax_parameters_may_be_nested():
  theirs = to_released(*from_released(weights_of(VIT)), "huggingface_flax")
  nested = traverse_util.unflatten_dict(theirs, sep="/")
  for a, b in zip(from_released(nested), from_released(theirs), strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# --- stored and used --------------------------------------------------------


@pytest.mark.parametrize("sizes", [VIT, RESNET], ids=["vit", "resnet"])
def test_stored_weights_serve_the_encoder(sizes, tmp_path):
  """A ResNet's running statistics reach the features, too."""
  vocab = bpe.load().clip_vocab_size
  shapes = clip_keys.openai(**sizes, length=10, vocab=vocab)
  variables, description = from_released(clip_keys.randoms(shapes))
  path = str(tmp_path / "clip.safetensors")
  files.save_params(path, variables, description)

  encoder = encoders.load_encoder(**tiny_world.encoder_block(path))
  size = description["image_size"]
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
  want = jax.jit(
    lambda v, x: clip.CLIP(**description["model"]).apply(
      v, clip.preprocess(x), method="encode_image"
    )
  )(variables, jnp.asarray(images))
  np.testing.assert_allclose(
    encoder.encode_images(images), want, atol=1e-4 * np.abs(want).max()
  )
  assert encoder.logit_scale == pytest.approx(np.exp(2.5))


def test_the_embedded_weights_have_released_names():
  """Descriptions that were written before the ResNet tower still serve."""
  path = files.EMBEDDED / "weights" / "clip.safetensors"
  params, description = files.load_params(path)
  params = params.get("params", params)
  params["logit_scale"] = np.reshape(params["logit_scale"], ())
  weights = to_released({"params": params}, description)
  fields = description["model"]
  again, same = from_released(
    weights,
    vision_heads=fields["vision_heads"],
    text_heads=fields["text_heads"],
  )
  # An older description leaves out what then had one value alone.
  assert same["model"] == {"image_tower": "vit"} | fields
  jax.tree.map(np.testing.assert_array_equal, again["params"], params)
