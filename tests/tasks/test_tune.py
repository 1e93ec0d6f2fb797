"""Tuning: arms and seeds, and a test split that is opened once, at the end."""

import json

import numpy as np
import pytest
import tiny_world
from PIL import Image
from safetensors.numpy import load_file

from synthjax.adapt import heads, linear_head, uncertainty
from synthjax.data.generated import filters, scores
from synthjax.data.real import real_images
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import score, select, tune

ARMS = (
  dict(name="B CE", strategy="basic", filter=False, soft_weight=0.0),
  dict(name="LE CE", strategy="enhanced", filter=False, soft_weight=0.0),
  dict(name="LE+CF SCE", strategy="enhanced", filter=True, soft_weight=0.5),
)
TUNE = dict(
  arms=ARMS,
  seeds=(0, 1),
  num_epochs=4,
  batch_size=8,
  validation=dict(split="validation"),
  test=dict(split="test"),
  test_parts=dict(test_unseen=dict(split="test_unseen")),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
  """Scores and selects 2 strategies x 2 seeds x 3 classes x 4 images."""
  workdir = tmp_path_factory.mktemp("tune")
  tiny_world.write_images(
    workdir, strategies=("basic", "enhanced"), seeds=(0, 1), shard_size=64
  )
  config = tiny_world.make_config(
    workdir, score={}, select={"max_per_class": 2}, tune=TUNE
  )
  score.run(config, str(workdir))
  select.run(config, str(workdir))
  return workdir, config


@pytest.fixture(scope="module")
def tuned(world):
  """Runs the task; returns the workdir and the order of what was opened."""
  workdir, config = world
  events, open_real, fit = [], real_images.open_real, tune._fit
  patch = pytest.MonkeyPatch()
  patch.setattr(
    real_images,
    "open_real",
    lambda block, space, *_: (
      events.append(block["split"]) or open_real(block, space)
    ),
  )
  patch.setattr(tune, "_fit", lambda *args: events.append("fit") or fit(*args))
  with patch.context():
    tune.check(config, str(workdir))
    events.clear()  # the check may look at files
    tune.run(config, str(workdir))
  patch.undo()
  return workdir, events


def changed(config, **changes):
  """Returns the config with other fields of TUNE."""
  config = config.copy_and_resolve_references()
  config.tune = dict(TUNE, **changes)
  return config


def linked(world, folder, **changes):
  """Returns a changed config for another workdir with the same scores."""
  workdir, config = world
  for name in ("generate", "score", "select"):
    (folder / name).symlink_to(workdir / name)
  return changed(config, **changes)


def results_of(workdir):
  return json.loads((workdir / "tune" / "results.json").read_text())


def test_the_test_split_is_opened_once_after_all_training(tuned):
  _, events = tuned
  assert events == ["validation", *["fit"] * 6, "test", "test_unseen"]


def test_rows_are_arms_times_seeds(tuned):
  workdir, _ = tuned
  rows = results_of(workdir)["rows"]
  assert [(r["arm"], r["seed"]) for r in rows] == [
    (arm["name"], seed) for arm in ARMS for seed in (0, 1)
  ]
  # 3 classes x 4 images, and 2 of each class after the filter.
  assert [r["num_images"] for r in rows] == [12, 12, 12, 12, 6, 6]
  assert [r["image_seed"] for r in rows] == [0, 1] * 3
  for row in rows:
    assert row["accuracy"].keys() == {"validation", "test", "test_unseen"}


def test_accuracies_are_those_of_the_heads_that_were_written(world, tuned):
  """Whoever loads a head gets the numbers of the table."""
  workdir, config = world
  results = results_of(workdir)
  heads = load_file(workdir / "tune" / "heads.safetensors")
  space = tune.spaces.load_space(config.space)
  encoder = tune.load_encoder(**config.encoder.to_dict())
  source = real_images.open_real({"split": "test"}, space)
  rows = [source[i] for i in range(len(source))]
  features = encoder.encode_images([row["image"] for row in rows])
  labels = np.array([row["label"] for row in rows])

  def accuracy(name):
    head = linear_head.Head(heads[f"{name}/weight"], heads[f"{name}/bias"])
    logits = np.asarray(linear_head.logits_fn(head, features))
    return (logits.argmax(-1) == labels).mean()

  assert results["num_real"]["test"] == len(rows)
  # Features on disk are rounded to float16: an image in a few hundred may tip.
  assert results["zero_shot"]["test"] == pytest.approx(
    accuracy("zero_shot"), abs=0.01
  )
  last = results["rows"][-1]
  assert last["accuracy"]["test"] == pytest.approx(
    accuracy("LE+CF SCE, seed 1"), abs=0.01
  )


def test_summary_and_confusion_add_up(tuned):
  workdir, _ = tuned
  results = results_of(workdir)
  summary = {(row["arm"], row["split"]): row for row in results["summary"]}
  validated = [key for key in summary if key[1] == "validation"]
  best, _ = max(validated, key=lambda key: summary[key]["mean"])
  values = [
    row["accuracy"]["test"] for row in results["rows"] if row["arm"] == best
  ]
  row = summary[best, "test"]
  assert row["mean"] == pytest.approx(np.mean(values))
  assert row["std"] == pytest.approx(np.std(values, ddof=1))
  assert row["gain"] == pytest.approx(
    np.mean(values) - results["zero_shot"]["test"]
  )
  assert row["gain_stderr"] == pytest.approx(np.std(values, ddof=1) / 2**0.5)
  first, last = (
    np.array(results["confusion"]["test"][name]) for name in ("zero_shot", best)
  )
  n = results["num_real"]["test"]
  assert first.sum() == n and last.sum() == 2 * n
  assert np.trace(first) / n == pytest.approx(results["zero_shot"]["test"])
  assert np.trace(last) / (2 * n) == pytest.approx(np.mean(values))


def test_curves_and_manifest(tuned):
  workdir, _ = tuned
  with np.load(workdir / "tune" / "curves.npz") as curves:
    # 12 images in batches of 8 are 2 steps an epoch, 6 are 1.
    assert curves["B CE, seed 0"].shape == (8,)
    assert curves["LE+CF SCE, seed 1"].shape == (4,)
  manifest = artifacts.load(workdir / "tune")
  assert manifest["summary"]["test_opened_at"].startswith("20")
  assert {"results.json", "heads.safetensors"} <= manifest["files"].keys()
  artifacts.verify(workdir / "tune")


def test_soft_weight_and_seed_change_what_is_learnt(tuned):
  workdir, _ = tuned
  heads = load_file(workdir / "tune" / "heads.safetensors")
  names = [f"{a['name']}, seed {s}" for a in ARMS for s in (0, 1)]
  weights = [heads[f"{name}/weight"] for name in ["zero_shot", *names]]
  for i, one in enumerate(weights):
    for other in weights[:i]:
      assert not np.allclose(one, other, atol=1e-4)


def test_a_second_run_is_skipped(world, tuned, monkeypatch, capsys):
  workdir, config = world
  monkeypatch.setattr(tune, "_fit", None)
  tune.run(config, str(workdir))


def test_the_best_epoch_on_test_is_reported_if_asked(world, tuned, tmp_path):
  workdir, _ = world
  assert all("best_epoch_on_test" not in r for r in results_of(workdir)["rows"])
  config = linked(
    world, tmp_path, best_epoch_on_test=True, arms=ARMS[2:], seeds=(0,)
  )
  tune.run(config, str(tmp_path))
  (row,) = results_of(tmp_path)["rows"]
  assert row["best_epoch_on_test"] >= row["accuracy"]["test"] - 1e-6
  assert row["accuracy"]["test"] == pytest.approx(
    results_of(workdir)["rows"][4]["accuracy"]["test"]
  )


def test_fewer_images_and_smoothed_labels_are_arms(world, tmp_path):
  arms_of = (
    dict(ARMS[0], name="3 a class", images_per_class=3),
    dict(ARMS[0], name="CE"),
    dict(ARMS[0], name="smooth", label_smoothing=0.2),
    dict(ARMS[2], name="1 kept", images_per_class=1),
    dict(ARMS[0], name="2 drawn", drawn_per_class=2),
    dict(ARMS[0], name="1 of 1", drawn_per_class=1, filter=True),
  )
  config = linked(world, tmp_path, arms=arms_of, seeds=(0,), lr=0.5)
  tune.check(config, str(tmp_path))
  tune.run(config, str(tmp_path))
  rows = results_of(tmp_path)["rows"]
  assert [row["num_images"] for row in rows] == [9, 12, 12, 3, 6, 3]
  assert [row["images_per_class"] for row in rows][:4] == [3, None, None, 1]
  assert [row["label_smoothing"] for row in rows] == [None, None, 0.2] + 3 * [
    None
  ]
  heads = load_file(tmp_path / "tune" / "heads.safetensors")
  plain, smooth = (heads[f"{n}, seed 0/weight"] for n in ("CE", "smooth"))
  assert np.abs(plain - smooth).max() > 1e-3


def test_a_learner_chooses_what_it_is_unsure_of(world, tmp_path):
  """Of the images that a head has learned from, by its own logits."""
  arms_of = (
    dict(ARMS[0], name="all"),
    *(
      dict(ARMS[0], name=name, images_per_class=2, choice=name)
      for name in uncertainty.MEASURES
    ),
  )
  config = linked(world, tmp_path, arms=arms_of, seeds=(0,), lr=0.5)
  tune.check(config, str(tmp_path))
  fitted, fit = [], tune._fit
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      tune, "_fit", lambda *args: fitted.append(args[4]) or fit(*args)
    )
    tune.run(config, str(tmp_path))
  rows = results_of(tmp_path)["rows"]
  assert [row["num_images"] for row in rows] == [12, 6, 6]
  assert [row["choice"] for row in rows] == ["chance", "entropy", "margin"]
  whole, learner, by_entropy, _, by_margin = fitted
  np.testing.assert_array_equal(learner, whole)
  images = scores.read(tmp_path / "score")
  head = heads.load(tmp_path / "tune" / "heads.safetensors", arm="all").head
  logits = head(images.features[whole])
  for chosen, measure in (
    (by_entropy, uncertainty.entropy),
    (by_margin, uncertainty.margin),
  ):
    unsure = dict(zip(whole, measure(logits), strict=True))
    for label in range(3):
      of_class = sorted(
        whole[images.labels[whole] == label], key=lambda i: -unsure[i]
      )
      assert {*of_class[:2]} == {*chosen[images.labels[chosen] == label]}


