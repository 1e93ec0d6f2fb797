"""Tasks that read real images from files go on with no other ones."""

import importlib
import types

import numpy as np
import pytest
from PIL import Image

from synthjax import main
from synthjax.data.generated import scores
from synthjax.labels import spaces
from synthjax.runtime import artifacts, specifications
from synthjax.tasks import generate

CASES = {
  "generate": ("fewshot.py", ["real_guidance.pool"]),
  "few_shot": ("fewshot.py", ["pool", "validation", "test"]),
  "tune": ("quickstart.py", ["validation", "test"]),
  "tune_encoder": ("tune_encoder.py", ["pool", "test"]),
  "card": ("quickstart.py", ["real"]),
  "pretrain": ("pretrain_moco.py", ["validation", "knn.pool"]),
  "transfer": ("transfer_cifar100.py", ["train", "test"]),
}


class Claimed(Exception):
  """Stops a task when it has claimed its folder."""


@pytest.fixture
def images(tmp_path):
  """Returns a folder with a folder of each class for each split."""
  for split in {block for _, blocks in CASES.values() for block in blocks}:
    for i, key in enumerate(spaces.load_space("emoji16").keys):
      folder = tmp_path / "images" / split / key
      folder.mkdir(parents=True)
      pixels = np.full((8, 8, 3), i, np.uint8)
      for number in range(2):
        Image.fromarray(pixels).save(folder / f"{number}.png")
  return tmp_path / "images"


@pytest.fixture(autouse=True)
def until_the_claim(monkeypatch):
  def begin(folder, spec, begin=artifacts.begin, **_):
    begin(folder, spec)
    raise Claimed(folder)

  monkeypatch.setattr(artifacts, "begin", begin)
  monkeypatch.setattr(artifacts, "load", lambda folder: {"spec": {}})
  monkeypatch.setattr(artifacts, "digest", lambda folder, **_: "0" * 64)
  drawing = types.SimpleNamespace(image_size=32, identity={})  # loads slowly
  monkeypatch.setattr(generate, "load_generator", lambda **block: drawing)
  monkeypatch.setattr(scores, "check_inputs", lambda *args, **kwargs: None)


@pytest.mark.parametrize("task", CASES)
def test_a_task_refuses_images_that_changed(task, tmp_path, images):
  name, blocks = CASES[task]
  root = importlib.resources.files("synthjax").parent
  config = main.load_config(f"{root}/configs/{name}:runlocal")
  config.tasks, config.space = (task,), "emoji16"
  with config.unlocked():
    for path in blocks:
      *outer, field = [task, *path.split(".")]
      block = config
      for key in outer:
        block = block[key]
      block[field] = dict(kind="folder", path=str(images / path))
    if task == "transfer":
      config.transfer.inits = dict(random={})
      config.transfer.space = "emoji16"
      del config.transfer.validation
  run = importlib.import_module(main.TASKS[task]).run
  for _ in range(2):
    with pytest.raises(Claimed):
      run(config, str(tmp_path))
  next((images / blocks[-1]).glob("*/0.png")).rename(images / "away.png")
  with pytest.raises(
    specifications.SpecMismatch, match="Real images were added"
  ):
    run(config, str(tmp_path))
