"""Tests of the benchmark of the input: both sides read the same; the clock."""

import json
import math
import time

import numpy as np
import pytest
from PIL import Image

from benchmarks import devices, made_up
from benchmarks import input as benchmark
from synthjax.data.generated import shards
from synthjax.data.pipeline import codecs

TOY = {
  "rounds": 1,
  "images": 6,
  "side": 24,
  "large": 0,
  "size": 16,
  "batch": 4,
  "batches": 2,
  "step-batch": 2,
}

PARTS = (
  "encode",
  "decode, against Pillow",
  "decode, crop and mirror",
  "batches, crop to 16",
)
WHOLE = ("batches, whole", "batches, 3 copies of the whole")


@pytest.fixture
def args():
  return benchmark.parser().parse_args([f"--{k}={v}" for k, v in TOY.items()])


def test_it_prints_a_table_and_writes_its_rows(tmp_path, capsys, monkeypatch):
  pytest.importorskip("torch")
  monkeypatch.setattr(benchmark, "limit_threads", lambda threads: threads)
  path = tmp_path / "rows.json"
  flags = [f"--{name}={value}" for name, value in TOY.items()]
  flags += ["--device-rates", "4000", "--tiny", "--json", str(path)]
  benchmark.main(flags)
  rows = json.loads(path.read_text())
  assert [row["name"] for row in rows] == [
    *(f"JPEG 24 px: {what}" for what in (*PARTS, *WHOLE)),
    *(f"PNG 24 px: {what}" for what in PARTS),
    *(f"WEBP 24 px: {what}" for what in PARTS),
    "a device of 4000 images/s is at work",
    "training ResNet-50 here, batches of 2, is at work",
  ]
  for row in rows:
    if not row["name"].endswith(": encode"):  # nothing is beside it
      assert row["ratio"] == pytest.approx(row["ours"] / row["reference"])
    assert row["ours"] > 0 and row["device"]
    assert {"python", "jax", "torch"} <= row["versions"].keys()
  assert rows[-2]["ours"] <= 1 and rows[-1]["ours"] <= 1
  printed = capsys.readouterr().out
  assert all(row["name"] in printed for row in rows)


def test_without_torch_ours_runs_alone(capsys, monkeypatch):
  monkeypatch.setattr(benchmark, "limit_threads", lambda threads: threads)
  monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
  flags = [f"--{name}={value}" for name, value in TOY.items()]
  benchmark.main([*flags, "--tiny", "--device-rates"])
  assert "ours runs alone" in capsys.readouterr().out


def test_both_sides_read_the_same_images(tmp_path, args):
  torch = pytest.importorskip("torch")
  benchmark.write(tmp_path, 6, 24, "jpeg")
  stored = shards.open_shards(tmp_path / "shards", decode=False)
  files = sorted((tmp_path / "files").iterdir())
  assert [row["encoded"] for row in stored] == [f.read_bytes() for f in files]
  ours = next(benchmark.ours(tmp_path / "shards", args, size=16))["image"]
  theirs, _ = next(benchmark.reference(tmp_path / "files", args, size=16))
  assert ours.shape == (4, 16, 16, 3) and ours.dtype == np.uint8
  assert theirs.shape == (4, 3, 16, 16) and theirs.dtype == torch.uint8


def test_the_reference_crops_as_specified():
  """A picture of its own coordinates shows where each crop was cut."""
  pytest.importorskip("torch")
  y, x = np.mgrid[:200, :200]
  image = Image.fromarray(np.stack([y, x, x], -1).astype(np.uint8))
  shares, shapes = [], []
  for _ in range(200):
    crop = np.asarray(benchmark.torch_crop(image, 32), float)
    high, wide = np.ptp(crop[..., 0]), np.ptp(crop[..., 1])
    shares.append(high * wide / 200**2)
    shapes.append(math.log(wide / high))
  assert min(shares) < 0.15 and max(shares) > 0.8
  assert abs(np.mean(shapes)) < 0.05 and max(map(abs, shapes)) < math.log(1.4)


def test_pictures_have_the_spectrum_of_photographs():
  """Halving the scale halves the amplitude, or a little less."""
  drawn = made_up.picture(np.random.default_rng(0), 128)
  assert drawn.dtype == np.uint8 and 30 < drawn.std() < 90
  again = codecs.decode_image(
    codecs.encode(drawn, image_format="jpeg", quality=90)
  )
  assert np.abs(again - drawn.astype(float)).mean() < 12
  amplitude = np.abs(np.fft.fft2(drawn.mean(-1)))
  low, high = amplitude[0, 3:7].mean(), amplitude[0, 12:28].mean()
  assert 2 < low / high < 10


@pytest.mark.parametrize(("read", "want"), [(0.0, 1.0), (0.08, 0.5)])
def test_a_device_is_at_work_while_the_host_reads(read, want):
  """Reading that takes twice the step leaves it idle for half of the time."""

  def batches():
    while True:
      time.sleep(read)
      yield None

  share = benchmark.busy_share(batches(), step_seconds=0.04, num_steps=6)
  assert want - 0.12 < share <= want + 0.02


def test_a_step_is_timed_without_what_it_waits_for():
  def slow():
    for _ in range(2):
      time.sleep(0.03)
      yield None

  run = lambda: time.sleep(0.03)
  assert benchmark.step_share(iter("ab"), run=run) > 0.9
  assert 0.4 < benchmark.step_share(slow(), run=run) < 0.6
