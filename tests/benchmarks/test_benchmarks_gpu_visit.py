"""Tests of the benchmark for a short loan of a GPU, on a CPU."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu_visit, hot_functions, timing
from synthjax.models import attention


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


def test_flops_are_those_of_attention_without_a_kernel(monkeypatch):
  """Two products of l x l for each head: 4 l^2 h d, and little beside them."""
  shape = jax.ShapeDtypeStruct((1, 64, 2, 32), jnp.bfloat16)
  monkeypatch.setattr(attention, "kernel_for", lambda *_: "cudnn")
  flops = timing.plain_flops(jax.jit(attention.attend), shape, shape, shape)
  products = 4 * 64**2 * 2 * 32
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
