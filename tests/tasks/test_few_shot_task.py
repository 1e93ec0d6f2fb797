"""The task few_shot: methods, shots and seeds, and a test opened at the end."""

import json

import numpy as np
import pytest
import tiny_world

from synthjax.adapt import (
  classifier,
  feature_sets,
  linear_head,
  mixed_tuning,
)
from synthjax.adapt import few_shot_methods as methods
from synthjax.data.generated import filters, scores
from synthjax.data.pipeline import few_shot as draws
from synthjax.data.real import real_images
from synthjax.encoders import load_encoder
from synthjax.evals import arms
from synthjax.labels import spaces
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import few_shot, score, select
from synthjax.weights import files

SMALL = dict(num_epochs=2, batch_size=8, real_batch_size=4)
METHODS = (
  dict(name="mix", kind="classifier", strategy="rg{shots}", options=SMALL),
  dict(
    name="CT w. init", kind="classifier", options=dict(order="real", lr=5.0)
  ),
  dict(
    name="B",
    kind="classifier",
    strategy="enhanced",
    filter="clip",
    options=dict(SMALL, order="syn_real"),
  ),
  dict(
    name="RF",
    kind="classifier",
    strategy="enhanced",
    filter="real",
    options=dict(SMALL, order="real_syn"),
  ),
  dict(name="Tip", kind="tip_adapter"),
  dict(name="Tip-F", kind="tip_adapter", options=dict(trained=True)),
  dict(name="CoOp", kind="coop", options=dict(num_context=2, num_epochs=2)),
  dict(name="probe", kind="linear_probe", options=dict(max_steps=5)),
  dict(
    name="found", kind="retrieval", options=dict(num_epochs=2, batch_size=8)
  ),
  dict(name="ProLIP", kind="prolip", options=dict(num_steps=2)),
  dict(
    name="ProLIP w. Syn",
    kind="prolip",
    strategy="rg{shots}",
    options=dict(num_steps=2, batch_size=8),
  ),
)
FEW_SHOT = dict(
  methods=METHODS,
  shots=(1, 2),
  seeds=(0, 1),
  pool=dict(split="real_pool"),
  validation=dict(split="validation"),
  test=dict(split="test"),
  test_parts=dict(test_unseen=dict(split="test_unseen")),
  num_views=2,
  max_per_class=2,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Scores and selects images of 3 strategies x 2 seeds x 3 classes x 4."""
  workdir = tmp_path_factory.mktemp("few_shot")
  tiny_world.write_images(
    workdir,
    strategies=("enhanced", "rg1", "rg2"),
    seeds=(0, 1),
    shard_size=64,
  )
  config = tiny_world.make_config(
    workdir, score={}, select={"max_per_class": 3}, few_shot=FEW_SHOT
  )
  score.run(config, str(workdir))
  select.run(config, str(workdir))
  return workdir, config


@pytest.fixture(scope="module")
def trained(world):
  """Runs the task; returns what was opened and learned, in order."""
  workdir, config = world
  events, open_real = [], real_images.open_real
  learner = methods.Method.learner

  def spy(method):
    events.append(method.kind)
    return learner(method)

  few_shot.check(config, str(workdir))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      real_images,
      "open_real",
      lambda block, space: (
        events.append(block["split"]) or open_real(block, space)
      ),
    )
    patch.setattr(methods.Method, "learner", spy)
    few_shot.run(config, str(workdir))
  return events


def results_of(workdir):
  return json.loads((workdir / "few_shot" / "results.json").read_text())


def changed(config, **changes):
  config = config.copy_and_resolve_references()
  config.few_shot = dict(FEW_SHOT, **changes)
  return config


def linked(world, folder):
  """Returns the config for another workdir with the same scores."""
  workdir, config = world
  for name in ("generate", "score", "select"):
    (folder / name).symlink_to(workdir / name)
  return config


def test_the_test_split_is_opened_once_after_all_training(trained):
  learned = [each for each in trained if each in methods.METHODS]
  assert learned == [m["kind"] for _ in (1, 2) for m in METHODS for _ in (0, 1)]
  before, after = trained[:-2], trained[-2:]
  assert after == ["test", "test_unseen"]
  assert set(before) - set(learned) == {"real_pool", "validation"}


def test_rows_are_shots_times_methods_times_seeds(world, trained):
  workdir, _ = world
  rows = results_of(workdir)["rows"]
  assert [(r["shots"], r["method"], r["seed"]) for r in rows] == [
    (shots, method["name"], seed)
    for shots in (1, 2)
    for method in METHODS
    for seed in (0, 1)
  ]
  for row in rows:
    # 3 classes x 4 images, 3 that `select` kept and 2 of the real filter.
    images = {"mix": 12, "ProLIP w. Syn": 12, "B": 9, "RF": 6}
    images = images.get(row["method"], 0)
    assert row["num_images"] == images
    assert row["accuracy"].keys() == {"test", "test_unseen"}
    assert row["arm"] == arms.label(row["method"], row["shots"])
    assert "best_epoch_on_test" not in row


def test_an_accuracy_is_that_of_what_the_shots_teach(world, trained):
  workdir, config = world
  space = spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  read = lambda split: feature_sets.encode_real(
    dict(split=split), space, encoder, workdir / "few_shot"
  )[0]
  pool, test = read("real_pool"), read("test")
  texts = scores.read_texts(workdir / "score")
  rows = draws.draw(pool[1], num_classes=3, shots=2, seed=1)
  problem = mixed_tuning.Problem(
    zero_shot=linear_head.init_head(texts.text_features, texts.logit_scale),
    logit_scale=encoder.logit_scale,
    shots=(pool[0][rows], pool[1][rows]),
    views=None,
    synthetic=None,
    validation=None,
    prompts=None,
    seed=1,
  )
  predict = methods.Classifier(**METHODS[1]["options"])(problem)
  want = (np.asarray(predict(test[0])).argmax(-1) == test[1]).mean()
  (row,) = [
    row
    for row in results_of(workdir)["rows"]
    if (row["method"], row["shots"], row["seed"]) == ("CT w. init", 2, 1)
  ]
  assert row["accuracy"]["test"] == pytest.approx(want)
  assert want != results_of(workdir)["zero_shot"]["test"]


def test_the_summary_has_means_and_intervals(world, trained):
  workdir, _ = world
  results = results_of(workdir)
  (row,) = [
    row
    for row in results["summary"]
    if (row["arm"], row["split"]) == ("Tip-F (2 shots)", "test")
  ]
  values = [
    row["accuracy"]["test"]
    for row in results["rows"]
    if row["arm"] == "Tip-F (2 shots)"
  ]
  assert row["n"] == 2 and row["mean"] == pytest.approx(np.mean(values))
  assert row["low"] <= row["mean"] <= row["high"]


def test_the_table_has_a_line_for_each_method(world, trained):
  workdir, _ = world
  lines = arms.shots_table(results_of(workdir)).splitlines()
  assert lines[0].split() == ["top-1,", "%", "1", "shots", "2", "shots"]
  names = [line.split("  ")[0].strip() for line in lines[1:]]
  assert names == ["zero-shot", *(method["name"] for method in METHODS)]
  assert len({len(line) for line in (lines[0], *lines[2:])}) == 1


def test_what_every_method_has_learned_can_be_used(world, trained):
  workdir, config = world
  known = classifier.load(workdir)
  assert (known.arm.task, known.arm.name) == ("few_shot", "mix (2 shots)")
  names = [arms.label(m["name"], shots) for shots in (1, 2) for m in METHODS]
  assert {*files.read_description(known.arm.path)["arms"]} == {
    "zero_shot",
    *names,
  }
  space = spaces.load_space(config.space)
  source = real_images.open_real(dict(split="test"), space)
  images = [source[i]["image"] for i in range(len(source))]
  labels = np.array([source[i]["label"] for i in range(len(source))])
  for name in (
    "zero_shot",
    "Tip-F (2 shots)",
    "probe (2 shots)",
    "ProLIP w. Syn (2 shots)",
  ):
    right = classifier.load(workdir, arm=name).classify(images).argmax(-1)
    of_seeds = [
      row["accuracy"]["test"]
      for row in results_of(workdir)["rows"]
      if row["arm"] == name
    ] or [results_of(workdir)["zero_shot"]["test"]]
    # The mean of the seeds' logits is no worse than all of them, by far.
    assert (right == labels).mean() > min(of_seeds) - 0.05


def test_the_manifest_says_when_the_test_was_opened(world, trained):
  workdir, _ = world
  manifest = artifacts.load(workdir / "few_shot")
  assert manifest["summary"]["test_opened_at"].startswith("20")
  assert "results.json" in manifest["files"]
  artifacts.verify(workdir / "few_shot")


def test_a_second_run_is_skipped(world, trained, monkeypatch):
  workdir, config = world
  monkeypatch.setattr(few_shot, "_problem_maker", None)
  few_shot.run(config, str(workdir))


def test_other_settings_are_refused_in_the_same_folder(world, trained):
  workdir, config = world
  with pytest.raises(specifications.SpecMismatch, match=r"few_shot\.shots"):
    few_shot.run(changed(config, shots=(1, 2, 4)), str(workdir))


# --- what a method is given -------------------------------------------------


def test_the_real_filter_sees_the_shots_of_the_seed(
  world, tmp_path, monkeypatch
):
  config = linked(world, tmp_path)
  seen, select_by_real = [], filters.select_by_real

  def spy(found, features, labels, **kwargs):
    seen.append((len(found.ids), labels.tolist(), kwargs["margin"]))
    return select_by_real(found, features, labels, **kwargs)

  monkeypatch.setattr(filters, "select_by_real", spy)
  few_shot.run(
    changed(
      config,
      methods=(METHODS[3],),
      shots=(2,),
      seeds=(1,),
      real_filter_margin=0.25,
    ),
    str(tmp_path),
  )
  # It judges the images of its strategy, 3 classes x 4 x 2 seeds.
  assert seen == [(24, [0, 0, 1, 1, 2, 2], 0.25)]


def test_retrieval_does_not_read_the_labels_of_the_pool(tmp_path):
  rng = np.random.default_rng(0)
  features = rng.normal(size=(40, 8)).astype(np.float32)
  texts = rng.normal(size=(3, 8))
  found = [
    feature_sets.retrieve(
      feature_sets.Few(None, (features, labels), None, 3), texts, 5, False
    )
    for labels in (np.arange(40) % 3, np.full(40, -7), None)
  ]
  cosines = features @ texts.T / np.linalg.norm(features, axis=1)[:, None]
  for got, labels in found:
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    for label in range(3):
      rows = np.argsort(-cosines[:, label])[:5]
      np.testing.assert_array_equal(got[labels == label], features[rows])


def test_the_released_protocol_reports_the_best_epoch_on_test(world, tmp_path):
  config = linked(world, tmp_path)
  fast = dict(SMALL, lr=0.5, num_epochs=4)
  few_shot.run(
    changed(
      config,
      protocol="released",
      methods=(
        dict(METHODS[0], options=fast),
        dict(METHODS[0], name="paper", options=dict(fast, protocol="paper")),
        METHODS[4],
      ),
      shots=(2,),
      seeds=(0,),
    ),
    str(tmp_path),
  )
  released, paper, tip = results_of(tmp_path)["rows"]
  for row in (released, paper):
    assert row["best_epoch_on_test"] >= row["accuracy"]["test"] - 1e-6
  assert "best_epoch_on_test" not in tip


def test_images_of_the_shots_of_another_seed_are_refused(world, tmp_path):
  config = linked(world, tmp_path)
  config = changed(config, methods=METHODS[:1], shots=(1,), seeds=(2,))
  with pytest.raises(UserError, match="no 'rg1' images of the shots of seed 2"):
    few_shot.run(config, str(tmp_path))


# --- what is refused before anything runs -----------------------------------


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"shot": (1,)}, "did you mean 'shots'"),
    ({"methods": (dict(METHODS[0], strat="x"),)}, "did you mean 'strategy'"),
    ({"methods": ({"name": "x"},)}, r"methods\[0\] lacks kind"),
    ({"methods": ()}, "needed one block or more"),
    ({"methods": (METHODS[4], METHODS[4])}, "a name of its own"),
    ({"methods": (dict(METHODS[4], name="zero_shot"),)}, "not 'zero_shot'"),
    ({"protocol": "relesed"}, "did you mean 'released'"),
    ({"shots": ()}, r"shots=\(\): needed different whole numbers"),
    ({"seeds": (0, 0)}, "seeds=.*needed different whole numbers"),
    ({"sampler": "nestd"}, "did you mean 'nested'"),
    ({"validation": None}, r"'linear_probe', 'tip_adapter'.*`validation`"),
    ({"pool": dict(split="real_pol")}, "did you mean 'real_pool'"),
    ({"shots": (1, 5000)}, "5000 real images of each class are asked for"),
  ],
)
def test_check_finds_what_is_wrong(world, changes, message):
  workdir, config = world
  with pytest.raises(UserError, match=message):
    few_shot.check(changed(config, **changes), str(workdir))


def test_validation_is_not_needed_without_a_search(world):
  workdir, config = world
  config = changed(config, methods=METHODS[:4], validation=None)
  few_shot.check(config, str(workdir))


def test_check_wants_the_images_that_methods_learn_from(world, tmp_path):
  _, config = world
  with pytest.raises(UserError, match="'score' has not been completed"):
    few_shot.check(config, str(tmp_path))
  few_shot.check(changed(config, methods=METHODS[4:-1]), str(tmp_path))


def test_check_wants_a_projection_to_tune(world, monkeypatch):
  workdir, config = world
  load = few_shot.load_encoder
  without = lambda **block: load(**block)._replace(unprojected=None)
  monkeypatch.setattr(few_shot, "load_encoder", without)
  with pytest.raises(UserError, match=r"\['ProLIP', 'ProLIP w. Syn'\] tune"):
    few_shot.check(config, str(workdir))
  few_shot.check(changed(config, methods=METHODS[:-2]), str(workdir))


def test_check_knows_which_images_the_run_will_draw(world):
  workdir, config = world
  config = config.copy_and_resolve_references()
  config.tasks = ("prompts", "generate", "score", "select", "few_shot")
  config.prompts = dict(strategies=("enhanced",))
  guided = dict(pool=dict(split="real_pool"), shots=(1,))
  config.generate = dict(seeds=(0, 1), real_guidance=guided)
  with pytest.raises(UserError, match="'rg2'; did you mean 'rg1'"):
    few_shot.check(config, str(workdir))
  config.generate.real_guidance.shots = (1, 2)
  few_shot.check(config, str(workdir))
  config.generate.seeds = (0,)
  with pytest.raises(UserError, match=r"has \[1\] besides"):
    few_shot.check(config, str(workdir))