def test_a_run_says_whether_more_images_are_worth_it(world, tmp_path, capsys):
  arms_of = tuple(
    dict(ARMS[0], name=f"{n} a class", images_per_class=n) for n in (1, 2, 3)
  )
  config = linked(
    world, tmp_path, arms=arms_of, scaling=dict(up_to=8, min_gain=0.5)
  )
  tune.check(config, str(tmp_path))
  tune.run(config, str(tmp_path))
  [curve] = results_of(tmp_path)["scaling"]
  assert (curve["sizes"], curve["size"]) == ([1, 2, 3], 8)
  means = [
    row["mean"]
    for row in results_of(tmp_path)["summary"]
    if row["split"] == "validation"
  ]
  np.testing.assert_allclose(curve["mean"], means)
  assert curve["low"] <= curve["high"]
  assert "1 a class: 8 images a class would have" in capsys.readouterr().out


def test_a_head_can_do_without_a_bias(world, tmp_path):
  workdir, _ = world
  config = linked(world, tmp_path, arms=ARMS[:1], seeds=(0,), bias=False)
  tune.run(config, str(tmp_path))
  heads = load_file(tmp_path / "tune" / "heads.safetensors")
  assert not heads["B CE, seed 0/bias"].any()
  usual = load_file(workdir / "tune" / "heads.safetensors")
  assert usual["B CE, seed 0/bias"].any()


