"""Tests of the benchmark of detection: both sides compute the same."""

import json

import numpy as np
import pytest

from benchmarks import detect, detection_inputs

FLAGS = ["--tiny", "--short-side=64", "--batch=2", "--regions=8", "--steps=1"]


@pytest.fixture
def args():
  return detect.parser().parse_args(FLAGS)


@pytest.mark.slow
def test_it_prints_a_table_and_writes_its_rows(tmp_path, capsys):
  pytest.importorskip("torch")
  path = tmp_path / "rows.json"
  detect.main([*FLAGS, "--json", str(path)])
  rows = json.loads(path.read_text())
  names = [row["name"] for row in rows]
  step = "R50-C4, a training step, 2 x 64 x 80 px, float32, 8 regions"
  assert names[:2] == [step, f"{step}: compiling"]
  assert len(set(names)) == len(names)
  for part, kind in detect.PARTS.items():
    assert f"{part}: of {detect.STEPS[kind]}" in names
  for row in rows:
    assert row["ours"] > 0 and row["device"]
    assert {"python", "jax", "torch"} <= row["versions"].keys()
  timed = [row for row in rows if row["reference"] is not None]
  assert len(timed) == len(detect.STEPS) + len(detect.PARTS)
  printed = capsys.readouterr().out
  assert all(name in printed for name in names)


@pytest.mark.slow
def test_the_parts_of_both_sides_compute_the_same(args):
  pytest.importorskip("torch")
  from benchmarks import torch_detection

  batch = detection_inputs.make_batch(args.batch, args.short_side)
  options = detection_inputs.make_options(args)
  inputs = detection_inputs.make_parts(batch, args, "float32")
  ours = [run() for run in detect.our_parts(inputs, options).values()]
  theirs = [
    run()
    for run in torch_detection.make_parts(
      inputs, options, detect.ROI_SIZE, detect.STRIDE
    )
  ]
  for (boxes, valid), found in zip(ours[:2], theirs[:2], strict=True):
    for own, there, want in zip(boxes, valid, found, strict=True):
      assert 1 < there.sum() == len(want)
      np.testing.assert_allclose(own[there], want, rtol=1e-5, atol=1e-3)
  pooled = theirs[2].numpy().transpose(0, 1, 3, 4, 2)
  np.testing.assert_allclose(ours[2], pooled, atol=1e-4)
  np.testing.assert_allclose(ours[3][0], pooled, atol=1e-4)
  moved = theirs[3][0].numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(ours[3][1], moved, rtol=1e-4, atol=1e-4)


def test_an_epoch_of_voc_s_sizes_has_few_shapes_and_little_padding(args):
  shapes, padding = detection_inputs.epoch_of_voc(args)
  assert 2 <= shapes <= 6
  assert 0 < padding < 0.4
