"""A ResNet in PyTorch, and what parity tests need to compare with PyTorch.

The ResNet consists of `torch.nn` modules whose state dict has torchvision's
names.
"""

import numpy as np


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


def relative_error(got, want):
  """Returns the largest error as a share of the largest output."""
  assert np.shape(got) == np.shape(want)
  return np.abs(np.asarray(got) - want).max() / np.abs(want).max()
