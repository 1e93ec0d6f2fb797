"""Released ResNets: every name and shape of the layouts, and what is wrong."""

import jax
import numpy as np
import pytest
from plain_weights import random, zeros

from synthjax.models.classifiers import backbone, make_classifier
from synthjax.models.resnet import weights as resnet_weights
from synthjax.runtime.errors import UserError
from synthjax.weights import files

SIZES = {
  "resnet18": ("basic", (2, 2, 2, 2)),
  "resnet34": ("basic", (3, 4, 6, 3)),
  "resnet50": ("bottleneck", (3, 4, 6, 3)),
}


def torchvision_shapes(
  block, stage_sizes, *, width=64, classes=1000, kernel=7, mlp=False
):
  """Returns torchvision's names with their shapes, written down by hand."""
  expansion = 4 if block == "bottleneck" else 1
  shapes = {}

  def norm(name, c):
    shapes[f"{name}.num_batches_tracked"] = ()
    for part in ("weight", "bias", "running_mean", "running_var"):
      shapes[f"{name}.{part}"] = (c,)

  shapes["conv1.weight"] = (width, 3, kernel, kernel)
  norm("bn1", width)
  c = width
  for i, size in enumerate(stage_sizes):
    narrow = width * 2**i
    wide = narrow * expansion
    for j in range(size):
      name = f"layer{i + 1}.{j}"
      convs = [(narrow, c, 3), (narrow, narrow, 3)]
      if block == "bottleneck":
        convs = [(narrow, c, 1), (narrow, narrow, 3), (wide, narrow, 1)]
      for k, (o, i_, side) in enumerate(convs, start=1):
        shapes[f"{name}.conv{k}.weight"] = (o, i_, side, side)
        norm(f"{name}.bn{k}", o)
      if c != wide:
        shapes[f"{name}.downsample.0.weight"] = (wide, c, 1, 1)
        norm(f"{name}.downsample.1", wide)
      c = wide
  if mlp:
    shapes |= {"fc.0.weight": (c, c), "fc.0.bias": (c,)}
    shapes |= {"fc.2.weight": (classes, c), "fc.2.bias": (classes,)}
  elif classes:
    shapes |= {"fc.weight": (classes, c), "fc.bias": (classes,)}
  return shapes


def small(**changes):
  return random(torchvision_shapes("bottleneck", (1, 2), width=4, **changes))


def moco(weights, prefix="module."):
  """Wraps weights as MoCo's training does."""
  pairs = {
    f"{prefix}encoder_{side}.{name}": weight
    for side in "qk"
    for name, weight in weights.items()
  }
  queue = {"queue": np.zeros((8, 32)), "queue_ptr": np.zeros(1, np.int64)}
  return pairs | {f"{prefix}{name}": w for name, w in queue.items()}


