"""The detector's sizes, its start from a ResNet, and its masked statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from synthjax.detection.faster_rcnn import (
  NEW,
  FasterRCNN,
  from_backbone,
  make_detector,
)
from synthjax.models.classifiers import make_classifier
from synthjax.models.resnet import weights as resnet_weights
from synthjax.runtime.errors import UserError

SMALL = dict(stage_sizes=(1, 1, 1), width=8, block="bottleneck")
ROIS = np.array([[[0, 0, 30, 20], [8, 4, 31, 31], [2, 2, 9, 30]]], np.float32)
VALID = np.array([[True, True, False]])


def shapes_of(model, size=64):
  return jax.eval_shape(
    model.init,
    jax.random.key(0),
    np.zeros((1, size, size, 3), np.float32),
    np.zeros((1, 1, 4), np.float32),
    np.ones((1, 1), bool),
  )


def filled(shapes, seed=0):
  """Returns random weights of given shapes; scales and variances near 1."""
  draws = np.random.default_rng(seed)

  def fill(path, x):
    if path[-1].key in ("scale", "var"):
      return draws.uniform(0.5, 1.5, x.shape).astype(np.float32)
    scale = np.prod(x.shape[:-1]) ** -0.5 if x.ndim > 1 else 0.3
    return draws.normal(0, scale, x.shape).astype(np.float32)

  return jax.tree_util.tree_map_with_path(fill, shapes)


def image(size=32):
  draws = np.random.default_rng(4)
  return draws.normal(size=(1, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def small():
  """Returns a small detector, random variables, and its compiled `apply`."""
  model = make_detector("resnet50", num_classes=3, **SMALL)
  variables = filled(shapes_of(model))

  @jax.jit
  def run(variables, images, rois, valid):
    return model.apply(
      variables, images, rois, valid, train=True, mutable=["batch_stats"]
    )

  return model, variables, run


def test_the_parts_of_r50_c4_have_the_parameters_of_the_reference():
  model = make_detector("resnet50", num_classes=20)
  params = shapes_of(model)["params"]
  count = lambda test: sum(
    np.prod(x.shape)
    for name in params
    if test(name)
    for x in jax.tree.leaves(params[name])
  )
  assert count(lambda name: True) == 33_234_160
  head = lambda name: name.startswith("layer4_")
  assert count(lambda n: n not in NEW and not head(n)) == 8_543_296
  assert count(lambda n: n.startswith("rpn_")) == 9_515_083
  assert count(head) == 14_964_736
  assert count(lambda n: n == "norm") == 4_096
  assert count(lambda n: n in ("cls_score", "bbox_pred")) == 206_949
  assert model.stride == 16


@pytest.mark.parametrize(
  ("stages", "stem", "stride"),
  [
    ((1, 1, 1), "imagenet", 8),
    ((1, 1, 1, 1), "imagenet", 16),
    ((1, 1, 1), "cifar", 2),
  ],
)
def test_the_stride_is_that_of_the_features(stages, stem, stride):
  model = make_detector(
    "resnet_tiny", num_classes=3, stage_sizes=stages, stem=stem, num_anchors=2
  )
  variables = shapes_of(model)
  images = jax.ShapeDtypeStruct((2, 64, 48, 3), np.float32)
  features, logits, deltas = jax.eval_shape(
    lambda v, x: model.apply(v, x, method="propose"), variables, images
  )
  h, w = 64 // stride, 48 // stride
  channels = 16 * 2 ** (len(stages) - 2)
  assert model.stride == stride
  assert features.shape == (2, h, w, channels)
  assert logits.shape == (2, h * w * 2) and deltas.shape == (2, h * w * 2, 4)


def test_the_first_weights_are_small_and_the_biases_zero():
  """N(0, 0.01), and N(0, 0.001) for what moves boxes."""
  layers = FasterRCNN(num_classes=20, **SMALL).bind({})
  for name in sorted(set(NEW) - {"norm"}):
    layer = getattr(layers, name)
    std = 0.001 if name == "bbox_pred" else 0.01
    kernel = layer.kernel_init(jax.random.key(0), (100, 200), jnp.float32)
    np.testing.assert_allclose(kernel.std(), std, rtol=0.05)
    assert abs(kernel.mean()) < 0.05 * std
    assert not layer.bias_init(jax.random.key(0), (3,), jnp.float32).any()


def test_bfloat16_is_of_the_torso_alone():
  model = make_detector("resnet50", num_classes=3, dtype="bfloat16", **SMALL)
  variables = shapes_of(model)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("f4")}
  run = lambda method, *args: jax.eval_shape(
    lambda v, *a: model.apply(v, *a, method=method), variables, *args
  )
  features, *rest = run("propose", image())
  assert features.dtype == jnp.bfloat16
  rest += run("classify", features, ROIS, VALID)
  assert {x.dtype for x in rest} == {np.dtype("f4")}
  assert [x.shape for x in rest[2:]] == [(1, 3, 4), (1, 3, 3, 4)]


def test_places_without_a_region_leave_no_trace(small):
  """Not in the statistics of BatchNorm, and not in the other regions."""
  _, variables, run = small
  (_, _, scores, boxes), stats = run(variables, image(), ROIS, VALID)
  moved = ROIS.copy()
  moved[0, 2] = [20, 1, 22, 12]
  (_, _, scores2, boxes2), stats2 = run(variables, image(), moved, VALID)
  np.testing.assert_array_equal(scores[:, :2], scores2[:, :2])
  np.testing.assert_array_equal(boxes[:, :2], boxes2[:, :2])
  jax.tree.map(np.testing.assert_array_equal, stats, stats2)

  everywhere = np.ones_like(VALID)
  (_, _, scores3, _), stats3 = run(variables, image(), moved, everywhere)
  mean = lambda stats, name: stats["batch_stats"][name]["mean"]
  assert np.abs(scores3[:, :2] - scores[:, :2]).max() > 1e-3
  assert np.abs(mean(stats, "norm") - mean(stats3, "norm")).max() > 1e-3
  # The backbone's statistics are those of the images, whatever the regions.
  np.testing.assert_array_equal(mean(stats, "bn1"), mean(stats3, "bn1"))


@pytest.mark.slow
def test_recomputing_the_blocks_changes_no_gradient(small):
  model, variables, _ = small

  def loss(params, model):
    outs, _ = model.apply(
      variables | {"params": params},
      image(),
      ROIS,
      VALID,
      train=True,
      mutable=["batch_stats"],
    )
    return sum((x**2).sum() for x in outs)

  grad = jax.jit(jax.grad(loss), static_argnums=1)
  with jax.default_matmul_precision("highest"):
    plain = grad(variables["params"], model)
    again = grad(variables["params"], model.clone(remat=True))
  for a, b in zip(*map(jax.tree.leaves, (plain, again)), strict=True):
    assert np.abs(a - b).max() <= 1e-4 * np.abs(a).max()


# --- the start from a ResNet ------------------------------------------------


def classifier(head="linear"):
  model = make_classifier("resnet50", num_classes=5, head=head, **SMALL)
  images = np.zeros((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  return filled(shapes, seed=7)


def test_a_resnet_gives_all_its_weights_but_the_heads(small):
  _, variables, _ = small
  resnet_variables = classifier()
  got = from_backbone(resnet_variables, variables)
  assert jax.tree.structure(got) == jax.tree.structure(variables)
  flat = lambda tree: traverse_util.flatten_dict(tree, sep="/")
  got, ours, theirs = map(flat, (got, variables, resnet_variables))
  for path, value in got.items():
    is_new = path.split("/")[1] in NEW
    want = ours[path] if is_new else theirs[path]
    np.testing.assert_array_equal(value, want, err_msg=path)
  unused = theirs.keys() - got.keys()
  assert unused == {"params/fc/kernel", "params/fc/bias"}


@pytest.mark.parametrize("layout", ["torchvision", "moco"])
def test_released_names_find_their_place(small, layout):
  _, variables, _ = small
  ours = classifier(head="mlp" if layout == "moco" else "linear")
  released = resnet_weights.to_released(ours, {}, layout=layout)
  read, _ = resnet_weights.from_released(released)
  jax.tree.map(
    np.testing.assert_array_equal,
    from_backbone(read, variables),
    from_backbone(ours, variables),
  )


def test_the_features_are_those_of_the_resnet(small):
  """A ResNet without its last stage, whose output is the mean over places."""
  model, variables, _ = small
  theirs = classifier()
  variables = from_backbone(theirs, variables)
  shorter = make_classifier(
    "resnet50", num_classes=None, **SMALL | {"stage_sizes": (1, 1)}
  )
  cut = {
    kind: {k: v for k, v in tree.items() if not k.startswith(("layer3", "fc"))}
    for kind, tree in theirs.items()
  }
  want = jax.jit(shorter.apply)(cut, image())
  features, _, _ = jax.jit(lambda v, x: model.apply(v, x, method="propose"))(
    variables, image()
  )
  np.testing.assert_allclose(features.mean((1, 2)), want, rtol=1e-5, atol=1e-6)


def test_a_backbone_of_other_shapes_is_refused_with_every_mismatch(small):
  _, variables, _ = small
  wrong = classifier()
  wrong["params"]["layer9_0"] = {"conv1": {"kernel": np.zeros(3)}}
  wrong["params"]["conv1"]["kernel"] = np.zeros((3, 3, 3, 8))
  del wrong["batch_stats"]["bn1"]["mean"]
  with pytest.raises(UserError, match="in 3 places") as error:
    from_backbone(wrong, variables)
  for words in (
    "params/layer9_0/conv1/kernel: the ResNet has (3,), the detector needs N",
    "params/conv1/kernel: the ResNet has (3, 3, 3, 8)",
    "batch_stats/bn1/mean: the ResNet has None, the detector needs (8,)",
  ):
    assert words in str(error.value)


def test_a_model_that_is_no_resnet_is_refused():
  with pytest.raises(UserError, match="'vit_tiny' is none"):
    make_detector("vit_tiny", num_classes=3)


def test_a_single_stage_is_refused():
  with pytest.raises(UserError, match=r"stage_sizes=\(1,\)"):
    shapes_of(make_detector("resnet_tiny", num_classes=3, stage_sizes=(1,)))
