"""The tasks that made the embedded models, at a size of four steps."""

import json
import shutil

import jax
import numpy as np
import pytest

from synthjax.encoders import load_encoder
from synthjax.generators import load_generator
from synthjax.main import load_config
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import train_clip, train_generator
from synthjax.training import metrics
from synthjax.weights import files

TOKENIZER = "embedded:tokenizer.json"


@pytest.mark.slow
def test_a_generator_is_trained_and_draws(tmp_path):
  config = load_config("configs/train_generator.py:runlocal")
  train_generator.check(config, str(tmp_path))
  train_generator.run(config, str(tmp_path))
  folder = tmp_path / "train_generator"
  manifest = artifacts.load(folder)
  assert manifest["files"]["base_metrics.jsonl"]["rows"] == 4
  stages = {
    stage: dict(
      weights=folder / f"{stage}.safetensors", sampler="ddim", respacing="2"
    )
    for stage in ("base", "upsampler")
  }
  generator = load_generator(
    "glide", **stages, tokenizer=TOKENIZER, guidance_scale=2.0, batch_size=2
  )
  images = generator.draw(
    ["a cat", "a dog"], jax.random.split(jax.random.key(0))
  )
  assert images.shape == (2, 32, 32, 3) and images.std() > 1


@pytest.mark.slow
def test_an_encoder_is_trained_resumed_and_encodes(tmp_path):
  config = load_config("configs/train_clip.py:runlocal")
  train_clip.check(config, str(tmp_path))
  for name in ("whole", "parts"):
    train_clip.run(config, str(tmp_path / name))
  folder = tmp_path / "parts" / "train_clip"
  (folder / "manifest.json").unlink()
  (folder / "clip.safetensors").unlink()
  shutil.rmtree(folder / "clip_checkpoints" / "4")  # as if killed after step 2
  train_clip.run(config, str(tmp_path / "parts"))
  weights = [
    tmp_path / name / "train_clip" / "clip.safetensors"
    for name in ("whole", "parts")
  ]
  assert weights[0].read_bytes() == weights[1].read_bytes()
  rows = metrics.read_rows(folder / "clip_metrics.jsonl")
  assert [row["step"] for row in rows] == [1, 2, 3, 4]

  encoder = load_encoder(
    "clip", weights=str(weights[0]), tokenizer=TOKENIZER, batch_size=2
  )
  features = encoder.encode_images(np.zeros((3, 32, 32, 3), np.uint8))
  assert features.shape == (3, 128)
  _, about = files.load_params(weights[0])
  assert json.loads(json.dumps(about))["training"]["num_steps"] == 4


def test_misspelt_fields_stop_before_training(tmp_path):
  config = load_config("configs/train_generator.py:runlocal")
  with config.unlocked():
    config.train_generator.base.batchsize = 3
  with pytest.raises(UserError, match="did you mean 'batch_size'"):
    train_generator.check(config, str(tmp_path))
