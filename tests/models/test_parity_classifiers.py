"""Converted classifiers compute what PyTorch computes with the same weights.

The ResNet is that of `torch_parity`; the ViT is that of transformers.
"""

from functools import partial

import jax
import numpy as np
import pytest
from torch_parity import (
  numpy_of,
  random_images,
  randomise,
  relative_error,
  torch_resnet,
)

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


def torch_logits(model, images):
  import torch

  with torch.no_grad():
    out = model(torch.from_numpy(images).permute(0, 3, 1, 2))
  return getattr(out, "logits", out).numpy()


def flax_model(description):
  return make_classifier(
    num_classes=description["num_classes"], **description["model"]
  )


def check_logits(variables, description, images, want):
  with jax.default_matmul_precision("highest"):
    got = jax.jit(flax_model(description).apply)(variables, images)
  error = relative_error(got, want)
  print(f"largest relative error {error:.1e}")
  assert error < 1e-5  # GELU's approximation by tanh would give 1e-4
  # Small too beside the differences between images.
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


def test_written_weights_load_in_pytorch(torch):
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
