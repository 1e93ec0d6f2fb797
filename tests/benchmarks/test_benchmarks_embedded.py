"""The benchmark of the embedded trainings: both sides train; the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import embedded
from synthjax.config import schema
from synthjax.main import load_config
from synthjax.tasks import train_generator
from synthjax.training.loop import Objective


def stages():
  config = load_config("configs/train_generator.py:runlocal").train_generator
  return schema.read(train_generator.TrainGenerator, config, "config")


def test_both_sides_read_the_same_drawings_in_the_same_form():
  stage = stages().upsampler
  batch = embedded.host_batches(stage).example()
  objective, drawn = train_generator.make_training(stage, seed=0)
  assert batch.keys() == drawn.arrays.keys() | {"low_res"}
  assert batch["image"].shape == (stage.batch_size, 32, 32, 3)
  pairs = batch["image"].reshape(-1, 16, 2, 16, 2, 3)
  np.testing.assert_array_equal(batch["low_res"], np.rint(pairs.mean((2, 4))))
  for name in ("tokens", "mask"):
    assert batch[name].shape[1:] == drawn.arrays[name].shape[2:]
    assert batch[name].dtype == drawn.arrays[name].dtype
  assert len(drawn.arrays["image"]) == len(stage.data.open())
  del objective


def test_a_row_holds_images_a_second_of_both_sides(monkeypatch):
  def step(state, batch, rng):
    return state + batch["image"].mean(), {"loss": jax.random.uniform(rng)}

  adds_up = Objective(lambda rng, batch: jnp.zeros(()), step)
  monkeypatch.setattr(train_generator, "make_objective", lambda _: adds_up)
  args = embedded.parser().parse_args(
    ["--tiny", "--rounds=1", "--batch=8", "--steps=2"]
  )
  row = embedded.row_of("upsampler", args, "CPU")
  assert row["unit"] == "images/s" and "upsampler" in row["name"]
  assert row["ratio"] == pytest.approx(row["ours"] / row["reference"])
  assert np.isfinite(row["ours"]) and row["ours"] > 0
