"""Tests of finetuning on real images, and of what its numbers say."""

import json
from collections import Counter

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from configs import pretrain_in2k, sanity_pretrain
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.rows import labels_of
from synthjax.data.real import real_images
from synthjax.models.classifiers import HEADS, backbone, make_classifier
from synthjax.models.vit import model as vit
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import transfer
from synthjax.training import backbones as pretrained
from synthjax.training import finetune, optimizer, pretraining, supervised
from synthjax.weights import files

MODEL = dict(name="resnet_tiny", width=4, stage_sizes=(1,))
SPLITS = {"train": 24, "validation": 12, "test": 20}


@pytest.fixture
def opened(monkeypatch):
  """Replaces the real images by shades; tells which were opened, in order."""
  log = []

  def open_real(block, space, name="images"):
    log.append(block["split"])
    n, rng = SPLITS[block["split"]], np.random.default_rng(len(block["split"]))
    return [
      {
        "image": rng.integers(0, 100, (8, 8, 3), np.uint8)
        + np.uint8(150 * (i % 2)),
        "label": i % 2,
      }
      for i in range(n)
    ]

  def check_real(block, space, name, *, shots=()):
    for count in shots:
      labels = labels_of(open_real(block, space))
      few_shot.draw(labels, num_classes=2, shots=count, seed=0)

  monkeypatch.setattr(real_images, "open_real", open_real)
  monkeypatch.setattr(real_images, "check_real", check_real)
  return log


@pytest.fixture
def config(tmp_path):
  path = tmp_path / "shades.json"
  path.write_text(json.dumps({"classes": ["dark", "light"]}))
  config = ConfigDict()
  config.tasks, config.seed, config.space = ("transfer",), 0, str(path)
  config.transfer = dict(
    model=MODEL,
    train=dict(split="train"),
    validation=dict(split="validation"),
    test=dict(split="test"),
    inits=dict(random=dict(), pretrained=dict()),
    shots=(4,),
    seeds=(0, 1),
    image_size=8,
    augment="none",
    epochs=4,
    batch_size=4,
    optimizer=dict(name="sgd", lr=0.05),
    log_every=4,
    checkpoint_every=4,
  )
  return config


def pretrain(workdir, model=MODEL, num_classes=5):
  """Writes random backbones of two seeds, as `pretrain` would."""
  folder, rows, found = workdir / "pretrain", {}, []
  artifacts.begin(folder, {})
  init = jax.jit(make_classifier(num_classes=num_classes, **model).init)
  for seed in range(2):
    variables = init(jax.random.key(seed + 7), np.zeros((1, 8, 8, 3)))
    files.save_params(
      folder / f"backbone-s{seed}.safetensors", variables, {"model": model}
    )
    rows[f"backbone-s{seed}.safetensors"] = 1
    found.append(variables)
  artifacts.finish(folder, {}, rows)
  return found


def results_of(workdir):
  return json.loads((workdir / "transfer" / "results.json").read_text())


def test_both_starts_are_finetuned_and_tested(tmp_path, config, opened, capsys):
  pretrain(tmp_path)
  config.transfer.inits.pretrained = dict(optimizer=dict(lr=(0.02, 0.05)))
  transfer.check(config, str(tmp_path))
  opened.clear()
  transfer.run(config, str(tmp_path))

  # The test images are opened once, after all else.
  assert opened.count("test") == 1 and opened[-1] == "test"
  results = results_of(tmp_path)
  rows = results["rows"]
  assert [(row["init"], row["shots"], row["seed"]) for row in rows] == [
    (init, 4, seed) for init in ("random", "pretrained") for seed in (0, 1)
  ]
  assert all(0 <= row["accuracy"] <= 1 for row in rows)
  means = {
    row["init"]: np.mean(
      [r["accuracy"] for r in rows if r["init"] == row["init"]]
    )
    for row in results["summary"]
  }
  assert means == {
    r["init"]: pytest.approx(r["mean"]) for r in results["summary"]
  }
  [difference] = results["differences"]
  assert difference["mean"] == pytest.approx(
    means["pretrained"] - means["random"]
  )
  # Two rates were tried for one of the starts; the tested rows have one.
  tried = Counter((row["init"], row["lr"]) for row in results["search"])
  assert tried == {
    ("random", 0.05): 2,
    ("pretrained", 0.02): 2,
    ("pretrained", 0.05): 2,
  }
  assert len({row["lr"] for row in rows if row["init"] == "pretrained"}) == 1
  printed = capsys.readouterr().out
  assert "random" in printed and "pretrained - random, 4 shots" in printed
  artifacts.verify(tmp_path / "transfer")

  before = list(opened)
  transfer.run(config, str(tmp_path))  # complete: nothing is opened again
  assert opened == before


