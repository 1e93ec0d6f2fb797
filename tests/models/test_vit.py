"""Vision transformers: sizes, stochastic depth, positions of other grids."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from synthjax.models.classifiers import (
  backbone,
  describe,
  make_classifier,
)
from synthjax.models.conv import convolve_patches
from synthjax.models.vit import model as vit
from synthjax.runtime.errors import UserError
from synthjax.training import supervised


def shapes(model, size):
  images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)


def random_variables(model, size, seed=0):
  """Fills all parameters with numbers that keep activations near one."""
  rng = np.random.default_rng(seed)

  def fill(path, like):
    if path[-1].key == "kernel":
      fan_in = np.prod(like.shape[:-1])
      return rng.normal(0, fan_in**-0.5, like.shape).astype(np.float32)
    low, high = (0.5, 1.5) if path[-1].key == "scale" else (-0.5, 0.5)
    return rng.uniform(low, high, like.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes(model, size))


def tiny(**fields):
  return vit.ViT(
    **dict(patch_size=2, width=16, depth=2, heads=2, num_classes=3) | fields
  )


def random_images(n, size, seed=1):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(n, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize(
  ("name", "num_classes", "size", "count"),
  [
    ("deit_s", 1000, 224, 22_050_664),
    ("deit_s", 100, 224, 21_704_164),
    ("deit_ti", 1000, 224, 5_717_416),
    ("deit_b", 1000, 224, 86_567_656),
  ],
)
def test_parameters_are_as_many_as_in_deit(name, num_classes, size, count):
  model = make_classifier(name, num_classes=num_classes)
  params = shapes(model, size)["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_submodules_are_named_as_in_timm():
  params = shapes(make_classifier("vit_tiny", num_classes=5), 32)["params"]
  paths = {"/".join(path) for path in traverse_util.flatten_dict(params)}
  assert {
    "cls_token",
    "pos_embed",
    "patch_embed/proj/kernel",
    "patch_embed/proj/bias",
    "blocks_0/norm1/scale",
    "blocks_0/attn/qkv/kernel",
    "blocks_0/attn/proj/bias",
    "blocks_3/norm2/bias",
    "blocks_3/mlp/fc1/kernel",
    "blocks_3/mlp/fc2/kernel",
    "norm/scale",
    "head/kernel",
  } <= paths
  assert len(paths) == 4 + 4 * 12 + 4


def test_weights_start_with_timms_deviation():
  variables = jax.jit(tiny(width=64, depth=1).init)(
    jax.random.key(0), jnp.zeros((1, 16, 16, 3))
  )
  flat = traverse_util.flatten_dict(variables["params"], sep="/")
  for path, value in flat.items():
    if path.endswith("bias"):
      np.testing.assert_array_equal(value, 0, err_msg=path)
    elif path == "patch_embed/proj/kernel":  # uniform within 1 / sqrt(12)
      assert abs(value).max() <= 12**-0.5
      np.testing.assert_allclose(value.std(), 1 / 6, rtol=0.1)
    elif path.endswith(("kernel", "pos_embed")):
      np.testing.assert_allclose(value.std(), 0.02, rtol=0.15, err_msg=path)


def test_patches_as_a_product_equal_the_convolution():
  images, rng = random_images(2, 12), np.random.default_rng(0)
  kernel = rng.normal(size=(4, 4, 3, 5)).astype(np.float32)
  want = jax.lax.conv_general_dilated(
    images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  got = convolve_patches(images, kernel)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_images_need_not_be_square():
  model = tiny()
  images = jnp.ones((2, 4, 8, 3))
  params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  assert params["pos_embed"].shape == (1, 1 + 2 * 4, 16)


def test_without_classes_the_class_token_comes_back_in_float32():
  model = tiny(num_classes=None, dtype=jnp.bfloat16)
  variables = random_variables(model, 8)
  assert "head" not in variables["params"]
  features = jax.jit(model.apply)(variables, random_images(2, 8))
  assert features.shape == (2, 16) and features.dtype == jnp.float32
  full = jax.jit(tiny(num_classes=None).apply)(variables, random_images(2, 8))
  np.testing.assert_allclose(features, full, atol=0.1)


def test_backbone_drops_the_head_alone():
  variables = random_variables(tiny(), 8)
  features = jax.jit(tiny(num_classes=None).apply)(
    backbone(variables), random_images(2, 8)
  )
  head = variables["params"]["head"]
  np.testing.assert_allclose(
    features @ head["kernel"] + head["bias"],
    jax.jit(tiny().apply)(variables, random_images(2, 8)),
    atol=1e-5,
  )


# --- stochastic depth -------------------------------------------------------


class DropPath(nn.Module):
  rate: float

  @nn.compact
  def __call__(self, x, train):
    return vit.drop_path(self.rate, train)(x)


def test_a_branch_is_kept_or_dropped_whole_and_keeps_its_mean():
  n, rate = 20_000, 0.3
  x = jnp.broadcast_to(jnp.array([[1.0, -2.0], [0.5, 3.0]]), (n, 2, 2))
  y = np.asarray(
    DropPath(rate).apply({}, x, True, rngs={"dropout": jax.random.key(0)})
  )
  kept = y[:, 0, 0] != 0
  np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-6)
  np.testing.assert_array_equal(y[~kept], 0)
  # A kept share is binomial: its deviation is sqrt(rate (1 - rate) / n).
  deviation = (rate * (1 - rate) / n) ** 0.5
  assert abs(kept.mean() - (1 - rate)) < 4 * deviation
  np.testing.assert_array_equal(DropPath(rate).apply({}, x, False), x)


def test_rates_grow_linearly_with_depth():
  model, rates = make_classifier("deit_ti", num_classes=2, drop_path=0.1), []

  def watch(call, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.broadcast_dims:
      rates.append(context.module.rate)
    return call(*args, **kwargs)

  with nn.intercept_methods(watch):
    shapes(model, 32)
  np.testing.assert_allclose(rates, np.repeat(np.linspace(0, 0.1, 12), 2))


def test_each_image_takes_one_of_the_four_ways_through_a_block():
  """The first block is always run; the second keeps a branch half the time."""
  model = tiny(drop_path=0.5)
  variables = random_variables(model, 8)
  images = np.repeat(random_images(1, 8), 200, axis=0)
  rngs = {"dropout": jax.random.key(0)}
  train = jax.jit(partial(model.apply, train=True))
  got = train(variables, images, rngs=rngs)  # [200, 3]
  evaluate = jax.jit(tiny().apply)

  def outcome(attn, mlp):
    """Returns the logits when the last layers of the branches are scaled."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    for path, factor in (("attn/proj", attn), ("mlp/fc2", mlp)):
      for kind in ("kernel", "bias"):
        name = f"params/blocks_1/{path}/{kind}"
        flat[name] = factor * flat[name]
    scaled = traverse_util.unflatten_dict(flat, sep="/")
    return evaluate(scaled, images[:1])[0]

  outcomes = np.stack([outcome(a, m) for a in (0, 2) for m in (0, 2)])
  distances = abs(np.asarray(got)[:, None] - outcomes).max(-1)  # [200, 4]
  assert distances.min(-1).max() < 1e-5
  counts = np.bincount(distances.argmin(-1), minlength=4)
  assert (abs(counts - 50) < 4 * (200 * 0.25 * 0.75) ** 0.5).all()


