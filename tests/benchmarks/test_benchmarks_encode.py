"""Tests of the benchmark of encoding: both towers encode the same."""

import json
from functools import partial

import clip_keys
import jax
import numpy as np
import pytest
import tiny_clip
from PIL import Image

from benchmarks import encode as bench
from benchmarks import encoder_inputs, made_up
from synthjax.encoders.resize import fit_image
from synthjax.models.clip import model as clip
from synthjax.models.clip import weights as convert

LAYOUTS = {"rn50": ("openai", "visual."), "vit_b16": ("huggingface", "")}


@pytest.mark.parametrize("name", ["rn50", "vit_b16"])
def test_both_towers_encode_the_same(name):
  torch = pytest.importorskip("torch")
  if name == "vit_b16":
    pytest.importorskip("transformers")
  from benchmarks import torch_clip

  fields = encoder_inputs.fields_of(name, tiny=True)
  model = clip.CLIP(**fields)
  variables = tiny_clip.fill(tiny_clip.shapes(model))
  rng = np.random.default_rng(0)
  size = fields["image_size"]
  images = rng.integers(0, 256, (3, size, size, 3), np.uint8)

  @jax.jit
  def encode(variables, x):
    return model.apply(variables, clip.preprocess(x), method="encode_image")

  with jax.default_matmul_precision("highest"):
    got = encode(variables, images)
  layout, start = LAYOUTS[name]
  weights = convert.to_released(
    variables, {"kind": "clip", "model": fields}, layout
  )
  tower = torch_clip.make_tower(fields)
  wanted = tower.state_dict().keys()
  weights = {
    key.removeprefix(start): torch.from_numpy(np.array(value))
    for key, value in weights.items()
    if key.removeprefix(start) in wanted
  }
  missing, _ = tower.load_state_dict(weights, strict=False)
  assert all(key.endswith("num_batches_tracked") for key in missing)
  x = torch.from_numpy(images).permute(0, 3, 1, 2)
  want = torch_clip.make_encode(tower, tower)(x).numpy()
  largest = np.abs(want).max()
  assert largest > 0.1
  np.testing.assert_allclose(got, want, atol=1e-4 * largest)


def test_the_resnet_is_that_of_the_release():
  torch = pytest.importorskip("torch")
  from benchmarks import torch_clip

  with torch.device("meta"):
    tower = torch_clip.make_tower(encoder_inputs.fields_of("rn50", tiny=False))
  found = {f"visual.{k}": tuple(v.shape) for k, v in tower.state_dict().items()}
  width, layers = clip_keys.SIZES["clip_rn50"]["vision"]
  assert found == clip_keys.resnet(width, layers, embed=1024, size=224)


def test_files_are_resized_as_ours_are(tmp_path):
  pytest.importorskip("torch")
  from benchmarks import torch_clip

  rng = np.random.default_rng(0)
  for i, shape in enumerate([(40, 40, 3), (37, 61, 3)]):
    image = rng.integers(0, 256, shape, np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    files = [tmp_path / "image.png"]
    read = made_up.ImageFiles(files, partial(torch_clip.fit, size=32))[0]
    error = np.abs(
      read.movedim(0, -1).numpy() - fit_image(image, 32).astype(int)
    )
    assert error.max() <= 1, i  # Pillow may resize rows first, and round then


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_it_prints_a_table_and_writes_its_rows(tmp_path, capsys, workers):
  pytest.importorskip("torch")
  path = tmp_path / "rows.json"
  flags = "--tiny --rounds=1 --eager --batch=4 --side=40 --shards=3 --images=8"
  flags += f" --matmul=32 --only=rn50 --workers={workers} --json={path}"
  bench.main(flags.split())
  rows = json.loads(path.read_text())
  title = "CLIP RN50, 32 px, batch 4, float32"
  assert [row["name"] for row in rows] == [
    f"{title}: {what}"
    for what in (
      "encoding, against PyTorch",
      "FLOPs",
      "FLOP/s, of a matrix product's FLOP/s",
      "compiling",
      "peak memory",
      "from PNG of 40 px to scores",
      "from PNG of 40 px to scores: not waiting for the host",
    )
  ]
  assert all(row["ours"] > 0 for row in rows)
  for row in rows[0], rows[-2]:
    assert row["ratio"] == pytest.approx(row["ours"] / row["reference"])
  printed = capsys.readouterr().out
  assert all(row["name"] in printed for row in rows)
