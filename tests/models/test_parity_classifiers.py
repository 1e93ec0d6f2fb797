"""Converted classifiers compute what PyTorch computes with the same weights.

The ResNet is written down below as `torch.nn` modules, so that its state dict
has torchvision's names by itself; the ViT is that of transformers.
"""

from functools import partial

import jax
import numpy as np
import pytest

from synthjax.models.classifiers import make_classifier
from synthjax.models.resnet import weights as resnet_weights
from synthjax.models.vit import weights as vit_weights

SMALL_RESNETS = {
  "bottleneck": dict(block="bottleneck", stage_sizes=(1, 2), width=8),
  "basic": dict(block="basic", stage_sizes=(2, 1, 1), width=8),
  "cifar stem": dict(block="basic", stage_sizes=(1, 2), width=8, stem="cifar"),
  "MoCo's head": dict(
    block="bottleneck", stage_sizes=(1, 1), width=8, head="mlp"
  ),
}


@pytest.fixture
def torch():
  return pytest.importorskip("torch")


def torch_resnet(
  *, block, stage_sizes, width, classes, stem="imagenet", head="linear"
):
  """Returns a ResNet (v1.5) whose submodules are named as torchvision's."""
  import torch
  from torch import nn

  expansion = 4 if block == "bottleneck" else 1
  conv = lambda i, o, side, stride=1: nn.Conv2d(
    i, o, side, stride, padding=side // 2, bias=False
  )

  class Block(nn.Module):
    def __init__(self, c, narrow, stride):
      super().__init__()
      wide = narrow * expansion
      if block == "bottleneck":
        sides = [(c, narrow, 1, 1), (narrow, narrow, 3, stride)]
        sides += [(narrow, wide, 1, 1)]
      else:
        sides = [(c, narrow, 3, stride), (narrow, narrow, 3, 1)]
      self.depth = len(sides)
      for k, (i, o, side, step) in enumerate(sides, start=1):
        setattr(self, f"conv{k}", conv(i, o, side, step))
        setattr(self, f"bn{k}", nn.BatchNorm2d(o))
      self.downsample = None
      if stride != 1 or c != wide:
        layers = conv(c, wide, 1, stride), nn.BatchNorm2d(wide)
        self.downsample = nn.Sequential(*layers)

    def forward(self, x):
      y = x
      for k in range(1, self.depth + 1):
        y = getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(y))
        y = y.relu() if k < self.depth else y
      return (y + (self.downsample(x) if self.downsample else x)).relu()

  class ResNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1 = conv(3, width, *((7, 2) if stem == "imagenet" else (3, 1)))
      self.bn1 = nn.BatchNorm2d(width)
      pool = nn.MaxPool2d(3, 2, padding=1)
      self.pool = pool if stem == "imagenet" else nn.Identity()
      c, self.stages = width, []
      for i, size in enumerate(stage_sizes):
        blocks = []
        for j in range(size):
          stride = 2 if i > 0 and j == 0 else 1
          blocks.append(Block(c, width * 2**i, stride))
          c = width * 2**i * expansion
        self.stages.append(f"layer{i + 1}")
        setattr(self, self.stages[-1], nn.Sequential(*blocks))
      self.fc = nn.Linear(c, classes)
      if head == "mlp":
        self.fc = nn.Sequential(nn.Linear(c, c), nn.ReLU(), self.fc)

    def forward(self, x):
      x = self.pool(self.bn1(self.conv1(x)).relu())
      for name in self.stages:
        x = getattr(self, name)(x)
      return self.fc(torch.flatten(x.mean((2, 3)), 1))

  return ResNet()


