"""The names and shapes of FID's Inception in its port to PyTorch, by hand.

And what it computes, written down in PyTorch's functions.
"""

import functools


def shapes(width=32, *, num_classes=1008):
  """Returns the names of pt_inception-2015-12-05-6726825d.pth and shapes.

  Args:
    width: of the first convolution, 32 in the file; the others go with it.
    num_classes: of the last layer.
  """
  found = {}
  for name, (c, out, *kernel) in _layers().items():
    scaled = out * width // 32
    c = c if c == 3 else c * width // 32
    found[f"{name}.conv.weight"] = (scaled, c, *kernel)
    for each in ("weight", "bias", "running_mean", "running_var"):
      found[f"{name}.bn.{each}"] = (scaled,)
    found[f"{name}.bn.num_batches_tracked"] = ()
  found["fc.weight"] = (num_classes, 64 * width)
  found["fc.bias"] = (num_classes,)
  return found


def _layers():
  """Returns channels in, channels out, height and width of each kernel."""
  layers = {
    "Conv2d_1a_3x3": (3, 32, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (32, 64, 3, 3),
    "Conv2d_3b_1x1": (64, 80, 1, 1),
    "Conv2d_4a_3x3": (80, 192, 3, 3),
  }
  for block, c, pooled in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
    layers |= _below(
      f"Mixed_{block}",
      branch1x1=(c, 64, 1, 1),
      branch5x5_1=(c, 48, 1, 1),
      branch5x5_2=(48, 64, 5, 5),
      branch3x3dbl_1=(c, 64, 1, 1),
      branch3x3dbl_2=(64, 96, 3, 3),
      branch3x3dbl_3=(96, 96, 3, 3),
      branch_pool=(c, pooled, 1, 1),
    )
  layers |= _below(
    "Mixed_6a",
    branch3x3=(288, 384, 3, 3),
    branch3x3dbl_1=(288, 64, 1, 1),
    branch3x3dbl_2=(64, 96, 3, 3),
    branch3x3dbl_3=(96, 96, 3, 3),
  )
  for block, c in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
    layers |= _below(
      f"Mixed_{block}",
      branch1x1=(768, 192, 1, 1),
      branch7x7_1=(768, c, 1, 1),
      branch7x7_2=(c, c, 1, 7),
      branch7x7_3=(c, 192, 7, 1),
      branch7x7dbl_1=(768, c, 1, 1),
      branch7x7dbl_2=(c, c, 7, 1),
      branch7x7dbl_3=(c, c, 1, 7),
      branch7x7dbl_4=(c, c, 7, 1),
      branch7x7dbl_5=(c, 192, 1, 7),
      branch_pool=(768, 192, 1, 1),
    )
  layers |= _below(
    "Mixed_7a",
    branch3x3_1=(768, 192, 1, 1),
    branch3x3_2=(192, 320, 3, 3),
    branch7x7x3_1=(768, 192, 1, 1),
    branch7x7x3_2=(192, 192, 1, 7),
    branch7x7x3_3=(192, 192, 7, 1),
    branch7x7x3_4=(192, 192, 3, 3),
  )
  for block, c in (("7b", 1280), ("7c", 2048)):
    layers |= _below(
      f"Mixed_{block}",
      branch1x1=(c, 320, 1, 1),
      branch3x3_1=(c, 384, 1, 1),
      branch3x3_2a=(384, 384, 1, 3),
      branch3x3_2b=(384, 384, 3, 1),
      branch3x3dbl_1=(c, 448, 1, 1),
      branch3x3dbl_2=(448, 384, 3, 3),
      branch3x3dbl_3a=(384, 384, 1, 3),
      branch3x3dbl_3b=(384, 384, 3, 1),
      branch_pool=(c, 192, 1, 1),
    )
  return layers


def _below(block, **layers):
  return {f"{block}.{name}": sizes for name, sizes in layers.items()}


def torch_features(weights, x):
  """Returns features [n, d] and logits of normalised images [n, 3, h, w].

  Args:
    weights: tensors by the released names.
    x: a tensor.
  """
  import torch
  import torch.nn.functional as F

  def conv(x, name, stride=1, padding=0):
    x = F.conv2d(x, weights[f"{name}.conv.weight"], None, stride, padding)
    names = ("running_mean", "running_var", "weight", "bias")
    x = F.batch_norm(x, *(weights[f"{name}.bn.{n}"] for n in names), eps=1e-3)
    return F.relu(x)

  def chain(x, block, prefix, *paddings, stride=1):
    """Applies prefix_1, prefix_2, ...; the stride is the last one's."""
    for i, padding in enumerate(paddings, start=1):
      step = stride if i == len(paddings) else 1
      x = conv(x, f"{block}.{prefix}_{i}", step, padding)
    return x

  average = functools.partial(
    F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False
  )
  tall, wide = (3, 0), (0, 3)  # paddings of 7x1 and 1x7
  x = conv(x, "Conv2d_1a_3x3", 2)
  x = conv(x, "Conv2d_2a_3x3")
  x = F.max_pool2d(conv(x, "Conv2d_2b_3x3", 1, 1), 3, 2)
  x = conv(x, "Conv2d_3b_1x1")
  x = F.max_pool2d(conv(x, "Conv2d_4a_3x3"), 3, 2)
  for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
    branches = [
      conv(x, f"{block}.branch1x1"),
      chain(x, block, "branch5x5", 0, 2),
      chain(x, block, "branch3x3dbl", 0, 1, 1),
      conv(average(x), f"{block}.branch_pool"),
    ]
    x = torch.cat(branches, 1)
  branches = [
    conv(x, "Mixed_6a.branch3x3", 2),
    chain(x, "Mixed_6a", "branch3x3dbl", 0, 1, 0, stride=2),
    F.max_pool2d(x, 3, 2),
  ]
  x = torch.cat(branches, 1)
  for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
    branches = [
      conv(x, f"{block}.branch1x1"),
      chain(x, block, "branch7x7", 0, wide, tall),
      chain(x, block, "branch7x7dbl", 0, tall, wide, tall, wide),
      conv(average(x), f"{block}.branch_pool"),
    ]
    x = torch.cat(branches, 1)
  branches = [
    chain(x, "Mixed_7a", "branch3x3", 0, 0, stride=2),
    chain(x, "Mixed_7a", "branch7x7x3", 0, wide, tall, 0, stride=2),
    F.max_pool2d(x, 3, 2),
  ]
  x = torch.cat(branches, 1)
  for block in ("Mixed_7b", "Mixed_7c"):
    three = conv(x, f"{block}.branch3x3_1")
    double = chain(x, block, "branch3x3dbl", 0, 1)
    # A maximum in the last block alone.
    pooled = average(x) if block == "Mixed_7b" else F.max_pool2d(x, 3, 1, 1)
    branches = [
      conv(x, f"{block}.branch1x1"),
      conv(three, f"{block}.branch3x3_2a", 1, (0, 1)),
      conv(three, f"{block}.branch3x3_2b", 1, (1, 0)),
      conv(double, f"{block}.branch3x3dbl_3a", 1, (0, 1)),
      conv(double, f"{block}.branch3x3dbl_3b", 1, (1, 0)),
      conv(pooled, f"{block}.branch_pool"),
    ]
    x = torch.cat(branches, 1)
  features = x.mean((2, 3))
  return features, F.linear(features, weights["fc.weight"], weights["fc.bias"])