# --- without real images ----------------------------------------------------


def test_without_real_images_heads_are_written_and_nothing_measured(
  world, tmp_path, capsys
):
  workdir, _ = world
  config = linked(world, tmp_path, test=None, validation=None, test_parts={})
  tune.check(config, str(tmp_path))
  tune.run(config, str(tmp_path))
  results = results_of(tmp_path)
  assert results["zero_shot"] == results["num_real"] == {}
  assert results["summary"] == [] and results["confusion"] == {}
  assert [row["accuracy"] for row in results["rows"]] == [{}] * 6
  manifest = artifacts.load(tmp_path / "tune")
  assert manifest["summary"]["test_opened_at"] is None
  assert "no real images were given" in capsys.readouterr().out
  # The heads are those of a run that also measures.
  got, want = (
    load_file(folder / "tune" / "heads.safetensors")
    for folder in (tmp_path, workdir)
  )
  assert got.keys() == want.keys()
  for name in got:
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


def test_validation_alone_is_measured(world, tmp_path, capsys):
  config = linked(world, tmp_path, test=None, test_parts={}, seeds=(0,))
  tune.run(config, str(tmp_path))
  results = results_of(tmp_path)
  assert results["num_real"].keys() == {"validation"}
  assert results["confusion"] == {}
  assert "gain on validation" in capsys.readouterr().out


