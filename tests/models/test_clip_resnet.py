"""CLIP's ResNet tower: names, BatchNorm, precision, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny_clip import TINY, TINY_RESNET, fill, images_of, shapes

from synthjax.models.clip import model as clip


@pytest.fixture(scope="module")
def tiny_resnet():
  model = clip.CLIP(**TINY_RESNET)
  return model, fill(shapes(model))


def test_submodules_of_the_resnet_are_named_as_in_the_released_weights():
  flat = traverse_util.flatten_dict(shapes(clip.CLIP(**TINY_RESNET)), sep="/")
  assert {
    "params/visual/conv3/kernel",
    "params/visual/layer1_0/downsample_0/kernel",
    "params/visual/layer2_1/conv3/kernel",
    "params/visual/attnpool/positional_embedding",
    "params/visual/attnpool/c_proj/bias",
    "batch_stats/visual/layer4_0/downsample_1/mean",
  } <= flat.keys()
  # A block has a projected shortcut only where the shape changes.
  assert "params/visual/layer2_1/downsample_0/kernel" not in flat
  assert all(leaf.dtype == jnp.float32 for leaf in flat.values())


def test_without_training_the_running_statistics_are_used(tiny_resnet):
  model, variables = tiny_resnet
  images = images_of(model)
  encode = jax.jit(lambda v, x: model.apply(v, x, method="encode_image"))
  features = encode(variables, images)
  assert features.shape == (4, 16) and features.dtype == jnp.float32
  # An image's features do not depend on the others of its batch.
  np.testing.assert_allclose(
    features[:1], encode(variables, images[:1]), atol=1e-5
  )
  other = variables | {"batch_stats": fill(variables["batch_stats"], seed=9)}
  assert np.abs(features - encode(other, images)).max() > 1e-3


def test_with_training_the_batch_is_used_and_statistics_move(tiny_resnet):
  model, variables = tiny_resnet
  images = images_of(model)

  @jax.jit
  def encode(variables):
    return model.apply(
      variables,
      images,
      train=True,
      method="encode_image",
      mutable=["batch_stats"],
    )

  features, updated = encode(variables)
  other = variables | {"batch_stats": fill(variables["batch_stats"], seed=9)}
  np.testing.assert_allclose(features, encode(other)[0], atol=1e-5)

  # The first convolution's, by hand: a tenth of the way to the batch's.
  kernel = variables["params"]["visual"]["conv1"]["kernel"]
  y = jax.lax.conv_general_dilated(
    images,
    kernel,
    (2, 2),
    [(1, 1)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  for name, of_batch in (
    ("mean", y.mean((0, 1, 2))),
    ("var", y.var((0, 1, 2))),
  ):
    before = variables["batch_stats"]["visual"]["bn1"][name]
    after = updated["batch_stats"]["visual"]["bn1"][name]
    want = 0.9 * before + 0.1 * of_batch
    np.testing.assert_allclose(after, want, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [TINY, TINY_RESNET], ids=["vit", "resnet"])
def test_computing_blocks_again_changes_no_value_and_no_gradient(sizes):
  plain, again = clip.CLIP(**sizes), clip.CLIP(**sizes, remat=True)
  like = shapes(plain)
  assert jax.tree.map(jnp.shape, like) == jax.tree.map(jnp.shape, shapes(again))
  variables, images = fill(like), images_of(plain)
  tokens = jnp.array([[1, 19, 0], [2, 19, 0], [3, 4, 19]])

  def gradients(model):
    def loss(params):
      logits, updated = model.apply(
        variables | {"params": params},
        images,
        tokens,
        train=True,
        mutable=["batch_stats"],
      )
      return jax.nn.logsumexp(logits), updated

    function = jax.value_and_grad(loss, has_aux=True)
    jaxpr = str(jax.make_jaxpr(function)(variables["params"]))
    return jaxpr.count("remat"), jax.jit(function)(variables["params"])

  (few, want), (many, got) = gradients(plain), gradients(again)
  assert many > few == 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
  )


def test_the_resnet_in_bfloat16_agrees_with_float32():
  """Within 2% of the largest feature (measured: 0.7%); one rounding is 0.4%.

  The width is that of a real stage divided by four: with fewer channels a
  rounded one counts too much.
  """
  sizes = TINY_RESNET | {"vision_width": 16, "embed_dim": 64}
  full, half = clip.CLIP(**sizes), clip.CLIP(**sizes, dtype="bfloat16")
  variables, images = of_unit_variance(shapes(full)), images_of(full)
  encode = lambda model: jax.jit(
    lambda v: model.apply(v, images, method="encode_image")
  )(variables)
  want, got = encode(full), encode(half)
  assert got.dtype == jnp.float32
  error = np.abs(got - want).max() / np.abs(want).max()
  assert 0 < error < 0.02


def of_unit_variance(like):
  """Fills kernels so that activations stay near one, as in trained weights."""
  variables = fill(like)
  rng = np.random.default_rng(3)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: (
      rng.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape).astype(np.float32)
      if path[-1].key == "kernel"
      else x
    ),
    variables,
  )


@pytest.mark.parametrize(
  "change, message",
  [
    ({"image_size": 40}, "image_size=40 must be a multiple of 32"),
    ({"patch_size": 16}, "patch_size=16 belongs to a ViT"),
    ({"vision_layers": 3}, "layers=3 must be the blocks of each of four"),
    ({"vision_layers": (1, 1)}, r"layers=\(1, 1\)"),
    ({"vision_heads": 3}, "heads=3 must divide 32 \\* width = 128"),
    (
      {"image_size": 64, "patch_size": 1},
      r"patch_size=1.*\(1, 32, 32, 3\) must be resized to \[n, 64, 64, 3\]",
    ),
  ],
)
def test_sizes_that_do_not_fit_the_resnet_say_so(change, message):
  model = clip.CLIP(**TINY_RESNET | change)
  images, tokens = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 6), int)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(model.init, jax.random.key(0), images, tokens)