@pytest.mark.slow
def test_every_arm_of_pretraining_is_a_start(tmp_path, config, opened):
  first, second = pretrain(tmp_path / "elsewhere")
  arms, rows = {"A 1": first, "A 1-s": second}, {}
  folder, spec = tmp_path / "pretrain", {"arms": {arm: {} for arm in arms}}
  artifacts.begin(folder, spec)
  for arm, variables in arms.items():
    name = f"{pretraining.label_of(0, arm)}.safetensors"
    files.save_params(folder / name, variables, {"model": MODEL})
    rows[name] = 1
  artifacts.finish(folder, spec, rows)

  config.transfer.compare = (("A 1", "A 1-s"),)
  transfer.run(config, str(tmp_path))
  results = results_of(tmp_path)
  assert [(row["init"], row["seed"]) for row in results["rows"]] == [
    (init, seed) for init in ("random", *arms) for seed in (0, 1)
  ]
  accuracy = {(r["init"], r["seed"]): r["accuracy"] for r in results["rows"]}
  for row in results["differences"]:
    gains = [
      accuracy[row["init"], seed] - accuracy[row["reference"], seed]
      for seed in (0, 1)
    ]
    assert row["mean"] == pytest.approx(np.mean(gains))
  pairs = [(row["init"], row["reference"]) for row in results["differences"]]
  assert pairs == [("A 1", "random"), ("A 1-s", "random"), ("A 1", "A 1-s")]


def test_arms_come_in_the_order_of_the_numbers_in_their_names(tmp_path):
  names = ("x 75", "x 150", "80 of x", "160 of x")
  spec, folder = {"arms": {name: {} for name in names}}, tmp_path / "pretrain"
  artifacts.begin(folder, spec)
  artifacts.finish(folder, spec, {})
  ordered = ["80 of x", "160 of x", "x 75", "x 150"]
  assert list(pretrained.backbones(folder)) == ordered


def test_a_linear_probe_leaves_the_backbone_as_it_was(tmp_path, config, opened):
  [start, _] = pretrain(tmp_path)
  config.transfer.inits = ConfigDict(dict(pretrained=dict()))
  config.transfer.method, config.transfer.seeds = "linear", (0,)
  config.transfer.optimizer = dict(name="sgd", lr=0.5, weight_decay=0.1)
  transfer.check(config, str(tmp_path))
  transfer.run(config, str(tmp_path))
  path = tmp_path / "transfer" / "pretrained-4shots-lr0.5-s0.safetensors"
  after, _ = files.load_params(path)
  jax.tree.map(
    np.testing.assert_array_equal,
    backbone(after),
    jax.device_get(backbone(start)),
  )
  # A head that is never trained starts from far smaller weights than 0.5.
  assert np.abs(after["params"]["fc"]["kernel"]).max() > 0.5


def test_images_are_repeated_and_measured_in_their_middle(
  tmp_path, config, opened, monkeypatch
):
  """What the block says reaches the batches and the measurement."""
  config.transfer.inits = ConfigDict(dict(random=dict()))
  config.transfer.update(repeats=2, crop=0.8)
  config.transfer.update(seeds=(0,), epochs=1)
  seen, train = [], transfer.pipeline.train_batches
  in_order = transfer.host_augment.in_order

  def batches(*args, **kwargs):
    seen.append(("repeats", kwargs["repeats"]))
    return train(*args, **kwargs)

  def rows(source, **kwargs):
    seen.append(("crop", kwargs["crop"]))
    return in_order(source, **kwargs)

  monkeypatch.setattr(transfer.pipeline, "train_batches", batches)
  monkeypatch.setattr(transfer.host_augment, "in_order", rows)
  transfer.run(config, str(tmp_path))
  assert {*seen} == {("repeats", 2), ("crop", 0.8)}


@pytest.mark.slow
def test_the_device_may_augment_and_mix(tmp_path, config, opened):
  config.transfer.inits = ConfigDict(dict(random=dict()))
  config.transfer.update(
    device_augment="crop_flip", source_size=10, mix=dict(mixup_alpha=0.8)
  )
  config.transfer.seeds = (0,)
  del config.transfer["augment"]
  transfer.check(config, str(tmp_path))
  transfer.run(config, str(tmp_path))
  assert len(results_of(tmp_path)["rows"]) == 1