def test_a_folder_of_class_folders_is_a_test_set(world, tmp_path):
  """Users with a label space of their own have one."""
  rng = np.random.default_rng(0)
  for each in tiny_world.SPACE["classes"]:
    folder = tmp_path / "photos" / each["name"]
    folder.mkdir(parents=True)
    for i in range(2):
      pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
      Image.fromarray(pixels).save(folder / f"{i}.png")
  config = linked(world, tmp_path)
  photos = dict(kind="folder", path=str(tmp_path / "photos"))
  config.tune = dict(arms=ARMS[:1], seeds=(0,), num_epochs=1, test=photos)
  tune.check(config, str(tmp_path))
  tune.run(config, str(tmp_path))
  assert results_of(tmp_path)["num_real"] == {"test": 6}


def test_one_seed_of_images_serves_every_seed():
  found = scores_of(seeds=(3,))
  for seed in (0, 1):
    image_seed, rows = images_of(found, seed=seed)
    assert image_seed == 3 and rows.tolist() == [0, 1, 2, 3]


def test_several_seeds_of_images_are_taken_apart():
  found = scores_of(seeds=(0, 1))
  assert images_of(found, seed=1) == (1, pytest.approx([4, 5, 6, 7]))
  with pytest.raises(UserError, match=r"seed 2.*\[0, 1\]"):
    images_of(found, seed=2)


def test_only_kept_images_are_taken():
  found = scores_of(seeds=(0,))
  kept = np.array([True, False, False, True])
  assert images_of(found, kept=kept)[1].tolist() == [0, 3]


def test_a_class_without_images_is_named():
  kept = np.array([False, False, True, True])
  with pytest.raises(UserError, match="1 classes have no 'basic'.*: cat"):
    images_of(scores_of(seeds=(0,)), kept=kept)


def test_an_unknown_strategy_names_the_nearest():
  with pytest.raises(UserError, match="did you mean 'basic'"):
    images_of(scores_of(seeds=(0,)), strategy="basics")


def scores_of(seeds):
  """Makes rows of 2 classes x 2 images for each seed."""
  ids = [
    f"basic-{label}-0-s{seed}-{i}"
    for seed in seeds
    for label in (0, 1)
    for i in (0, 1)
  ]
  n = len(ids)
  return scores.Scores(
    np.array(ids),
    np.array([0, 0, 1, 1] * len(seeds)),
    np.zeros((n, 2)),
    np.zeros((n, 2)),
    np.zeros(n),
  )


