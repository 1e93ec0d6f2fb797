"""The CLIP encoder: whole batches, any number of rows, clear refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from etils import epath

from synthjax import encoders
from synthjax.encoders import batching, resize
from synthjax.encoders import clip as encoder_of
from synthjax.models.clip import model as clip
from synthjax.models.clip import projection, resnet
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import files


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_world.write_clip(
    tmp_path_factory.mktemp("clip") / "a.safetensors"
  )


@pytest.fixture(scope="module")
def encoder(weights):
  return encoders.load_encoder(**tiny_world.encoder_block(weights))


def images_of(n, size=32, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_features_are_those_of_the_model(weights, encoder):
  params, about = files.load_params(weights)
  params["logit_scale"] = np.reshape(params["logit_scale"], ())
  model, variables = clip.CLIP(**about["model"]), {"params": params}
  images, texts = images_of(3), ["a red apple", "a bird"]
  tokens = bpe.load().clip_tokens(texts, model.context_length)
  np.testing.assert_allclose(
    encoder.encode_images(images),
    model.apply(
      variables, clip.preprocess(jnp.asarray(images)), method="encode_image"
    ),
    rtol=1e-5,
    atol=1e-5,
  )
  np.testing.assert_allclose(
    encoder.encode_texts(texts),
    model.apply(variables, tokens, method="encode_text"),
    rtol=1e-5,
    atol=1e-5,
  )
  assert encoder.logit_scale == pytest.approx(
    float(np.exp(params["logit_scale"]))
  )


def test_features_before_the_projection_lead_to_those_behind_it(encoder):
  images = images_of(3)
  z = encoder.unprojected.encode_images(images)
  last = projection.read(encoder.network.variables["params"])
  want = encoder.encode_images(images)
  np.testing.assert_allclose(last(z), want, rtol=1e-5, atol=1e-5)
  assert np.abs(z - want).max() > 0.1
  assert encoder.unprojected.identity == encoder.identity | {
    "features": "before the projection"
  }


def test_the_projection_of_a_resnet_is_the_output_of_its_pool():
  x = np.random.default_rng(0).normal(size=(2, 2, 2, 8)).astype(np.float32)
  make = lambda d: resnet.AttentionPool(embed_dim=d, heads=2, name="attnpool")
  params = jax.jit(make(3).init)(jax.random.key(0), x)["params"]
  params["c_proj"]["bias"] += 1.0
  last = projection.read({"attnpool": params})
  plain = projection.replace({"attnpool": params}, projection.identity(8))
  z = jax.jit(make(8).apply)({"params": plain["attnpool"]}, x)
  want = jax.jit(make(3).apply)({"params": params}, x)
  np.testing.assert_allclose(last(z), want, rtol=1e-5, atol=1e-5)
  again = projection.replace(plain, last)["attnpool"]
  jax.tree.map(np.testing.assert_array_equal, again, params)


def test_features_are_measured_in_float32_unless_asked(weights, encoder):
  """As older runs have it, the identity names what is not float32 alone."""
  assert "precision" not in encoder.identity
  block = tiny_world.encoder_block(weights)
  faster = encoders.load_encoder(**block, precision="default")
  assert faster.identity == encoder.identity | {"precision": "default"}
  traced = []

  def function(variables, x):
    traced.append(jax.config.jax_default_matmul_precision)
    return x @ variables

  variables = batching.replicate(np.eye(2, dtype=np.float32))
  rows = [np.ones((1, 2), np.float32)]
  for more in ({}, {"precision": "default"}):
    size = batching.on_all_devices(1)
    batching.in_batches(function, variables, batch_size=size, width=2, **more)(
      rows
    )
  assert traced == ["highest", "default"]


@pytest.mark.parametrize("n", [1, 8, 19])
def test_the_rest_of_the_batch_changes_nothing(encoder, n):
  """19 images are two whole batches of 8, and one that is filled up."""
  images = images_of(19)
  features = encoder.encode_images(images[:n])
  assert features.shape == (n, 16) and features.dtype == np.float32
  alone = np.concatenate([encoder.encode_images(x[None]) for x in images[:n]])
  np.testing.assert_allclose(features, alone, rtol=1e-5, atol=1e-6)


def test_no_rows_have_no_features(encoder):
  assert encoder.encode_images(images_of(0)).shape == (0, 16)
  assert encoder.encode_texts([]).shape == (0, 16)


def test_images_of_several_sizes_are_made_fit(encoder):
  wide = np.repeat(np.repeat(images_of(1)[0], 2, 0), 3, 1)  # 64 x 96
  features = encoder.encode_images([wide, images_of(1)[0]])
  fit = resize.fit_image(wide, 32)
  assert fit.shape == (32, 32, 3)
  np.testing.assert_allclose(
    features[0], encoder.encode_images(fit[None])[0], rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("size", [(32, 32), (40, 40), (64, 96)])
def test_host_and_device_give_the_same_features(weights, size):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (11, *size, 3), dtype=np.uint8)
  features = [
    encoders.load_encoder(
      **tiny_world.encoder_block(weights), resize=resize
    ).encode_images(images)
    for resize in ("host", "device")
  ]
  np.testing.assert_allclose(features[1], features[0], rtol=1e-5, atol=1e-6)


def test_the_device_compiles_for_a_few_sizes_alone(weights, monkeypatch):
  """Real images come in any size: the host resizes those beyond the limit."""
  monkeypatch.setattr(batching, "MAX_SHAPES", 1)
  on_host = []

  def fit_image(image, size):
    on_host.append(image.shape)
    return resize.fit_image(image, size)

  family = encoder_of.FAMILY._replace(fit_image=fit_image)
  monkeypatch.setattr(encoder_of, "FAMILY", family)
  encoder = encoders.load_encoder(
    **tiny_world.encoder_block(weights), resize="device"
  )
  encoder.encode_images(images_of(2, size=40))
  encoder.encode_images(images_of(2, size=41))
  assert on_host == [(41, 41, 3)] * 2
  encoder.encode_images([images_of(1, size=40)[0], images_of(1, size=41)[0]])
  assert on_host[2:] == [(40, 40, 3), (41, 41, 3)]


def test_an_unknown_place_to_resize_is_refused(weights):
  block = tiny_world.encoder_block(weights) | {"resize": "devise"}
  with pytest.raises(UserError, match="did you mean 'device'"):
    encoders.load_encoder(**block)


@pytest.mark.parametrize(
  "image",
  [
    np.zeros((32, 32, 3), np.float32),
    np.zeros((32, 32), np.uint8),
    np.zeros((32, 32, 4), np.uint8),
  ],
)
def test_what_is_no_colour_image_is_refused(encoder, image):
  with pytest.raises(ValueError, match="needed uint8"):
    encoder.encode_images([image])


def test_identity_tells_weights_apart(encoder, tmp_path):
  other = tiny_world.write_clip(tmp_path / "b.safetensors", seed=1)
  block = tiny_world.encoder_block(other)
  assert encoders.load_encoder(**block).identity != encoder.identity
  # What does not change the features does not change the identity.
  block["batch_size"] = 4
  smaller = encoders.load_encoder(**block)
  block["batch_size"] = 2
  assert encoders.load_encoder(**block).identity == smaller.identity


# --- what is refused --------------------------------------------------------


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"name": "clop"}, "did you mean 'clip'"),
    ({"batchsize": 8}, "did you mean 'batch_size'"),
    ({"batch_size": 0}, "batch_size=0: needed a whole number, 1 or more"),
    ({"dtype": "half"}, "dtype='half': needed one of float32"),
    ({"weights": "missing.safetensors"}, ":runlocal"),
    ({"weights": None}, ":runlocal"),
    ({"tokenizer": "missing.json"}, "embedded:tokenizer.json"),
  ],
)
def test_check_says_what_is_wrong(weights, changes, words):
  block = tiny_world.encoder_block(weights) | changes
  with pytest.raises(UserError, match=words):
    encoders.check_encoder(**block)


def test_a_missing_field_is_named(weights):
  block = tiny_world.encoder_block(weights)
  del block["batch_size"]
  with pytest.raises(UserError, match="lacks batch_size"):
    encoders.check_encoder(**block)


@pytest.mark.faults
def test_weights_of_something_else_are_refused(tmp_path):
  path = tmp_path / "glide.safetensors"
  files.save_params(path, {"w": np.zeros(3)}, {"kind": "glide"})
  with pytest.raises(UserError, match="'glide'"):
    encoders.load_encoder(**tiny_world.encoder_block(str(path)))


@pytest.mark.faults
def test_a_tokenizer_of_other_weights_is_refused(tmp_path):
  path = tiny_world.write_clip(tmp_path / "c.safetensors", vocab_size=99)
  with pytest.raises(UserError, match="99 tokens"):
    encoders.load_encoder(**tiny_world.encoder_block(path))


@pytest.mark.faults
def test_weights_that_are_cut_short_are_refused(weights, tmp_path):
  path = tmp_path / "short.safetensors"
  with open(weights, "rb") as file:
    path.write_bytes(file.read()[:5000])
  with pytest.raises(UserError, match="cut short"):
    encoders.load_encoder(**tiny_world.encoder_block(str(path)))


def test_weights_and_tokenizer_can_be_in_a_bucket(bucket, weights, encoder):
  block = tiny_world.encoder_block(weights)
  paths = {
    "weights": files.locate(block["weights"], field="x", family="clip"),
    "tokenizer": bpe.locate(block["tokenizer"]),
  }
  for name, path in paths.items():
    there = epath.Path(bucket) / path.name
    there.write_bytes(path.read_bytes())
    block[name] = str(there)
  found = encoders.load_encoder(**block)
  assert found.identity == encoder.identity
  np.testing.assert_array_equal(
    found.encode_texts(["a crane"]), encoder.encode_texts(["a crane"])
  )