def randomise(model, seed=0):
  """Fills all weights, biases and statistics, keeping activations near one."""
  import torch

  rng = np.random.default_rng(seed)
  state = model.state_dict()
  for name, value in state.items():
    if name.endswith("num_batches_tracked"):
      continue
    positive = name.endswith("running_var")
    positive |= value.ndim == 1 and name.endswith("weight")  # of norms
    if value.ndim in (2, 4):
      new = rng.normal(0, np.prod(value.shape[1:]) ** -0.5, value.shape)
    elif positive:
      new = rng.uniform(0.5, 1.5, value.shape)
    else:
      new = rng.uniform(-0.5, 0.5, value.shape)
    state[name] = torch.from_numpy(new.astype(np.float32))
  model.load_state_dict(state)
  return model


def numpy_of(model):
  return {k: v.numpy().copy() for k, v in model.state_dict().items()}


def random_images(n, size):
  """Returns noise [n, size, size, 3] around a colour of each image's own."""
  rng = np.random.default_rng(1)
  images = rng.normal(size=(n, 1, 1, 3)) + rng.normal(size=(n, size, size, 3))
  return images.astype(np.float32)


def torch_logits(model, images):
  import torch

  with torch.no_grad():
    out = model(torch.from_numpy(images).permute(0, 3, 1, 2))
  return getattr(out, "logits", out).numpy()


def flax_model(description):
  return make_classifier(
    num_classes=description["num_classes"], **description["model"]
  )


def relative_error(got, want):
  """Returns the largest error as a share of the largest output."""
  assert np.shape(got) == np.shape(want)
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def check_logits(variables, description, images, want):
  with jax.default_matmul_precision("highest"):
    got = jax.jit(flax_model(description).apply)(variables, images)
  error = relative_error(got, want)
  print(f"largest relative error {error:.1e}")
  assert error < 1e-5  # GELU's approximation by tanh would give 1e-4
  # Small too beside what tells the images apart.
  assert relative_error(got - want.mean(0), want - want.mean(0)) < 1e-4


# --- ResNets ----------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL_RESNETS)
def test_resnets_equal_pytorch_in_evaluation(torch, name):
  model = randomise(torch_resnet(classes=5, **SMALL_RESNETS[name])).eval()
  images = random_images(3, 32)
  variables, description = resnet_weights.from_released(numpy_of(model))
  check_logits(variables, description, images, torch_logits(model, images))


