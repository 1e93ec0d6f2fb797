"""Tests of the ResNets: parameter counts, and parity with PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from synthjax.models.resnet import model as resnet


def shapes(model, size=32):
  images = jnp.zeros((1, size, size, 3))
  return jax.eval_shape(model.init, jax.random.key(0), images)


def random_variables(model, seed=0):
  """Fills all variables with numbers that keep activations near one."""
  rng = np.random.default_rng(seed)

  def fill(path, like):
    if path[-1].key == "kernel":
      fan_in = np.prod(like.shape[:-1])
      return rng.normal(0, fan_in**-0.5, like.shape).astype(np.float32)
    low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.2, 0.2)
    return rng.uniform(low, high, like.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes(model))


@pytest.mark.parametrize(
  "name, num_classes, stem, count",
  [
    ("resnet50", 1000, "imagenet", 25_557_032),
    ("resnet50", 100, "imagenet", 23_712_932),
    ("resnet50", 100, "cifar", 23_705_252),
    ("resnet18", 1000, "imagenet", 11_689_512),
    ("resnet34", 1000, "imagenet", 21_797_672),
  ],
)
def test_parameters_are_as_many_as_in_torchvision(
  name, num_classes, stem, count
):
  model = resnet.MODELS[name](num_classes=num_classes, stem=stem)
  params = shapes(model)["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
  ("head", "count"), [("linear", 23_770_304), ("mlp", 27_966_656)]
)
def test_parameters_are_as_many_as_in_moco(head, count):
  model = resnet.MODELS["resnet50"](num_classes=128, head=head)
  params = shapes(model)["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_mocos_head_is_two_layers_with_a_relu_between():
  fields = dict(stage_sizes=(1,), block="basic", width=8, stem="cifar")
  model = resnet.ResNet(num_classes=5, head="mlp", **fields)
  variables = random_variables(model)
  params = dict(variables["params"])
  hidden, out = params.pop("fc_0"), params.pop("fc_2")
  images = np.random.default_rng(1).normal(size=(3, 8, 8, 3))
  features = jax.jit(resnet.ResNet(num_classes=None, **fields).apply)(
    variables | {"params": params}, images
  )
  x = np.maximum(features @ hidden["kernel"] + hidden["bias"], 0)
  assert (x == 0).any() and x.shape == features.shape
  want = x @ out["kernel"] + out["bias"]
  got = jax.jit(model.apply)(variables, images)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_submodules_are_named_as_in_torchvision():
  params = shapes(resnet.MODELS["resnet50"](num_classes=10))["params"]
  paths = {"/".join(path) for path in traverse_util.flatten_dict(params)}
  assert {
    "conv1/kernel",
    "bn1/scale",
    "layer1_0/conv3/kernel",
    "layer1_0/downsample_conv/kernel",
    "layer4_2/bn3/bias",
    "fc/kernel",
  } <= paths


def torch_resnet(variables, images, *, model, train):
  """Computes the same network in PyTorch; returns logits and new statistics.

  Written down from the paper and torchvision's conventions, with the weights
  looked up by their path.
  """
  torch = pytest.importorskip("torch")
  F = torch.nn.functional
  flat = traverse_util.flatten_dict(variables, sep="/")
  weights = {k: torch.from_numpy(np.array(v)) for k, v in flat.items()}

  def conv(x, path, stride=1):
    w = weights[f"params/{path}/kernel"].permute(3, 2, 0, 1)
    return F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2)

  def norm(x, path):
    mean, var = (weights[f"batch_stats/{path}/{s}"] for s in ("mean", "var"))
    scale, bias = (weights[f"params/{path}/{s}"] for s in ("scale", "bias"))
    # Flax's running variance is that of the batch, PyTorch's that of a sample.
    biased = 0.9 * var + 0.1 * x.var((0, 2, 3), unbiased=False)
    y = F.batch_norm(x, mean, var, scale, bias, train, 0.1, 1e-5)
    return (var.copy_(biased), y)[1] if train else y

  def block(x, path, convs, stride):
    y = x
    # v1.5: the stride is on the first 3x3.
    for k in range(convs):
      strided = k == convs - 2
      y = conv(y, f"{path}/conv{k + 1}", stride if strided else 1)
      y = norm(y, f"{path}/bn{k + 1}")
      y = y.relu() if k < convs - 1 else y
    if f"params/{path}/downsample_conv/kernel" in weights:
      x = conv(x, f"{path}/downsample_conv", stride)
      x = norm(x, f"{path}/downsample_bn")
    return (x + y).relu()

  imagenet = model.stem == "imagenet"
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  x = norm(conv(x, "conv1", 2 if imagenet else 1), "bn1").relu()
  x = F.max_pool2d(x, 3, 2, 1) if imagenet else x
  for i, size in enumerate(model.stage_sizes):
    for j in range(size):
      convs = 2 if model.block == "basic" else 3
      stride = 2 if i > 0 and j == 0 else 1
      x = block(x, f"layer{i + 1}_{j}", convs, stride)
  w, b = weights["params/fc/kernel"], weights["params/fc/bias"]
  logits = x.mean((2, 3)) @ w + b
  stats = {k: v.numpy() for k, v in weights.items() if k[0] == "b"}
  return logits.numpy(), stats


@pytest.mark.parametrize("stem", resnet.STEMS)
@pytest.mark.parametrize("block", resnet.BLOCKS)
@pytest.mark.parametrize("train", [False, True])
def test_logits_and_statistics_equal_pytorch(stem, block, train):
  model = resnet.ResNet((1, 2), 5, block=block, width=8, stem=stem)
  variables = random_variables(model)
  rng = np.random.default_rng(1)
  images = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)

  @jax.jit
  def apply(variables, images):
    return model.apply(variables, images, train=train, mutable=["batch_stats"])

  logits, updated = apply(variables, images)
  want, stats = torch_resnet(variables, images, model=model, train=train)
  np.testing.assert_allclose(logits, want, atol=2e-5)
  got = traverse_util.flatten_dict(updated, sep="/")
  assert got.keys() == stats.keys()
  for path, value in got.items():
    np.testing.assert_allclose(value, stats[path], atol=2e-5, err_msg=path)


@pytest.mark.parametrize("block", resnet.BLOCKS.values())
def test_blocks_start_as_their_shortcut(block):
  wide = 8 if block is resnet.Bottleneck else 2  # so that none is projected
  x = jax.random.uniform(jax.random.key(1), (1, 4, 4, wide))
  model = block(2)
  init = jax.jit(partial(model.init, train=False))
  variables = init(jax.random.key(0), x)
  out = jax.jit(partial(model.apply, train=False))(variables, x)
  np.testing.assert_array_equal(out, x)


def test_without_classes_the_pooled_features_come_back():
  model = resnet.MODELS["resnet_tiny"](num_classes=None, dtype="bfloat16")
  variables = random_variables(model)
  assert "fc" not in variables["params"]
  features = jax.jit(model.apply)(variables, jnp.ones((2, 8, 8, 3)))
  assert features.shape == (2, 64) and features.dtype == jnp.float32


@pytest.mark.slow
def test_rematerialised_blocks_change_nothing_but_memory():
  """Outputs, statistics and gradients, in the same tree of parameters."""
  fields = dict(stage_sizes=(1, 1), num_classes=5, width=8, stem="cifar")
  plain, again = (resnet.ResNet(remat=r, **fields) for r in (False, True))
  variables = random_variables(plain)
  assert shapes(again) == shapes(plain)
  images = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("f4")

  def loss_and_gradients(model):
    def loss_fn(params):
      logits, stats = model.apply(
        variables | {"params": params},
        images,
        train=True,
        mutable=["batch_stats"],
      )
      return jnp.square(logits).mean(), (logits, stats)

    grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True))
    text = grad_fn.lower(variables["params"]).as_text()
    return grad_fn(variables["params"]), text.count("stablehlo.convolution")

  (want, count), (got, count_again) = map(loss_and_gradients, (plain, again))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5),
    want,
    got,
  )
  assert count_again > count  # those of the forward pass, once more


def test_unknown_choices_name_the_known_ones():
  with pytest.raises(ValueError, match="stem='small'.*imagenet, cifar"):
    shapes(resnet.ResNet((1,), 3, stem="small"))
  with pytest.raises(ValueError, match="block='wide'.*basic, bottleneck"):
    shapes(resnet.ResNet((1,), 3, block="wide"))
  with pytest.raises(ValueError, match="head='mpl'.*linear, mlp"):
    shapes(resnet.ResNet((1,), 3, head="mpl"))