def test_a_step_that_a_device_refuses_is_found_by_the_check(
  tmp_path, config, opened, monkeypatch
):
  pretrain(tmp_path)

  def refuse(*_):
    raise NotImplementedError("Unsupported sequence length")

  monkeypatch.setattr(optax, "softmax_cross_entropy", refuse)
  with pytest.raises(NotImplementedError, match="length"):
    transfer.check(config, str(tmp_path))


@pytest.mark.slow
def test_a_start_of_its_own_learns_shades(tmp_path, config, opened):
  config.transfer.inits = ConfigDict(dict(random=dict(epochs=20)))
  config.transfer.seeds = (0,)
  config.transfer.shots = (4, None)
  transfer.check(config, str(tmp_path))
  transfer.run(config, str(tmp_path))
  rows = results_of(tmp_path)["rows"]
  assert [row["shots"] for row in rows] == [4, None]
  assert all(row["accuracy"] > 0.9 for row in rows)
  about = files.load_params(
    tmp_path / "transfer" / "random-allshots-lr0.05-s0.safetensors"
  )[1]
  assert about["training"]["num_steps"] == 24 * 20 // 4


def test_a_killed_run_goes_on_where_it_stopped(
  tmp_path, config, opened, monkeypatch
):
  """What was trained is not trained again, and the end is the same."""
  config.transfer.epochs = 1
  config.transfer.inits = ConfigDict(dict(random=dict()))
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  transfer.run(config, str(whole))

  trained, train = [], transfer.runs.train

  def dying(*args, **kwargs):
    if trained:
      raise KeyboardInterrupt
    trained.append(kwargs["label"])
    return train(*args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(transfer.runs, "train", dying)
    with pytest.raises(KeyboardInterrupt):
      transfer.run(config, str(parts))
  assert trained == ["random-4shots-lr0.05-s0"]
  first = parts / "transfer" / f"{trained[0]}.safetensors"
  before = first.stat().st_mtime_ns
  transfer.run(config, str(parts))
  assert first.stat().st_mtime_ns == before
  assert results_of(parts) == results_of(whole)


# --- the start from a backbone ----------------------------------------------


def test_a_backbone_is_taken_whole_and_its_head_is_not():
  model = make_classifier(num_classes=2, **MODEL)
  images = np.zeros((1, 8, 8, 3), np.uint8)
  backbone = jax.jit(make_classifier(num_classes=5, **MODEL).init)(
    jax.random.key(3), np.zeros((1, 8, 8, 3))
  )
  tx = optimizer.make_optimizer("sgd", lr=0.1, num_steps=4, epochs=1)
  scratch = supervised.supervised(model, tx, ema_decay=0.9)
  batch = {"image": images, "label": np.zeros(1, int)}
  fresh = jax.jit(scratch.init)(jax.random.key(0), batch)
  started = finetune.start_from(scratch, backbone, heads=HEADS)
  state = jax.jit(started.init)(jax.random.key(0), batch)

  for variables in (state.variables, state.ema):
    params = variables["params"]
    for name in params:
      source = fresh.variables if name == "fc" else backbone
      jax.tree.map(
        np.testing.assert_array_equal, params[name], source["params"][name]
      )
    jax.tree.map(
      np.testing.assert_array_equal,
      variables["batch_stats"],
      backbone["batch_stats"],
    )
  kernel = lambda s: s.variables["params"]["conv1"]["kernel"]
  assert np.abs(kernel(state) - kernel(fresh)).max() > 0.01


def test_each_seed_starts_from_a_backbone_of_its_own(
  tmp_path, config, opened, monkeypatch
):
  backbones, starts = pretrain(tmp_path), []

  def train(objective, dataset, fields, **_):
    state = objective.init(jax.random.key(0), next(iter(dataset)))
    starts.append(state.variables["params"]["conv1"]["kernel"])
    return state

  monkeypatch.setattr(transfer.runs, "train", train)
  for label in ("0", "1", "2"):
    name = f"pretrained-4shots-lr0.05-s{label}_metrics.jsonl"
    (tmp_path / "transfer").mkdir(exist_ok=True)
    (tmp_path / "transfer" / name).write_text("")
  config.transfer.inits = ConfigDict(dict(pretrained=dict()))
  config.transfer.seeds = (0, 1, 2)
  transfer.run(config, str(tmp_path))
  for start, number in zip(starts, (0, 1, 0), strict=True):  # in turn
    np.testing.assert_array_equal(
      start, backbones[number]["params"]["conv1"]["kernel"]
    )
  assert not results_of(tmp_path)["differences"]  # nothing to compare with


def test_a_backbone_of_another_model_is_refused(tmp_path):
  narrow, wide = (
    jax.jit(make_classifier(num_classes=2, **MODEL | dict(width=width)).init)(
      jax.random.key(0), np.zeros((1, 8, 8, 3))
    )
    for width in (4, 6)
  )
  with pytest.raises(UserError, match=r"conv1/kernel.*\(3, 3, 3, 6\).*needs"):
    finetune.replace_backbone(narrow, wide, heads=HEADS)


@pytest.mark.slow
def test_a_vit_starts_at_another_image_size_with_resized_positions():
  """As the constant part of the positions of 4 patches, seen with 9."""
  sizes = dict(name="vit_tiny", width=8, depth=1, heads=1, patch_size=4)
  backbone = jax.jit(make_classifier(num_classes=5, **sizes).init)(
    jax.random.key(3), np.zeros((1, 8, 8, 3))
  )
  backbone["params"]["pos_embed"] = np.full((1, 5, 8), 0.5, np.float32)
  start = vit.fit_positions(backbone, {"image_size": 8}, image_size=12)
  model = make_classifier(num_classes=2, **sizes)
  tx = optimizer.make_optimizer("sgd", lr=0.1, num_steps=4, epochs=1)
  scratch = supervised.supervised(model, tx)
  batch = {"image": np.zeros((1, 12, 12, 3), np.uint8)}
  started = finetune.start_from(scratch, start, heads=HEADS)
  state = jax.jit(started.init)(jax.random.key(0), batch)
  params = state.variables["params"]
  np.testing.assert_allclose(params["pos_embed"], np.full((1, 10, 8), 0.5))
  assert params["head"]["kernel"].shape == (8, 2)
  np.testing.assert_array_equal(
    params["blocks_0"]["attn"]["qkv"]["kernel"],
    backbone["params"]["blocks_0"]["attn"]["qkv"]["kernel"],
  )
  with pytest.raises(UserError, match="pos_embed: the weights have"):
    misfit = finetune.start_from(scratch, backbone, heads=HEADS)
    jax.eval_shape(misfit.init, jax.random.key(0), batch)


# --- what is refused --------------------------------------------------------


def edit(config, **fields):
  with config.unlocked():
    for name, value in fields.items():
      config.transfer[name] = value


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      dict(inits=ConfigDict(dict(pretrain=dict()))),
      "did you mean 'pretrained'",
    ),
    (dict(inits=ConfigDict(dict(random=dict(lr=1)))), "transfer.inits.random"),
    (
      dict(model=ConfigDict(dict(name="resnet5"))),
      "name='resnet5': needed one of",
    ),
    (dict(shots=(64,)), "class 0 has 12, class 1 has 12.*at most 12 shots"),
    (dict(augment="drawings"), "did you mean 'drawing'"),
    (dict(train=ConfigDict(dict(split="test"))), "the same images"),
    (dict(epoch=3), "did you mean 'epochs'"),
    (dict(optimizer=ConfigDict(dict(name="sgd"))), "lacks lr"),
  ],
)
def test_what_cannot_work_stops_before_any_work(
  tmp_path, config, opened, fields, message
):
  pretrain(tmp_path)
  edit(config, **fields)
  with pytest.raises(UserError, match=message):
    transfer.check(config, str(tmp_path))
  assert "test" not in opened


def test_several_rates_need_validation_images(tmp_path, config, opened):
  edit(config, inits=ConfigDict(dict(random=dict())))
  edit(config, optimizer=ConfigDict(dict(name="sgd", lr=(0.1, 0.2))))
  transfer.check(config, str(tmp_path))
  edit(config, validation=None)
  with pytest.raises(UserError, match="2 learning rates.*'validation'|`valid"):
    transfer.check(config, str(tmp_path))


def test_a_missing_backbone_stops_before_any_work(tmp_path, config, opened):
  with pytest.raises(UserError, match="'pretrain' has not been completed"):
    transfer.check(config, str(tmp_path))
  edit(config, weights=str(tmp_path / "none.safetensors"))
  with pytest.raises(UserError, match="there is no file.*fetch resnet50"):
    transfer.check(config, str(tmp_path))


@pytest.mark.parametrize("module", [pretrain_in2k, sanity_pretrain])
def test_the_embedded_configs_are_whole(tmp_path, module):
  """Counts the shots of the real pool, with nothing replaced."""
  transfer.check(module.get_config("runlocal"), str(tmp_path))
