"""Pre-training on two shades: a config, drawn images, and what it leaves."""

import itertools
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from synthjax.data.generated import shards
from synthjax.runtime import artifacts
from synthjax.training import pretraining
from synthjax.weights import files


@pytest.fixture
def space(tmp_path):
  path = tmp_path / "shades.json"
  path.write_text(json.dumps({"classes": ["dark", "light"]}))
  return str(path)


def a_config(space, **fields):
  config = ConfigDict()
  config.tasks, config.seed, config.space = ("pretrain",), 0, space
  config.pretrain = dict(
    model=dict(name="resnet_tiny", width=4, stage_sizes=(1,)),
    seeds=(0,),
    image_size=8,
    augment="shift",
    epochs=4,
    batch_size=8,
    optimizer=dict(name="sgd", lr=0.1, rate="constant"),
    log_every=1,
    checkpoint_every=2,
  )
  config.pretrain.update(fields)
  return config


def draw(workdir, n=16, size=8):
  """Writes what `generate` would: dark and light noise, half of each."""
  folder, generator = workdir / "generate", np.random.default_rng(0)
  artifacts.begin(folder, {"made": "for a test"})
  rows = [
    {
      "image": generator.integers(0, 100, (size, size, 3), np.uint8)
      + np.uint8(150 * label),
      "label": label,
      "prompt": f"shade {label}",
      "seed": 0,
      "id": f"enhanced-{label}-{i}-s0-0",
    }
    for label, i in itertools.product(range(2), range(n // 2))
  ]
  shards.write_shard(folder, 0, 1, rows, name="synthjax_images")
  name = "synthjax_images-train.array_record-00000-of-00001"
  artifacts.finish(folder, {"made": "for a test"}, {name: n})


def weights_of(workdir, seed=0):
  path = workdir / "pretrain" / f"{pretraining.label_of(seed)}.safetensors"
  return files.load_params(path)