def images_of(found, **changes):
  options = dict(strategy="basic", seed=0, class_names=("cat", "dog"))
  options["kept"] = np.ones(len(found.ids), bool)
  return filters.images_of(found, **options | changes)


# --- what is refused --------------------------------------------------------


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"epochs": 3}, "did you mean 'num_epochs'"),
    ({"arms": ()}, "needed one block or more"),
    ({"arms": (ARMS[0], ARMS[0])}, "a name of its own"),
    ({"arms": (dict(ARMS[0], name="zero_shot"),)}, "not 'zero_shot'"),
    ({"arms": (dict(ARMS[0], strategy="enhance"),)}, "mean 'enhanced'"),
    ({"arms": (dict(ARMS[0], soft_wait=0.5),)}, "did you mean 'soft_weight'"),
    ({"arms": ({"name": "x"},)}, r"arms\[0\] lacks strategy"),
    ({"seeds": (0, 0)}, "seeds=.*different whole numbers"),
    ({"seeds": ()}, "seeds=.*different whole numbers"),
    ({"seeds": ("a",)}, r"seeds\[0\]='a': needed a whole number"),
    (
      {"lr": -1.0, "num_epochs": 0},
      r"(?s)lr=-1.0: needed .*epochs=0: needed",
    ),
    ({"arms": (dict(ARMS[0], soft_weight=3),)}, r"arms\[0\].soft_weight=3"),
    (
      {"arms": (dict(ARMS[0], choice="entropy"),)},
      "choice='entropy' without images_per_class",
    ),
    ({"scaling": dict(up_to=9), "seeds": (0,)}, "two seeds or more"),
    (
      {
        "scaling": dict(up_to=9),
        "arms": (dict(ARMS[0], images_per_class=2),),
      },
      r"scaling forecasts from 3 numbers.*'B CE' has \[2\]",
    ),
    ({"test": None}, "test_parts or best_epoch_on_test but no `test`"),
    (
      {"arms": (dict(ARMS[0], image_per_class=3),)},
      "did you mean 'images_per_class'",
    ),
  ],
)
def test_check_finds_what_is_misspelt(world, changes, message):
  workdir, config = world
  with pytest.raises(UserError, match=message):
    tune.check(changed(config, **changes), str(workdir))


def test_an_arm_can_use_only_the_strategies_of_the_run(world):
  workdir, config = world
  config = config.copy_and_resolve_references()
  config.tasks = ("prompts", "tune")
  config.prompts = dict(strategies=("enhanced",))
  with pytest.raises(UserError, match="'basic'.*Allowed: enhanced"):
    tune.check(config, str(workdir))


def test_scores_by_another_encoder_are_refused(world, tmp_path):
  workdir, config = world
  config = config.copy_and_resolve_references()
  config.encoder.weights = tiny_world.write_clip(
    tmp_path / "other.safetensors", seed=1
  )
  with pytest.raises(UserError, match="made with other encoder"):
    tune.run(config, str(workdir))


def test_check_wants_a_selection_for_arms_that_filter(world, tmp_path):
  workdir, config = world
  (tmp_path / "score").symlink_to(workdir / "score")
  with pytest.raises(UserError, match="'select' has not been completed"):
    tune.check(config, str(tmp_path))
  tune.check(changed(config, arms=ARMS[:2]), str(tmp_path))


def test_a_space_without_real_images_stops_before_anything(world, tmp_path):
  _, config = world
  config = config.copy_and_resolve_references()
  path = tmp_path / "mine.yaml"
  path.write_text("classes: [bird, fruit, drink]")
  with config.unlocked():
    config.space = str(path)
  with pytest.raises(UserError, match="subcategories"):
    tune.check(config, str(tmp_path))