def test_dropout_is_active_in_training_alone():
  model = tiny(dropout=0.5)
  variables, images = random_variables(model, 8), random_images(2, 8)
  train = jax.jit(partial(model.apply, train=True))
  run = lambda seed: train(
    variables, images, rngs={"dropout": jax.random.key(seed)}
  )
  assert not np.allclose(run(0), run(1))
  np.testing.assert_array_equal(run(0), run(0))
  np.testing.assert_array_equal(
    jax.jit(model.apply)(variables, images),
    jax.jit(tiny().apply)(variables, images),
  )


@pytest.mark.slow
def test_rematerialised_blocks_have_the_same_gradients():
  images, rngs = random_images(2, 8), {"dropout": jax.random.key(0)}
  fields = dict(drop_path=0.5, dropout=0.1)
  variables = random_variables(tiny(), 8)

  def gradients(model):
    loss = lambda v: jnp.square(
      model.apply(v, images, train=True, rngs=rngs)
    ).mean()
    return jax.jit(jax.grad(loss))(variables)

  plain, again = (gradients(tiny(remat=r, **fields)) for r in (False, True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again
  )


def test_the_supervised_objective_trains_it():
  model = tiny(drop_path=0.2, dropout=0.1)
  objective = supervised.supervised(model, optax.adamw(3e-3))
  labels = np.arange(12) % 3
  # Each class has its own colour.
  images = np.zeros((12, 8, 8, 3), np.uint8)
  images[np.arange(12), :, :, labels] = 255
  batch = {"image": images, "label": labels}
  variables = random_variables(model, 8)
  shape_of = lambda rng: objective.init(rng, batch)
  assert jax.eval_shape(shape_of, jax.random.key(0)).variables.keys() == {
    "params"
  }
  opt_state = optax.adamw(3e-3).init(variables["params"])
  state = supervised.SupervisedState(jnp.array(0), variables, None, opt_state)
  step = jax.jit(objective.step)
  for i in range(40):
    state, _ = step(state, batch, jax.random.key(i))
  predict = supervised.predictor(model)
  logits = supervised.evaluate(predict, state.variables, images, batch_size=12)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  assert loss.max() < 0.1


# --- what does not fit ------------------------------------------------------


def test_wrong_inputs_are_refused_with_a_remedy():
  variables = random_variables(tiny(), 8)
  with pytest.raises(UserError, match=r"64 patches.*for 16.*resize_positions"):
    tiny().apply(variables, random_images(1, 16))
  with pytest.raises(UserError, match=r"patches of 2 px.*(?s:.)*heads=5"):
    shapes(tiny(heads=5), 9)
  with pytest.raises(UserError, match=r"not those of.*3 x 3.*\[1, 10, d\]"):
    vit.resize_positions(variables["params"]["pos_embed"], 3, 4)
  with pytest.raises(UserError, match="did you mean 'drop_path'"):
    make_classifier("deit_s", num_classes=2, drop_paht=0.1)


def test_a_description_gives_the_same_module_again():
  sizes = dict(patch_size=16, width=384, depth=12, heads=6, mlp_ratio=4.0)
  assert describe(vit.MODELS, sizes) == {"name": "deit_s"}
  sizes |= dict(depth=3, mlp_ratio=2.0)
  found = describe(vit.MODELS, sizes)
  assert found == {"name": "deit_s", "depth": 3, "mlp_ratio": 2.0}
  model = make_classifier(num_classes=2, **found)
  assert {name: getattr(model, name) for name in sizes} == sizes


# --- positions ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ((14, 14), (24, 24)),
    ((14, 14), (7, 7)),
    ((24, 24), (14, 14)),
    ((5, 3), (4, 9)),
    ((2, 2), (5, 5)),
    ((6, 6), (1, 1)),
  ],
)
def test_positions_are_resized_as_in_pytorch(old, new):
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  positions = rng.normal(size=(1, 1 + old[0] * old[1], 6)).astype(np.float32)
  # In float64, as in float32 PyTorch's own places are rounded.
  grid = torch.from_numpy(positions[:, 1:]).double().reshape(1, *old, 6)
  want = torch.nn.functional.interpolate(
    grid.permute(0, 3, 1, 2), size=new, mode="bicubic", align_corners=False
  )
  want = want.permute(0, 2, 3, 1).reshape(1, -1, 6).numpy()
  got = vit.resize_positions(positions, old, new)
  np.testing.assert_array_equal(got[:, :1], positions[:, :1])
  np.testing.assert_allclose(got[:, 1:], want, atol=2e-6)


def test_the_cubic_has_the_weights_of_its_formula():
  """Halfway between two places, a = -0.75 gives -3, 19, 19, -3 of 32."""
  line = np.zeros((1, 1 + 4, 4), np.float32)
  line[0, 1:] = np.eye(4)
  got = vit.resize_positions(line, (1, 4), (1, 2))
  np.testing.assert_allclose(got[0, 1] * 32, [-3 + 19, 19, -3, 0], atol=1e-5)
  np.testing.assert_allclose(got[0, 2] * 32, [0, -3, 19, 19 - 3], atol=1e-5)


def test_the_same_grid_changes_nothing_and_params_are_taken_too():
  params = random_variables(tiny(), 8)["params"]
  same = vit.resize_positions(params["pos_embed"], 4, 4)
  np.testing.assert_allclose(same, params["pos_embed"], atol=1e-6)
  larger = vit.resize_positions(params, 4, (8, 8))
  assert larger.keys() == params.keys()
  logits = tiny().apply({"params": larger}, random_images(2, 16))
  assert logits.shape == (2, 3)
  assert params["pos_embed"].shape == (1, 17, 16)
