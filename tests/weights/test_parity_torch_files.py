"""Files of PyTorch hold the same weights here as they do in PyTorch."""

import ml_dtypes
import numpy as np
import pytest
import torch_pickles as tp

from synthjax.runtime.errors import UserError

DTYPES = (
  *("float64", "float32", "float16", "bfloat16", "bool"),
  *("int64", "int32", "int16", "int8", "uint8"),
)


@pytest.fixture
def torch():
  return pytest.importorskip("torch")


def random_state(torch, dtype, seed=0):
  """Tensors of one dtype in all the ways that they share and stride."""
  generator = torch.Generator().manual_seed(seed)
  kind = getattr(torch, dtype)

  def random(*shape):
    x = torch.randint(-100, 100, shape, generator=generator) / 7
    return (x > 0) if kind == torch.bool else x.to(kind)

  base = random(4, 5, 6)
  return {
    "plain": base,
    "again": base,
    "offset": base[2:],
    "strided": base[:, ::2, 1::3],
    "transposed": base.permute(2, 0, 1),
    "expanded": random(3, 1).expand(3, 4),
    "scalar": random(),
    "empty": random(0, 3),
    "nothing": random(5)[5:],
    "odd": random(3),  # what follows it is not aligned in the old format
    "last": random(2, 2),
  }


def as_numpy(tensor):
  import torch

  tensor = tensor.detach().contiguous()
  if tensor.dtype == torch.bfloat16:
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
  return tensor.numpy()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_view_equals_torch_load(torch, tmp_path, dtype, new):
  path = tmp_path / "x.pt"
  state = random_state(torch, dtype)
  torch.save(state, path, _use_new_zipfile_serialization=new)
  weights, want = tp.read(path), torch.load(path)
  assert list(weights) == list(want)
  for name, value in want.items():
    tp.assert_same(weights[name], as_numpy(value))


def test_names_that_share_a_storage_share_memory(torch, tmp_path):
  path = tmp_path / "x.pt"
  torch.save(random_state(torch, "float32"), path)
  weights = tp.read(path)
  assert np.shares_memory(weights["plain"], weights["again"])
  assert np.shares_memory(weights["plain"], weights["strided"])
  assert not np.shares_memory(weights["plain"], weights["last"])


def network(torch, *, tied):
  nn = torch.nn
  torch.manual_seed(0)

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv = nn.Conv2d(3, 4, 3, bias=False)
      self.bn = nn.BatchNorm2d(4)
      self.attn = nn.MultiheadAttention(4, 2)

    def forward(self, x):
      x = self.bn(self.conv(x)).mean((2, 3))
      return self.attn(x, x, x)[0]

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.blocks = nn.Sequential(Block())
      self.head = nn.Linear(4, 2).half()
      self.positions = nn.Parameter(torch.randn(3, 2))
      if tied:
        self.tied = self.positions
      self.register_buffer("size", torch.tensor(32))

    def forward(self, x):
      return self.head(self.blocks(x).half()) + self.positions[0].half()

  return Net().eval()


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_modules_state_dicts_equal_torch_load(torch, tmp_path, new, protocol):
  path, net = tmp_path / "x.pt", network(torch, tied=True)
  state = net.state_dict()
  torch.save(
    {
      "state_dict": state,
      "best": 0.5,
      "parameters": [*net.parameters()],
    },
    path,
    _use_new_zipfile_serialization=new,
    pickle_protocol=protocol,
  )
  weights = tp.read(path)
  assert list(weights) == list(state)
  for name, value in state.items():
    tp.assert_same(weights[name], as_numpy(value))


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_torchscript_equals_its_state_dict(torch, tmp_path, how):
  # A traced module may not share its parameters.
  net, path = network(torch, tied=how == "script"), tmp_path / "x.pt"
  if how == "script":
    module = torch.jit.script(net)
  else:
    module = torch.jit.trace(net, torch.ones(2, 3, 8, 8), check_trace=False)
  torch.jit.save(module, path)
  weights, want = tp.read(path), torch.jit.load(path).state_dict()
  assert weights.keys() == want.keys()
  assert "blocks.0.attn.in_proj_weight" in weights
  for name, value in want.items():
    tp.assert_same(weights[name], as_numpy(value))


@pytest.mark.parametrize("make", ["sparse", "quantized", "module", "numpy"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_objects_are_refused_by_their_names(torch, tmp_path, make):
  value, name = {
    "sparse": lambda: (
      torch.eye(2).to_sparse(),
      "torch._utils._rebuild_sparse_tensor",
    ),
    "quantized": lambda: (
      torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
      "torch._utils._rebuild_qtensor",
    ),
    "module": lambda: (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "numpy": lambda: (np.ones(2), "_reconstruct"),
  }[make]()
  for new in (True, False):
    path = tmp_path / f"{new}.pt"
    torch.save({"w": value}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(
      UserError, match="nothing of the file was exec"
    ) as error:
      tp.read(path)
    assert name in str(error.value)


def test_files_without_checksums_are_read(torch, tmp_path):
  path = tmp_path / "x.pt"
  torch.serialization.set_crc32_options(False)
  try:
    torch.save({"w": torch.ones(4)}, path)
  finally:
    torch.serialization.set_crc32_options(True)
  tp.assert_same(tp.read(path)["w"], np.ones(4, np.float32))