def tracked(weights):
  return [name for name in weights if name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("name", SIZES)
def test_full_size_weights_of_torchvision_and_timm_are_used_up(name):
  shapes = torchvision_shapes(*SIZES[name])
  if name == "resnet50":
    assert len(shapes) == 320
    assert len(shapes) - len(tracked(shapes)) == 267
  variables, description = resnet_weights.from_released(zeros(shapes))
  assert description == {
    "kind": "classifier",
    "model": {"name": name},
    "image_size": 224,
    "num_classes": 1000,
  }
  count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  norms = sum(
    np.prod(shapes[n.replace("num_batches_tracked", "weight")])
    for n in tracked(shapes)
  )
  total = sum(int(np.prod(s)) for s in shapes.values()) - len(tracked(shapes))
  assert count == total - 2 * norms  # all but the running statistics
  if name == "resnet50":
    assert count == 25_557_032
  released = resnet_weights.to_released(variables, description)
  assert {k: w.shape for k, w in released.items()} == {
    k: s for k, s in shapes.items() if k not in tracked(shapes)
  }


@pytest.mark.parametrize(
  ("mlp", "count"), [(True, 27_966_656), (False, 23_770_304)]
)
def test_full_size_weights_of_moco_are_used_up(mlp, count):
  shapes = torchvision_shapes(*SIZES["resnet50"], classes=128, mlp=mlp)
  weights = moco(zeros(shapes))
  variables, description = resnet_weights.from_released(weights)
  head = {"head": "mlp"} if mlp else {}
  assert description["kind"] == "classifier"
  assert description["model"] == {"name": "resnet50"} | head
  assert description["num_classes"] == 128
  leaves = jax.tree.leaves(variables["params"])
  assert sum(leaf.size for leaf in leaves) == count
  released = resnet_weights.to_released(variables, description, "moco")
  assert released.keys() == {
    name
    for name in weights
    if name.startswith("module.encoder_q.") and name not in tracked(weights)
  }


@pytest.mark.parametrize("layout", resnet_weights.LAYOUTS)
@pytest.mark.parametrize(
  "changes",
  [dict(), dict(classes=None), dict(classes=8, mlp=True), dict(kernel=3)],
  ids=str,
)
def test_weights_come_back_as_they_were(layout, changes, tmp_path):
  plain = small(**changes)
  weights = moco(plain) if layout == "moco" else plain
  variables, description = resnet_weights.from_released(weights)
  # Through a file, as it is stored.
  files.save_params(tmp_path / "w.safetensors", variables, description)
  variables, read = files.load_params(tmp_path / "w.safetensors")
  assert read == description
  released = resnet_weights.to_released(variables, description, layout)
  prefix = resnet_weights.LAYOUTS[layout]
  want = {k: w for k, w in plain.items() if k not in tracked(plain)}
  assert released.keys() == {prefix + name for name in want}
  for name, weight in want.items():
    np.testing.assert_array_equal(released[prefix + name], weight)


@pytest.mark.parametrize(
  "changes",
  [dict(classes=5), dict(classes=None), dict(classes=8, mlp=True)],
  ids=str,
)
def test_the_description_rebuilds_the_module(changes):
  weights = random(
    torchvision_shapes("basic", (1, 1, 2), width=8, kernel=3, **changes)
  )
  variables, description = resnet_weights.from_released(weights)
  assert description["image_size"] == 32
  classes = description["num_classes"]
  assert classes == changes["classes"]
  model = make_classifier(num_classes=classes, **description["model"])
  images = np.zeros((2, 16, 16, 3), np.float32)
  out = jax.eval_shape(model.apply, variables, images)
  assert out.shape == (2, classes or 32)
  hash(model)  # so that it can be a static argument


def test_statistics_and_kernels_land_where_they_belong():
  weights = small()
  variables, _ = resnet_weights.from_released(weights)
  params, stats = variables["params"], variables["batch_stats"]
  w = weights["layer2.0.downsample.0.weight"]
  kernel = params["layer2_0"]["downsample_conv"]["kernel"]
  assert kernel[0, 0, 3, 5] == w[5, 3, 0, 0]
  np.testing.assert_array_equal(
    stats["layer2_0"]["downsample_bn"]["var"],
    weights["layer2.0.downsample.1.running_var"],
  )
  np.testing.assert_array_equal(
    stats["bn1"]["mean"], weights["bn1.running_mean"]
  )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_encoder_alone_is_read_with_and_without_its_prefixes(prefix):
  weights = small(classes=None)
  want, _ = resnet_weights.from_released(weights)
  for found in (
    {f"{prefix}{name}": w for name, w in weights.items()},
    moco(weights, prefix),
  ):
    got, description = resnet_weights.from_released(found)
    assert description["num_classes"] is None
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_the_backbone_of_moco_starts_a_classifier():
  pretrained, description = resnet_weights.from_released(
    moco(small(classes=8, mlp=True))
  )
  sizes = {k: v for k, v in description["model"].items() if k != "head"}
  model = make_classifier(num_classes=None, **sizes)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  want = jax.eval_shape(model.init, jax.random.key(0), images)
  got = backbone(pretrained)
  assert jax.tree.structure(got) == jax.tree.structure(dict(want))
  assert "fc_0" in pretrained["params"]  # untouched


def test_all_that_does_not_fit_is_in_one_error():
  weights = small()
  weights["layer1.0.se.weight"] = np.zeros(3)
  weights["layer2.1.conv2.weight"] = np.zeros((8, 4, 3, 3))
  del weights["bn1.running_var"]
  with pytest.raises(UserError) as error:
    resnet_weights.from_released(weights)
  for words in (
    "layer1.0.se.weight: no rule takes it",
    "layer2_1/conv2/kernel: weights have (3, 3, 4, 8), the model needs",
    "batch_stats/bn1/var: weights have None",
  ):
    assert words in str(error.value)


def test_a_missing_stage_is_found():
  weights = {k: w for k, w in small().items() if not k.startswith("layer1.")}
  with pytest.raises(UserError, match="of layer2, and none of layer1"):
    resnet_weights.from_released(weights)


def test_names_beside_mocos_encoder_are_not_lost_silently():
  weights = moco(small()) | {"module.predictor.weight": np.zeros((2, 2))}
  with pytest.raises(UserError, match=r"module\.predictor\.weight: no rule"):
    resnet_weights.from_released(weights)


def test_other_weights_are_refused_with_the_expected_names():
  with pytest.raises(UserError, match=r"conv1\.weight.*Names found: cls_token"):
    resnet_weights.from_released({"cls_token": np.zeros((1, 1, 4))})
  with pytest.raises(UserError, match="none at all"):
    resnet_weights.from_released({})
  with pytest.raises(UserError, match=r"found \(4, 3, 5, 5\)"):
    resnet_weights.from_released(small(kernel=5))
  variables, description = resnet_weights.from_released(small())
  with pytest.raises(UserError, match="did you mean 'torchvision'"):
    resnet_weights.to_released(variables, description, "torchvison")
