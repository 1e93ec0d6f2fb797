"""Records the files of this folder, with PyTorch: python record.py."""

import pathlib

import torch
from torch import nn

HERE = pathlib.Path(__file__).parent


class Layer(nn.Module):
  def __init__(self):
    super().__init__()
    self.weight = nn.Parameter(torch.arange(6.0).reshape(2, 3).half() / 4)
    self.register_buffer("size", torch.tensor(224))
    self.widths = [3, 2]
    self.extra = {"a": 1}

  def forward(self, x):
    return x @ self.weight.float().t() + self.widths[0] + self.extra["a"]


class Net(nn.Module):
  def __init__(self):
    super().__init__()
    self.layers = nn.ModuleList([Layer()])
    self.scale = nn.Parameter(torch.tensor(2.5))

  def forward(self, x):
    for layer in self.layers:
      x = layer(x)
    return x * self.scale


def state_dict():
  base = torch.arange(12.0).reshape(3, 4)
  return {
    "float32": base,
    "column": base[:, 1],
    "transposed": base[1:].t(),
    "bfloat16": torch.tensor([1.5, -2.0, 0.25]).bfloat16(),
    "float16": torch.tensor([[1.5], [-2.0]]).half(),
    "int64": torch.tensor(-7),
    "bool": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 3),
    "parameter": nn.Parameter(torch.ones(2)),
  }


if __name__ == "__main__":
  torch.save(state_dict(), HERE / "zip.pt")
  wrapped = {"epoch": 3, "arch": "vit", "state_dict": state_dict()}
  torch.save(
    wrapped, HERE / "legacy.pth.tar", _use_new_zipfile_serialization=False
  )
  torch.jit.save(torch.jit.script(Net()), HERE / "scripted.pt")
  torch.jit.save(torch.jit.trace(Net(), torch.ones(1, 3)), HERE / "traced.pt")
