"""Tests of pre-training on generated images."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from pretrain_runs import a_config, draw, space, weights_of

from configs import pretrain_in2k
from synthjax.data.generated import shards
from synthjax.data.pipeline import host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.real import real_images
from synthjax.labels import spaces
from synthjax.models.classifiers import make_classifier
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import generate, pretrain
from synthjax.training import optimizer, recipes, supervised
from synthjax.training import run as runs
from synthjax.weights import files

__all__ = ["space"]  # a fixture

NUM_STEPS = 8


def refuse(*_):
  raise NotImplementedError("Unsupported sequence length")


def stop_after(monkeypatch, step):
  """Makes training end as if killed, once a step has been done."""
  save_hook = runs.save_hook

  def stopping(*args, **kwargs):
    hook = save_hook(*args, **kwargs)

    def stop(done, state, metrics):
      hook(done, state, metrics)
      if done == step:
        raise KeyboardInterrupt

    return stop

  monkeypatch.setattr(runs, "save_hook", stopping)


def test_a_resumed_training_equals_an_uninterrupted_one(
  tmp_path, space, monkeypatch
):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  config = a_config(space)
  for workdir in (whole, parts):
    draw(workdir)
  pretrain.run(config, str(whole))

  with monkeypatch.context() as patch:
    stop_after(patch, NUM_STEPS // 2 + 1)  # a step after a checkpoint
    with pytest.raises(KeyboardInterrupt):
      pretrain.run(config, str(parts))
  assert not (parts / "pretrain" / artifacts.MANIFEST).exists()
  pretrain.run(config, str(parts))

  jax.tree.map(
    np.testing.assert_array_equal, weights_of(parts)[0], weights_of(whole)[0]
  )
  curves = [
    (workdir / "pretrain" / "backbone-s0_metrics.jsonl").read_text()
    for workdir in (whole, parts)
  ]
  assert curves[0] == curves[1]
  assert len(curves[0].splitlines()) == NUM_STEPS


def test_the_backbone_has_learnt_and_says_what_it_is(tmp_path, space):
  draw(tmp_path)
  config = a_config(space, seeds=(0, 1), ema_decay=0.5)
  pretrain.check(config, str(tmp_path))
  pretrain.run(config, str(tmp_path))

  variables, about = weights_of(tmp_path)
  assert about["classes"] == ["dark", "light"]
  assert about["training"]["num_images"] == 16
  model = make_classifier(num_classes=2, **about["model"])
  predict = supervised.predictor(model)
  source = shards.open_shards(tmp_path / "generate")
  [(images, labels)] = host_augment.in_order(
    source, image_size=about["image_size"]
  )
  logits = supervised.evaluate(predict, variables, images)
  assert (logits.argmax(-1) == labels).mean() > 0.9

  other, _ = weights_of(tmp_path, seed=1)
  kernel = lambda v: v["params"]["conv1"]["kernel"]
  assert np.abs(kernel(variables) - kernel(other)).max() > 0.01
  artifacts.verify(tmp_path / "pretrain")
  pretrain.run(config, str(tmp_path))  # complete: nothing is done again
  with pytest.raises(specifications.SpecMismatch, match="batch_size"):
    pretrain.run(a_config(space, batch_size=4), str(tmp_path))


def test_a_step_that_a_device_refuses_is_found_by_the_check(
  tmp_path, space, monkeypatch
):
  """Before images are drawn, though it is the gradient that fails."""
  draw(tmp_path)
  monkeypatch.setattr(supervised.optax, "softmax_cross_entropy", refuse)
  with pytest.raises(NotImplementedError, match="length"):
    pretrain.check(a_config(space), str(tmp_path))


def test_it_tells_how_well_real_images_are_recognised(
  tmp_path, space, capsys, monkeypatch
):
  draw(tmp_path)
  rows = shards.open_shards(tmp_path / "generate")
  monkeypatch.setattr(
    real_images, "open_real", lambda *_: [rows[i] for i in range(16)]
  )
  config = a_config(space, validation=dict(split="validation"), epochs=8)
  pretrain.run(config, str(tmp_path))
  found = artifacts.load(tmp_path / "pretrain")["summary"]["validation"]
  assert found["backbone-s0"] > 0.9
  assert "backbone-s0: " in capsys.readouterr().out


@pytest.mark.slow
def test_arms_train_on_their_own_parts_and_go_on_where_they_stopped(
  tmp_path, space
):
  draw(tmp_path)
  arms = (
    dict(name="few images", images_per_class=4, epochs=8),
    dict(name="one class", num_classes=1),
  )
  config = a_config(space, arms=arms)
  pretrain.check(config, str(tmp_path))
  pretrain.run(config, str(tmp_path))
  manifest = artifacts.load(tmp_path / "pretrain")
  assert manifest["summary"]["num_images"] == {"few images": 8, "one class": 8}
  for stem, num_classes in (("few-images", 2), ("one-class", 1)):
    path = tmp_path / "pretrain" / f"{stem}-s0.safetensors"
    variables, description = files.load_params(path)
    assert variables["params"]["fc"]["bias"].shape == (num_classes,)
    assert len(description["classes"]) == num_classes
    assert description["training"]["num_images"] == 8


def test_repeated_augmentation_sees_fewer_images_in_as_many_steps(
  tmp_path, space, monkeypatch
):
  seen = []
  train_batches = pipeline.train_batches

  def watched(source, *args, **kwargs):
    batches = train_batches(source, *args, **kwargs)
    seen.append(kwargs["repeats"])
    return batches

  monkeypatch.setattr(pipeline, "train_batches", watched)
  draw(tmp_path)
  config = a_config(space, repeats=3, epochs=2)
  pretrain.run(config, str(tmp_path))
  assert seen == [3]
  curve = (tmp_path / "pretrain" / "backbone-s0_metrics.jsonl").read_text()
  assert json.loads(curve.splitlines()[-1])["step"] == 4


@pytest.mark.parametrize(
  ("arms", "message"),
  [
    ([dict(epochs=2)], "needs a name"),
    ([dict(name="a b"), dict(name="a-b")], "share files"),
    ([dict(name="a", seeds=(1,))], "'a' has seeds, which all arms share"),
    ([dict(name="a", epoch=2)], "did you mean 'epochs'"),
    ([dict(name="a", num_classes=3)], "num_classes=3.*has 2 classes"),
    (
      [dict(name="a", num_classes=1), dict(name="b", validation=dict())],
      "which all arms share",
    ),
  ],
)
def test_arms_that_make_no_sense_are_refused(tmp_path, space, arms, message):
  draw(tmp_path)
  with pytest.raises(UserError, match=message):
    pretrain.check(a_config(space, arms=tuple(arms)), str(tmp_path))


# --- what is refused --------------------------------------------------------


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(model=dict(name="resnet5")), "name='resnet5'.*mean 'resnet50'"),
    (dict(model=dict(name="resnet50", widht=8)), "did you mean 'width'"),
    (dict(augment="drawings"), "did you mean 'drawing'"),
    (dict(optimizer=dict(name="sdg", lr=0.1)), "did you mean 'sgd'"),
    (
      dict(optimizer=dict(name="sgd", lr=0.1, rate="cosin")),
      "did you mean 'cosine'",
    ),
    (dict(optimizer=dict(name="sgd", lr=0.1, wd=1)), "weight_decay"),
    (
      dict(optimizer=dict(name="sgd", lr=0.1, drops=(2, 9))),
      r"after epoch \[9\], but there are 4",
    ),
    (dict(epoch=3), "did you mean 'epochs'"),
  ],
)
def test_what_is_misspelt_stops_before_any_work(
  tmp_path, space, fields, message
):
  draw(tmp_path)
  config = a_config(space)
  with config.unlocked():
    for name, value in fields.items():
      is_block = isinstance(value, dict)
      config.pretrain[name] = ConfigDict(value) if is_block else value
  with pytest.raises(UserError, match=message):
    pretrain.check(config, str(tmp_path))


def test_missing_images_stop_before_any_work(tmp_path, space):
  with pytest.raises(UserError, match="'generate' has not been completed"):
    pretrain.check(a_config(space), str(tmp_path))
  draw(tmp_path)
  with pytest.raises(UserError, match="'select' has not been completed"):
    pretrain.check(a_config(space, filter=True), str(tmp_path))


@pytest.mark.faults
def test_a_missing_shard_is_named(tmp_path, space):
  draw(tmp_path)
  [shard] = (tmp_path / "generate").glob("*.array_record*")
  shard.unlink()
  with pytest.raises(UserError, match="no image shards"):
    pretrain.run(a_config(space), str(tmp_path))


def test_images_of_another_space_are_refused(tmp_path, space):
  draw(tmp_path)
  with open(space, "w") as file:
    json.dump({"classes": ["dark"]}, file)
  with pytest.raises(UserError, match="label 1.*1 classes"):
    pretrain.run(a_config(space), str(tmp_path))


# --- recipes and configs ----------------------------------------------------


def test_the_rate_falls_after_its_epochs():
  """Of plain SGD, the first update is -lr * gradient; momentum then adds up."""
  tx = optimizer.make_optimizer(
    "sgd", lr=0.2, num_steps=9, epochs=90, drops=(30, 60), drop_factor=0.1
  )
  grads, sizes = {"w": np.ones(1, np.float32)}, []
  state = tx.init(grads)
  for _ in range(9):
    update, state = tx.update(grads, state, grads)
    sizes.append(-float(update["w"][0]))
  momentum = np.cumsum(0.9 ** np.arange(9))
  rates = np.array(sizes) / momentum
  np.testing.assert_allclose(rates[:3], 0.2, rtol=1e-4)
  np.testing.assert_allclose(rates[3:6], 0.02, rtol=1e-4)
  np.testing.assert_allclose(rates[6:], 0.002, rtol=1e-4)


def test_the_paper_s_recipe_is_written_down():
  config = pretrain_in2k.get_config()
  fields = recipes.RECIPES[config.pretrain.recipe]
  assert (fields["epochs"], fields["batch_size"]) == (90, 512)
  steps = recipes.count_steps(2000 * 1200, epochs=90, batch_size=512)
  assert steps == 421_875
  with_space = config.copy_and_resolve_references()
  with_space.space = "emoji16"
  pretrain.check(with_space, "unused")


def test_the_full_size_stops_with_what_to_bring(tmp_path, monkeypatch):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path))  # nothing fetched yet
  config = pretrain_in2k.get_config()
  with pytest.raises(UserError) as error:
    generate.check(config, "unused")
  for word in (
    "released:glide/base.safetensors",
    "python -m synthjax.weights fetch glide",
  ):
    assert word in str(error.value)


def test_runlocal_is_checked_whole_but_for_its_weights(tmp_path):
  config = pretrain_in2k.get_config("runlocal")
  pretrain.check(config, str(tmp_path))
  assert len(spaces.load_space(config.space).classes) == 16