@pytest.mark.parametrize("name", SMALL_RESNETS)
def test_resnets_equal_pytorch_in_training(torch, name):
  """Logits by the batch's statistics, and the running ones after one step.

  Into its running variance PyTorch takes the unbiased variance of a batch, that
  of Flax times m / (m - 1) for m values of a channel: the one difference.
  """
  model = randomise(torch_resnet(classes=5, **SMALL_RESNETS[name])).train()
  images = random_images(4, 32)
  before = numpy_of(model)
  variables, description = resnet_weights.from_released(before)
  values = {}  # of a channel, in the batch that each BatchNorm sees
  for path, module in model.named_modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      count = lambda module, inputs, output, path: values.update(
        {path: output.numel() // output.shape[1]}
      )
      module.register_forward_hook(partial(count, path=path))
  want = torch_logits(model, images)
  after = numpy_of(model)

  apply = jax.jit(
    partial(flax_model(description).apply, train=True, mutable=["batch_stats"])
  )
  with jax.default_matmul_precision("highest"):
    got, updated = apply(variables, images)
  assert relative_error(got, want) < 1e-4
  stats = resnet_weights.to_released(
    {"params": variables["params"], **updated}, description
  )
  assert len(values) == sum(k.endswith("running_mean") for k in after)
  for path, m in values.items():
    mean, var = f"{path}.running_mean", f"{path}.running_var"
    assert relative_error(stats[mean], after[mean]) < 1e-4, path
    moved = after[var] - 0.9 * before[var]
    biased = 0.9 * before[var] + moved * (m - 1) / m
    assert relative_error(stats[var], biased) < 1e-4, path
    assert not np.array_equal(stats[var], before[var])


def test_what_is_written_loads_in_pytorch(torch):
  """`num_batches_tracked` is not written, and PyTorch does not miss it."""
  sizes = SMALL_RESNETS["bottleneck"]
  model = randomise(torch_resnet(classes=5, **sizes)).eval()
  variables, description = resnet_weights.from_released(numpy_of(model))
  released = resnet_weights.to_released(variables, description)
  other = torch_resnet(classes=5, **sizes).eval()
  other.load_state_dict(
    {name: torch.tensor(weight) for name, weight in released.items()}
  )
  images = random_images(2, 32)
  np.testing.assert_array_equal(
    torch_logits(other, images), torch_logits(model, images)
  )


@pytest.mark.slow
def test_resnet50_equals_pytorch_at_full_size(torch):
  sizes = dict(block="bottleneck", stage_sizes=(3, 4, 6, 3), width=64)
  model = randomise(torch_resnet(classes=1000, **sizes)).eval()
  images = random_images(2, 224)
  variables, description = resnet_weights.from_released(numpy_of(model))
  assert len(model.state_dict()) == 320
  assert description["model"] == {"name": "resnet50"}
  check_logits(variables, description, images, torch_logits(model, images))


# --- ViTs -------------------------------------------------------------------


def hugging_face_vit(
  path, *, width, depth, heads, size, patch, classes, scale=1.0
):
  """Returns a random ViT and its weights by the names in its file.

  Args:
    path: of a folder to write it to.
    scale: of the embeddings.
    width, depth, heads, size, patch, classes: its sizes.
  """
  transformers = pytest.importorskip("transformers")
  from safetensors.numpy import load_file

  config = transformers.ViTConfig(
    hidden_size=width,
    num_hidden_layers=depth,
    num_attention_heads=heads,
    intermediate_size=4 * width,
    image_size=size,
    patch_size=patch,
    num_labels=classes,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
  )
  model = randomise(transformers.ViTForImageClassification(config)).eval()
  for parameter in model.vit.embeddings.parameters():
    parameter.data *= scale
  # In memory the names are of the library's version, on disk the released.
  model.save_pretrained(path, safe_serialization=True)
  return model, load_file(path / "model.safetensors")


@pytest.mark.parametrize(
  "sizes",
  [
    dict(width=128, depth=3, heads=2, size=32, patch=4, classes=7),
    # So small that the epsilon of the first norm counts.
    dict(width=64, depth=1, heads=1, size=48, patch=16, classes=3, scale=1e-3),
  ],
  ids=str,
)
def test_vits_equal_transformers(torch, tmp_path, sizes):
  model, weights = hugging_face_vit(tmp_path, **sizes)
  images = random_images(3, sizes["size"])
  variables, description = vit_weights.from_released(weights)
  assert description["image_size"] == sizes["size"]
  want = torch_logits(model, images)
  check_logits(variables, description, images, want)
  # The other way round, by the names of timm.
  released = vit_weights.to_released(variables, description, "timm")
  check_logits(*vit_weights.from_released(released), images, want)


def test_vits_return_the_class_token_of_transformers(torch, tmp_path):
  model, weights = hugging_face_vit(
    tmp_path, width=64, depth=2, heads=1, size=16, patch=4, classes=3
  )
  images = random_images(2, 16)
  weights = {k: w for k, w in weights.items() if "classifier" not in k}
  variables, description = vit_weights.from_released(weights)
  assert description["num_classes"] is None
  pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
  with torch.no_grad():
    want = model.vit(pixels).last_hidden_state[:, 0].numpy()
  check_logits(variables, description, images, want)


@pytest.mark.slow
def test_deit_s_equals_transformers_at_full_size(torch, tmp_path):
  model, weights = hugging_face_vit(
    tmp_path, width=384, depth=12, heads=6, size=224, patch=16, classes=1000
  )
  images = random_images(2, 224)
  variables, description = vit_weights.from_released(weights)
  assert description["model"] == {"name": "deit_s"}
  check_logits(variables, description, images, torch_logits(model, images))
