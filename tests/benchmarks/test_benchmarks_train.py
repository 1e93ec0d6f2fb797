"""Tests of the benchmark of training: both sides train the same network."""

import json

import jax
import numpy as np
import pytest

from benchmarks import devices, made_up, train
from synthjax.models.resnet import weights as resnet_weights
from synthjax.models.vit import weights as vit_weights

TINY = ["--tiny", "--image=32", "--batch=4", "--rounds=1", "--steps=1"]
TINY += ["--matmul=32", "--eager"]


@pytest.mark.parametrize(
  ("name", "family"),
  [
    pytest.param("resnet50", resnet_weights, marks=pytest.mark.slow),
    ("deit_s", vit_weights),
  ],
)
def test_both_sides_take_the_same_steps(name, family):
  torch = pytest.importorskip("torch")
  from benchmarks import torch_training

  variables = made_up.fill(
    jax.eval_shape(
      train.our_model(name, tiny=True).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32),
    )
  )
  images, labels = train.make_batch(4, 32)
  weights = family.to_released(variables, {}, next(iter(family.LAYOUTS)))
  model = torch_training.make_model(name, tiny=True, image_size=32)
  missing, unexpected = model.load_state_dict(
    {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}, strict=False
  )
  assert not unexpected
  assert all(key.endswith("num_batches_tracked") for key in missing)
  theirs = torch_training.make_steps(
    model,
    train.MODELS[name][1] | {"lr": train.LR},
    images,
    labels,
    smoothing=train.SMOOTHING,
    compiled=False,
  )  # which has counted the FLOPs of the first step
  with jax.default_matmul_precision("highest"):
    ours = train.our_step(name, images, labels, tiny=True, variables=variables)
    ours.run()
    want = [theirs.runs["PyTorch"]() for _ in range(3)]
    found = [ours.run() for _ in range(3)]
  np.testing.assert_allclose(found, want, rtol=2e-4)
  assert want[0] > want[-1] + 1e-3  # it trains
  # XLA counts more than the products and convolutions that PyTorch counts.
  assert 1 < ours.flops / theirs.flops < 2
  assert ours.peak_bytes > sum(x.nbytes for x in jax.tree.leaves(variables))


def test_the_whole_networks_are_those_of_pytorch():
  """The number of parameters, of the full sizes, without computing any."""
  torch = pytest.importorskip("torch")
  from benchmarks import torch_training

  for name, count in (("resnet50", 25_557_032), ("deit_s", 22_050_664)):
    with torch.device("meta"):
      model = torch_training.make_model(name, tiny=False, image_size=224)
    assert sum(x.numel() for x in model.parameters()) == count
    ours = jax.eval_shape(
      train.our_model(name, tiny=False).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32),
    )["params"]
    assert sum(x.size for x in jax.tree.leaves(ours)) == count


@pytest.mark.slow
def test_it_prints_a_table_and_writes_its_rows(tmp_path, capsys):
  pytest.importorskip("torch")
  path = tmp_path / "rows.json"
  train.main([*TINY, "--json", str(path)])
  rows = json.loads(path.read_text())
  assert [row["name"] for row in rows] == [
    f"{model}, 32 px, batch 4, float32: {what}"
    for model in ("ResNet-50", "DeiT-S")
    for what in (
      "training, against PyTorch",
      "FLOPs",
      "model FLOP/s, of a matrix product's FLOP/s",
      "peak memory",
    )
  ]
  for rate in rows[::4]:
    assert rate["unit"] == "images/s"
    assert rate["ratio"] == pytest.approx(rate["ours"] / rate["reference"])
  assert all(row["ours"] > 0 and row["device"] for row in rows)
  printed = capsys.readouterr().out
  assert all(row["name"] in printed for row in rows)


def test_peaks_are_found_by_the_name_of_the_device():
  assert devices.peak_of("NVIDIA H100 80GB HBM3 x1") == 989e12
  assert devices.peak_of("NVIDIA H100 PCIe x1") == 756e12
  assert devices.peak_of("NVIDIA H200 x1") == 989e12
  assert devices.peak_of("CPU, 2 threads") is None
