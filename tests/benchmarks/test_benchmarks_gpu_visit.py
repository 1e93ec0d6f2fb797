"""Tests of the benchmark for a short loan of a GPU, on a CPU."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu_visit, hot_functions, timing
from synthjax.models import attention

ROOT = pathlib.Path(__file__).parents[2]


def rows_of(folder):
  return [json.loads(line) for line in (folder / "rows.jsonl").open()]


def test_a_part_without_time_is_left_out_and_said(tmp_path):
  gpu_visit.main([f"--out={tmp_path}", "--seconds=10", "--parts=env,tune"])
  assert [row["part"] for row in rows_of(tmp_path)] == ["env", "tune"]
  assert all("left for it" in row["name"] for row in rows_of(tmp_path))


def test_every_timed_function_is_there_at_full_size():
  for functions in gpu_visit.MADE.values():
    assert functions.keys() <= hot_functions.FULL.keys()


def test_made_up_arguments_have_the_shapes_and_can_be_computed():
  hot = hot_functions.TINY["CLIP ViT-B/16, images"]()
  inputs = hot_functions.fill(hot)
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(inputs) == shapes(hot.args)
  assert np.isfinite(hot.function(*inputs)).all()


def test_made_up_pictures_have_objects():
  """Without sizes and boxes, a detector would suppress and learn nothing."""
  for name in ("R50-C4, train", "R50-C4, detect"):
    hot = hot_functions.TINY[name]()
    batch = hot_functions.fill(hot)[1]
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(batch) == shapes(hot.args[1])
    assert (batch["size"] == hot.args[1]["image"].shape[1:3]).all()
    assert "boxes" not in batch or batch["valid"].sum() == 2 * 3


def test_the_list_of_visits_has_every_part():
  text = (ROOT / "benchmarks/visits/README.md").read_text()
  assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == [*gpu_visit.PARTS]


def test_the_embedded_networks_are_trained_by_their_configs(
  tmp_path, monkeypatch
):
  commands = []

  def run(command, check):
    commands.append(command)
    folder = tmp_path / command[-1].split("/")[1].split(".")[0] / "of_a_task"
    folder.mkdir(parents=True)
    row = json.dumps({"step": 9, "images_per_second": 500.0})
    (folder / "base_metrics.jsonl").write_text(f"{{}}\n{row}\n")

  monkeypatch.setattr(gpu_visit.subprocess, "run", run)
  args = gpu_visit.parser().parse_args([f"--out={tmp_path}", "--tiny"])
  gpu_visit.PARTS["embedded"].run(args)
  names = "train_generator", "train_clip"
  assert [c[-1] for c in commands] == [
    f"--config=configs/{name}.py:runlocal" for name in names
  ]
  assert all((ROOT / "configs" / f"{name}.py").exists() for name in names)
  rates = [r["ours"] for r in rows_of(tmp_path) if r["unit"] == "images/s"]
  assert rates == [500.0, 500.0]


@pytest.mark.parametrize("length", [64, 1024])  # a CPU loops over large heads
def test_flops_are_those_of_attention_without_a_kernel(monkeypatch, length):
  """Two products of l x l for each head: 4 l^2 h d, and little beside them."""
  shape = jax.ShapeDtypeStruct((1, length, 2, 32), jnp.bfloat16)
  monkeypatch.setattr(attention, "kernel_for", lambda *_: "cudnn")
  flops = timing.plain_flops(jax.jit(attention.attend), shape, shape, shape)
  products = 4 * length**2 * 2 * 32
  assert products <= flops < 1.2 * products


@pytest.mark.slow
def test_a_visit_measures_and_keeps_its_rows(tmp_path):
  gpu_visit.main(
    [f"--out={tmp_path}", "--tiny", "--seconds=900", "--parts=env,encode,tune"]
  )
  rows = rows_of(tmp_path)
  names = {row["name"]: row for row in rows}
  assert names["CLIP RN50, images"]["unit"] == "images/s"
  assert all(row["ours"] > 0 and row["versions"]["jax"] for row in rows)
  done = [row for row in rows if "whole part" in row["name"]]
  assert all(row["name"].endswith("exit status 0") for row in done)
  assert len(done) == 3
