"""Tests of pre-training with MoCo, on the device, by recipe, from a start."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from pretrain_runs import a_config, draw, space, weights_of

from configs import (
  pretrain_c100,
  pretrain_in1k,
  pretrain_in2k,
  pretrain_moco,
)
from synthjax.data.generated import shards
from synthjax.data.real import real_images
from synthjax.models.classifiers import HEADS, make_classifier
from synthjax.models.vit import model as vit
from synthjax.report.checked_files import Run
from synthjax.report.sections import curves
from synthjax.runtime import artifacts, repairs, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import pretrain, transfer
from synthjax.training import metrics, pretraining, recipes
from synthjax.weights import files

__all__ = ["space"]  # a fixture

MODEL = dict(name="resnet_tiny", width=16, stage_sizes=(1,))
MOCO = dict(
  objective="moco",
  model=MODEL,
  # A crop and a flip alone: the colours of MoCo take long to compile.
  device_augment="crop_flip",
  moco=dict(queue_size=16, dim=8, num_groups=2),
)
STABLEREP = dict(
  objective="multi_positive",
  model=MODEL,
  device_augment="crop_flip",
  per_prompt=4,
  multi_positive=dict(hidden=16, dim=8),
)
MONITOR = dict(every=3, knn=dict(k=3), linear_probe=True)
VIT = dict(name="vit_tiny", width=8, depth=1, heads=2)


@pytest.fixture
def opened(monkeypatch, tmp_path):
  """Replaces real images by the generated ones; tells what was opened."""
  log = []

  def open_real(block, _, name="images"):
    log.append(block["split"])
    rows = shards.open_shards(tmp_path / "generate")
    return [rows[i] for i in range(len(rows))]

  monkeypatch.setattr(real_images, "open_real", open_real)
  monkeypatch.setattr(real_images, "check_real", lambda *_, **__: None)
  return log


def moco_config(path, **fields):
  config = a_config(path, **MOCO | fields)
  with config.unlocked():
    del config.pretrain["augment"]  # the device's
  return config


def summary_of(workdir):
  return artifacts.load(workdir / "pretrain")["summary"]


def test_a_moco_backbone_is_measured_and_then_finetuned(
  tmp_path,
  space,
  opened,
):
  draw(tmp_path)
  config = moco_config(space, validation=dict(split="validation"))
  config.pretrain.test = dict(split="test")
  config.tasks = ("pretrain", "transfer")
  config.transfer = dict(
    train=dict(split="train"),
    test=dict(split="test"),
    inits=dict(pretrained=dict()),
    shots=(4,),
    seeds=(0,),
    image_size=8,
    augment="none",
    epochs=2,
    batch_size=4,
    optimizer=dict(name="sgd", lr=0.001),
  )
  pretrain.check(config, str(tmp_path))
  pretrain.run(config, str(tmp_path))

  variables, about = weights_of(tmp_path)
  assert about["kind"] == "backbone" and set(about["model"]) == set(MODEL)
  features = make_classifier(num_classes=None, **about["model"])
  want = jax.eval_shape(
    features.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)
  )
  shapes = lambda tree: jax.tree.map(np.shape, dict(tree))
  assert shapes(variables) == jax.tree.map(lambda x: x.shape, dict(want))
  curve = (tmp_path / "pretrain/backbone-s0_metrics.jsonl").read_text()
  assert len(curve.splitlines()) == 8
  # Dark and light: those of one shade are near each other.
  for split in ("validation", "test"):
    assert summary_of(tmp_path)[split]["backbone-s0, kNN"] > 0.7
  assert opened[-1] == "test" and opened.count("test") == 1

  transfer.check(config, str(tmp_path))
  transfer.run(config, str(tmp_path))
  [row] = json.loads((tmp_path / "transfer/results.json").read_text())["rows"]
  assert row["init"] == "pretrained"
  [path] = (tmp_path / "transfer").glob("*.safetensors")
  finetuned, _ = files.load_params(path)
  moved = np.abs(
    finetuned["params"]["conv1"]["kernel"]
    - variables["params"]["conv1"]["kernel"]
  ).max()
  assert 0 < moved < 0.1  # the start is the backbone, not random weights


@pytest.mark.slow
@pytest.mark.parametrize("model", [MODEL, VIT], ids=["ResNet", "ViT"])
def test_stablerep_trains_on_the_images_of_each_prompt(
  tmp_path, space, opened, model
):
  draw(tmp_path)  # those of one shade have one prompt
  config = moco_config(space, **STABLEREP, validation=dict(split="validation"))
  with config.unlocked():
    del config.pretrain["moco"], config.pretrain["model"]
    config.pretrain.model = model
  pretrain.check(config, str(tmp_path))
  pretrain.run(config, str(tmp_path))
  variables, about = weights_of(tmp_path)
  assert about["kind"] == "backbone" and "projector" not in variables
  assert summary_of(tmp_path)["validation"]["backbone-s0, kNN"] > 0.7
  rows = metrics.read_rows(tmp_path / "pretrain/backbone-s0_metrics.jsonl")
  assert rows[-1]["loss"] < rows[0]["loss"]


def test_a_pool_of_real_images_votes(tmp_path, space, opened):
  draw(tmp_path)
  config = moco_config(
    space,
    validation=dict(split="validation"),
    knn=dict(pool=dict(split="real_pool"), k=3, num_images=8),
  )
  pretrain.run(config, str(tmp_path))
  assert opened == ["real_pool", "validation"]
  assert 0.5 < summary_of(tmp_path)["validation"]["backbone-s0, kNN"] <= 1


@pytest.mark.parametrize(
  "objective", [pytest.param("moco", marks=pytest.mark.slow), "supervised"]
)
def test_features_are_monitored_while_they_are_trained(
  tmp_path, space, opened, objective
):
  """Training is that of a run without, and the report shows the curves."""
  make = moco_config if objective == "moco" else partial(a_config, model=MODEL)
  validation = dict(split="validation")
  workdirs = tmp_path, tmp_path / "plain"
  for workdir, fields in zip(workdirs, (MONITOR, None), strict=True):
    draw(workdir)
    config = make(space, validation=validation, monitor=fields)
    pretrain.check(config, str(workdir))
    pretrain.run(config, str(workdir))
  watched, plain = (weights_of(workdir)[0] for workdir in workdirs)
  jax.tree.map(np.testing.assert_array_equal, watched, plain)

  folder = tmp_path / "pretrain"
  rows = metrics.read_rows(folder / "backbone-s0_metrics.jsonl")
  found = [row for row in rows if "knn" in row]
  assert [row["step"] for row in found] == [3, 6, 8]  # and the last
  # Dark and light are told apart by features of any training.
  assert found[-1]["knn"] > 0.7 and found[-1]["linear_probe"] > 0.7
  assert "test" not in opened

  manifest = artifacts.load(folder)
  name = "backbone-s0_metrics.jsonl"
  assert manifest["files"][name]["rows"] == len(rows) == 8 + 3
  files = {name: manifest["files"][name]}
  drawn = curves.curves(
    Run(tmp_path, {"pretrain": {"files": files}}), "pretrain"
  )
  steps = {curve["metric"]: curve["steps"] for curve in drawn}
  assert steps["knn"] == steps["linear_probe"] == [3, 6, 8]
  assert steps["loss"] == list(range(1, 9))


def test_a_monitor_learns_from_its_pool_and_names_the_held_out(
  tmp_path, space, opened
):
  draw(tmp_path)
  config = a_config(
    space,
    model=MODEL,
    epochs=1,
    validation=dict(split="validation"),
    monitor=dict(
      every=9, knn=dict(k=1), num_images=4, pool=dict(split="real_pool")
    ),
  )
  pretrain.run(config, str(tmp_path))
  assert opened[:2] == ["real_pool", "validation"]
  rows = metrics.read_rows(tmp_path / "pretrain/backbone-s0_metrics.jsonl")
  # The pool is the held-out images here, and each its own nearest.
  assert rows[-1] == {"step": 2, "knn": 1.0}


@pytest.mark.slow
def test_both_objectives_start_from_given_weights(tmp_path, space):
  draw(tmp_path)
  model = make_classifier(num_classes=5, **MODEL)
  given = jax.jit(model.init)(jax.random.key(3), np.zeros((1, 8, 8, 3)))
  start = tmp_path / "start.safetensors"
  files.save_params(start, given, {"model": MODEL, "image_size": 8})
  still = dict(name="sgd", lr=0.0, rate="constant")
  for name, config in (
    (
      "labels",
      a_config(space, model=MODEL, init=str(start), optimizer=still),
    ),
    ("moco", moco_config(space, init=str(start), optimizer=still)),
  ):
    workdir = tmp_path / name
    draw(workdir)
    pretrain.check(config, str(workdir))
    pretrain.run(config, str(workdir))
    params, about = weights_of(workdir)[0]["params"], weights_of(workdir)[1]
    for part in params.keys() - set(HEADS):
      jax.tree.map(
        np.testing.assert_allclose, params[part], given["params"][part]
      )
    assert about["training"]["init_hash"] == files.sha256(start)
  assert "fc" not in params  # of MoCo, the last

  files.save_params(start, given, {"model": MODEL, "other": True})
  with pytest.raises(specifications.SpecMismatch, match="init_hash"):
    pretrain.run(config, str(workdir))  # the same path, other weights


def test_weights_of_another_model_stop_before_any_work(tmp_path, space):
  draw(tmp_path)
  model = make_classifier(num_classes=2, **MODEL)
  given = jax.jit(model.init)(jax.random.key(3), np.zeros((1, 8, 8, 3)))
  start = tmp_path / "start.safetensors"
  files.save_params(start, given, {"image_size": 8})
  with pytest.raises(UserError, match="does not fit the model"):
    pretrain.check(a_config(space, init=str(start)), str(tmp_path))
  with pytest.raises(UserError, match="pretrain.init.*there is no file"):
    pretrain.check(a_config(space, init="nowhere.safetensors"), str(tmp_path))
  with pytest.raises(UserError, match="did you mean 'resnet50_torchvision'"):
    pretrain.check(
      a_config(space, init="released:resnet50_torchvison"), str(tmp_path)
    )


def test_a_vit_starts_with_the_positions_of_its_new_size():
  model = make_classifier(num_classes=2, **VIT)
  given = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 3)))
  fitted = vit.fit_positions(given, {"image_size": 8}, image_size=16)
  assert fitted["params"]["pos_embed"].shape == (1, 1 + 16, 8)
  resnet = {"params": {"conv1": 1}, "batch_stats": {}}
  assert vit.fit_positions(resnet, {}, image_size=16) == resnet


@pytest.mark.slow
def test_the_device_augments_and_mixes(tmp_path, space, opened):
  """Larger images are delivered and cropped to size on the device."""
  draw(tmp_path, size=12)
  config = a_config(
    space,
    augment="none",
    source_size=12,
    device_augment="crop_flip",
    mix=dict(prob=0.5),
    validation=dict(split="validation"),
    epochs=12,
  )
  pretrain.check(config, str(tmp_path))
  pretrain.run(config, str(tmp_path))
  assert summary_of(tmp_path)["validation"]["backbone-s0"] > 0.9


def test_the_specification_of_a_plain_run_has_no_new_fields(tmp_path, space):
  draw(tmp_path)
  config = a_config(space, epochs=1)
  pretrain.run(config, str(tmp_path))
  spec = artifacts.load(tmp_path / "pretrain")["spec"]
  assert set(spec.pop(repairs.KEYS)) == set(spec["inputs"].values())
  fields = {*config.pretrain} - specifications.NOT_OF_THE_RESULT
  assert set(spec) == {"space", "inputs", *fields}
  training = weights_of(tmp_path)[1]["training"]
  assert set(training) == {*spec, "num_images", "seed"}


# --- recipes by name --------------------------------------------------------


def test_a_recipe_fills_what_is_not_given():
  filled = recipes.fill(
    {"recipe": "moco_v2", "epochs": 7, "optimizer": {"lr": 0.1}}
  )
  stated = recipes.RECIPES["moco_v2"]
  assert filled["epochs"] == 7 and filled["batch_size"] == 256
  assert filled["optimizer"] == stated["optimizer"] | {"lr": 0.1}
  # Another optimizer has fields of its own.
  other = recipes.fill(
    {"recipe": "agnostic", "optimizer": {"name": "adamw", "lr": 1e-3}}
  )
  assert other["optimizer"] == {"name": "adamw", "lr": 1e-3}
  plain = {"epochs": 3}
  assert recipes.fill(plain) == plain
  assert stated["optimizer"]["lr"] == 0.03  # the table is as it was


@pytest.mark.slow
def test_a_recipe_by_name_is_trained(tmp_path, space):
  draw(tmp_path)
  config = a_config(space, recipe="aware", epochs=1)
  with config.unlocked():
    del config.pretrain["optimizer"]
  pretrain.check(config, str(tmp_path))
  pretrain.run(config, str(tmp_path))
  spec = artifacts.load(tmp_path / "pretrain")["spec"]
  assert spec["optimizer"] == recipes.RECIPES["aware"]["optimizer"]
  assert spec["epochs"] == 1


# --- what is refused --------------------------------------------------------


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(objective="mocco"), "objective='mocco'.*did you mean 'moco'"),
    (dict(objective=["moco"]), "objective=.*needed one of supervised, moco"),
    (dict(arms=3), "arms=3: needed blocks of fields"),
    (dict(recipe=["aware"]), r"pretrain.recipe=\["),
    (dict(device_augment="moco_v3"), "did you mean 'moco_v2'"),
    (dict(recipe="moco_v3"), "recipe 'moco_v3'; did you mean 'moco_v2'"),
    (dict(mix=dict(mixup=0.8)), "did you mean 'mixup_alpha'"),
    (dict(mix=dict(prob=1)), "mix is of normalised images.*'deit'"),
    (dict(moco=dict(dim=3)), "moco is a field of objective='moco' alone"),
    (
      dict(knn=dict(k=3)),
      "knn is a field of objective='moco' and 'multi_positive' alone",
    ),
    (
      STABLEREP | dict(augment="none", per_prompt=1),
      "compares images of one prompt.*per_prompt=1: give 2 or more",
    ),
    (dict(per_prompt=3), "batch_size=8 is no multiple of per_prompt=3"),
    (dict(per_prompt=2, repeats=2), "repeats=2 of an image, and per_prompt=2"),
    (dict(source_size=12), "source_size is of images that the device crops"),
    (MOCO | dict(augment="shift"), "two views.*augment='none'"),
    (MOCO | dict(moco=dict(queue=9)), "did you mean 'queue_size'"),
    (MOCO | dict(knn=dict(pol=9)), "did you mean 'pool'"),
    (
      dict(monitor=dict(evry=9)),
      "monitor has no field 'evry'; did you mean 'every'",
    ),
    (
      dict(monitor=dict(knn=dict(n=9))),
      "monitor.knn has no field 'n'.*k, temper",
    ),
    (dict(monitor=7), "monitor=7: needed a block of the fields every"),
    (
      dict(monitor=dict(every=0, knn=True, num_images=2.5)),
      "(?s)every=0: needed a whole.*num_images=2.5: needed a whole",
    ),
    (
      dict(monitor=dict(every=9, knn=False)),
      "monitor: nothing to measure: ask for knn or linear_probe",
    ),
    (dict(monitor=dict(every=9, knn=True)), "held-out.*give validation"),
    (
      dict(monitor=dict(every=9, knn=7, linear_probe=dict(max_steps=0))),
      "(?s)knn=7: needed True or.*linear_probe.max_steps=0: needed a whole",
    ),
    (
      dict(
        monitor=dict(every=9, knn=True, pool=dict(split="x")),
        validation=dict(split="x"),
      ),
      "pool and validation are the same images",
    ),
    (MOCO | dict(model=VIT, augment="none"), "trains a ResNet.*'vit_tiny'"),
    (
      MOCO | dict(augment="none", moco=dict(queue_size=12, num_groups=3)),
      "queue_size=12 is not a multiple.*num_groups=3",
    ),
    (
      MOCO
      | dict(
        augment="none",
        label_smoothing=0.1,
        mix=dict(prob=1),
      ),
      "(?s)label_smoothing is a field of objective='supervised'.*mix is",
    ),
    (
      MOCO
      | dict(
        augment="none",
        test=dict(split="test"),
        knn=dict(pool=dict(split="test")),
      ),
      "knn.pool and test are the same images",
    ),
  ],
)
def test_what_contradicts_itself_stops_before_any_work(
  tmp_path,
  space,
  fields,
  message,
):
  draw(tmp_path)
  config = a_config(space)
  with config.unlocked():
    for name, value in fields.items():
      config.pretrain[name] = value
  with pytest.raises(UserError, match=message):
    pretrain.check(config, str(tmp_path))


def test_without_a_recipe_the_fields_must_be_there(tmp_path, space):
  config = a_config(space)
  with config.unlocked():
    del config.pretrain["epochs"], config.pretrain["augment"]
  with pytest.raises(UserError, match="(?s)lacks epochs.*lacks augment"):
    pretrain.check(config, str(tmp_path))


# --- configs ----------------------------------------------------------------


@pytest.mark.parametrize(
  ("module", "arg", "lr"),
  [
    (pretrain_c100, "", 1e-4),
    (pretrain_c100, "init=x", 1e-5),
    (pretrain_in1k, "", 0.2),
    (pretrain_in1k, "init=x", 0.001),
    (pretrain_in1k, "backbone=deit_s", 1e-3),
    (pretrain_in2k, "", 0.2),
    (pretrain_in2k, "init=x", 0.001),
    (pretrain_in2k, "backbone=deit_s", 1e-3),
    (pretrain_moco, "", 0.03),
    (pretrain_moco, "init=x", 0.003),
  ],
)
def test_configs_have_the_rates_of_the_paper(module, arg, lr):
  given = module.get_config(arg).pretrain.to_dict()
  [fields] = pretraining.read(pretraining.blocks_of(given)).values()
  assert fields.optimizer.keywords["lr"] == lr
  assert fields.init == ("x" if "init" in arg else None)
  assert not getattr(fields, "ema_decay", None)


@pytest.mark.slow
@pytest.mark.parametrize(
  "module", [pretrain_c100, pretrain_in1k, pretrain_in2k, pretrain_moco]
)
@pytest.mark.parametrize("arg", ["", "backbone=deit_s", "init=start"])
def test_configs_are_whole(tmp_path, module, arg, opened):
  """The full size, and the embedded one from its own earlier backbone."""
  if module is pretrain_moco and "deit" in arg:
    with pytest.raises(UserError, match="trains a ResNet.*'deit_s'"):
      pretrain.check(module.get_config(arg), str(tmp_path))
    return
  if "init" in arg:
    config = module.get_config("runlocal")
    model = make_classifier(num_classes=16, **config.pretrain.model)
    given = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3)))
    start = tmp_path / "start.safetensors"
    files.save_params(start, given, {"image_size": 32})
    config = module.get_config(f"runlocal,init={start}")
    pretrain.check(config, str(tmp_path))
    return
  for each in (arg, f"{arg},runlocal"):
    config = module.get_config(each)
    pretrain.check(config, str(tmp_path))
    transfer.check(config, str(tmp_path))


def test_amounts_are_those_of_the_tables():
  amount = lambda module, classes: (
    classes * module.get_config().generate.images_per_class
  )
  assert amount(pretrain_c100, 100) == 1_200_000
  assert amount(pretrain_in1k, 1000) == amount(pretrain_moco, 1000) == 1_200_000
