"""The task that trains detectors, its fields and its results."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import detect_voc
from synthjax import detect as command
from synthjax import evaluate
from synthjax.config import schema
from synthjax.detection import (
  average_precision,
  recipe,
  scenes,
  sources,
  voc,
  voc_files,
)
from synthjax.detection import results as detected
from synthjax.detection.regions import Options
from synthjax.detection.results import Run
from synthjax.evals import accuracy
from synthjax.labels import spaces
from synthjax.models.classifiers import make_classifier
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import detect
from synthjax.training import backbones, pretraining
from synthjax.weights import files

MODEL = dict(name="resnet_tiny", width=4, stage_sizes=(1, 1), stem="imagenet")
ARMS = ("labels, 8", "MoCo")
SPACE = spaces.load_space("emoji16")


def make_config(**fields):
  config = ConfigDict()
  config.tasks, config.seed, config.space = ("detect",), 0, "emoji16"
  of = lambda split, count: dict(kind="scenes", split=split, count=count)
  config.detect = (
    dict(
      train=of("train", 6),
      validation=of("validation", 2),
      test=of("test", 3),
      inits=dict(random=dict(), pretrained=dict()),
      seeds=(0,),
      compare=(ARMS[::-1],),
      model=MODEL,
      options=dict(
        sizes=(16, 32),
        ratios=(1.0,),
        num_anchors=16,
        max_positive_anchors=8,
        pre_top=30,
        post_top=10,
        test_pre_top=30,
        test_post_top=10,
        num_rois=8,
        max_foreground=4,
        max_detections=5,
      ),
      roi_size=4,
      sampling=1,
      short_sides=(48,),
      max_size=64,
      eval_short_side=48,
      num_buckets=1,
      eval_num_buckets=1,
      eval_batch_size=2,
      recipe="voc_detection",
      num_steps=4,
      batch_size=2,
      precise_bn_iterations=2,
      num_examples=2,
      log_every=2,
      checkpoint_every=2,
    )
    | fields
  )
  return config


def pretrain(workdir, arms=ARMS, model=MODEL):
  """Writes random backbones, as `pretrain` would."""
  folder, rows = workdir / "pretrain", {}
  spec = {"arms": {arm: {} for arm in arms}}
  artifacts.begin(folder, spec)
  module = make_classifier(num_classes=8, **model)
  images, rng = np.zeros((1, 32, 32, 3)), np.random.default_rng(0)
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  draw = dict(params=lambda s: rng.normal(0, 0.1, s))
  draw["batch_stats"] = lambda s: rng.uniform(0.5, 1.5, s)
  for arm in arms:
    variables = {
      part: jax.tree.map(lambda x, part=part: draw[part](x.shape), tree)
      for part, tree in shapes.items()
    }
    name = f"{pretraining.label_of(0, arm)}.safetensors"
    files.save_params(folder / name, variables, {"model": model})
    rows[name] = 1
  artifacts.finish(folder, spec, rows)


@pytest.fixture(scope="module")
def pretrained_workdir(tmp_path_factory):
  """Of two arms, for checks, which leave it as it is."""
  workdir = tmp_path_factory.mktemp("pretrained")
  pretrain(workdir)
  return workdir


def content_of(folder):
  """Returns all that a run leaves, but for the checkpoints' times."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file() and "_checkpoints" not in str(path)
  }


@pytest.fixture(scope="module")
def done(tmp_path_factory):
  """A run with three starts; and which splits were opened, in order."""
  workdir, opened = tmp_path_factory.mktemp("detect"), []
  pretrain(workdir)
  config = make_config()
  detect.check(config, str(workdir))
  with pytest.MonkeyPatch.context() as patch:

    def open_scenes(split, *args, **kwargs):
      opened.append(split)
      return real(split, *args, **kwargs)

    real = scenes.open_scenes
    patch.setattr(scenes, "open_scenes", open_scenes)
    detect.run(config, str(workdir))
  return workdir, config, opened


def test_a_finished_run_is_measured_as_the_task_has_measured_it(done, capsys):
  workdir, config, _ = done
  test = config.detect.test.to_dict()
  names = sorted(test, key=lambda name: name != "kind")
  images = ",".join(f"{name}={test[name]}" for name in names)
  options = ["--task=detect", "--arm=random-s0"]
  evaluate.main([str(workdir), images, *options, "--json"])
  found = json.loads(capsys.readouterr().out)
  rows = json.loads((workdir / "detect" / "results.json").read_text())["rows"]
  (row,) = [r for r in rows if (r["init"], r["seed"]) == ("random", 0)]
  assert {m: found[m] for m in ("AP50", "AP", "AP75")} == {
    m: pytest.approx(row[m]) for m in ("AP50", "AP", "AP75")
  }
  of_class = {each["class"]: each["AP50"] for each in found["classes"]}
  known = {n: x for n, x in row["per_class"].items() if x is not None}
  assert of_class == pytest.approx(known)
  assert {*found["missing"]} == row["per_class"].keys() - known.keys()
  evaluate.main([str(workdir), images, *options])
  assert "mean over classes" in capsys.readouterr().out


def test_the_command_detects_what_the_task_has_detected(done, tmp_path, capsys):
  workdir, config, _ = done
  arms = artifacts.load(workdir / "detect")["summary"]["learned"]
  assert arms[-1] == "random-s0" and len(arms) == 3
  source = sources.open_detection(config.detect.test.to_dict(), SPACE)
  folder = tmp_path / "photos"
  folder.mkdir()
  for i in range(len(source)):  # all of them, so that they are padded alike
    Image.fromarray(source[i]["image"]).save(folder / f"{i}.png")
  (folder / "bad.png").write_bytes(b"<html>")
  options = ["--arm=random-s0", "--score=0", f"--draw={tmp_path / 'drawn'}"]
  for form in ("--json", "--csv"):
    with pytest.raises(SystemExit) as error:
      command.main([str(workdir), str(folder), *options, form])
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert "1 of 4 files are not read" in err
    if form == "--json":
      rows = [json.loads(line) for line in out.splitlines()]
      options = options[:2]
  assert len(out.splitlines()) == 1 + sum(len(row["objects"]) for row in rows)
  for i, row in enumerate(rows[:2]):  # of these there are examples
    example = workdir / f"detect/examples/random-{i}.json"
    known = json.loads(example.read_text())["detections"]
    assert len(row["objects"]) == len(known) > 0
    for got, want in zip(row["objects"], known, strict=True):
      assert got["label"] == want["label"]
      np.testing.assert_allclose(got["box"], want["box"], atol=0.1)
      np.testing.assert_allclose(got["score"], want["score"], atol=1e-3)
    drawn = np.asarray(Image.open(tmp_path / f"drawn/{i:04}-{i}.png"))
    assert (drawn != source[i]["image"]).any()


def test_every_arm_is_a_start_and_the_test_images_come_last(done):
  workdir, config, opened = done
  assert opened == ["train", "validation", "test"]
  artifacts.verify(workdir / "detect")
  results = json.loads((workdir / "detect/results.json").read_text())
  assert results["classes"] == [c.name for c in SPACE.classes]
  starts = ["random", *sorted(ARMS)]
  assert [(r["init"], r["seed"]) for r in results["rows"]] == [
    (start, 0) for start in starts
  ]
  for row in results["rows"]:
    assert row["per_class"].keys() == set(results["classes"])
    assert all(0 <= row[m] <= 1 for m in ("AP", "AP50", "AP75", "validation"))
  pairs = [(r["init"], r["reference"]) for r in results["differences"]]
  assert list(dict.fromkeys(pairs)) == [
    *((arm, "random") for arm in sorted(ARMS)),
    ARMS[::-1],
  ]
  before = content_of(workdir / "detect")
  detect.run(config, str(workdir))  # complete: nothing is made again
  assert content_of(workdir / "detect") == before


def test_the_text_files_give_the_precisions_of_the_results(done):
  workdir, _, _ = done
  results = json.loads((workdir / "detect/results.json").read_text())
  test = scenes.open_scenes("test", 3)
  names = [test.annotate(i)["id"] for i in range(3)]
  classes = [c.key or c.name for c in SPACE.classes]
  for row in results["rows"]:
    label = Run(row["init"], row["seed"]).label()
    found = voc_files.read(
      workdir / "detect/detections" / label, classes, names
    )
    measured = average_precision.average_precision(
      found, detected.truth_of(test), len(classes)
    )
    for metric in detected.METRICS:
      assert row[metric] == pytest.approx(getattr(measured, metric))


def test_examples_show_the_test_images_and_their_detections(done):
  workdir, _, _ = done
  test = scenes.open_scenes("test", 3)
  manifest = artifacts.load(workdir / "detect")["files"]
  for start in ("random", *ARMS):
    for index in range(2):
      stem = f"examples/{start}-{index}"
      assert f"{stem}.json" in manifest
      shown = json.loads((workdir / f"detect/{stem}.json").read_text())
      row = test[index]
      with Image.open(workdir / f"detect/{stem}.png") as image:
        np.testing.assert_array_equal(image, row["image"])
      assert tuple(shown["size"]) == tuple(row["size"])
      assert [t["label"] for t in shown["truth"]] == [
        SPACE.classes[label].name for label in row["labels"]
      ]
      np.testing.assert_allclose(
        [t["box"] for t in shown["truth"]], row["boxes"]
      )
      height, width = row["size"]
      for one in shown["detections"]:
        assert one["score"] > 0.05
        left, top, right, low = one["box"]
        assert 0 <= left <= right <= width and 0 <= top <= low <= height


def test_weights_are_those_of_the_start_where_nothing_is_trained(
  tmp_path, monkeypatch
):
  """And each seed has a backbone of its own, in turn."""
  pretrain(tmp_path, arms=("A",))
  config, starts = make_config(compare=(), seeds=(0, 1)), []
  config.detect.inits = ConfigDict(dict(pretrained=dict()))

  def train(objective, batches, fields, **_):
    shapes = jax.tree.map(np.asarray, next(iter(batches)))
    state = jax.jit(objective.init)(jax.random.key(0), shapes)
    starts.append(jax.device_get(state.variables))
    raise KeyboardInterrupt

  monkeypatch.setattr(detect.runs, "train", train)
  with pytest.raises(KeyboardInterrupt):
    detect.run(config, str(tmp_path))
  [path] = backbones.backbones(tmp_path / "pretrain")["A"]
  backbone, _ = files.load_params(path)
  for collection in ("params", "batch_stats"):
    for name, value in backbone[collection].items():
      if name != "fc":
        jax.tree.map(
          np.testing.assert_array_equal, value, starts[0][collection][name]
        )


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(done, tmp_path, monkeypatch):
  """Killed within training, before the statistics and before the results."""
  workdir, config, _ = done
  pretrain(tmp_path)
  fit, steps = detect.runs.loop.fit, []

  def dying_fit(*args, hooks, **kwargs):
    def die(step, state, metrics):
      steps.append(step)
      if len(steps) == 7:  # the second run, a step after its checkpoint
        raise KeyboardInterrupt

    return fit(*args, hooks=[*hooks, die], **kwargs)

  def die(*args, **kwargs):
    raise KeyboardInterrupt

  for target, name, value in (
    (detect.runs.loop, "fit", dying_fit),
    (detect.detection, "precise_bn", die),
    (detect.results, "summarize", die),
  ):
    with monkeypatch.context() as patch:
      patch.setattr(target, name, value)
      with pytest.raises(KeyboardInterrupt):
        detect.run(config, str(tmp_path))
  detect.run(config, str(tmp_path))
  whole, parts = (content_of(w / "detect") for w in (workdir, tmp_path))
  assert whole == parts


# --- results and recipes ----------------------------------------------------


def measured(*ap50):
  per_class = np.full((len(ap50), 10), np.nan)
  per_class[:, 0] = ap50
  known = np.array(ap50)[~np.isnan(ap50)]
  return average_precision.Measured(
    AP=float(known.mean()) / 2,
    AP50=float(known.mean()),
    AP75=0.0,
    per_class=per_class,
    num_objects=(~np.isnan(ap50)).astype(int),
  )


def test_differences_are_paired_by_seed_whatever_the_order():
  tested = {
    Run("random", 0): measured(0.2, np.nan),
    Run("random", 1): measured(0.6, np.nan),
    Run("A", 1): measured(0.7, np.nan),
    Run("A", 0): measured(0.3, np.nan),
    Run("B", 0): measured(0.5, np.nan),
    Run("B", 1): measured(0.5, np.nan),
  }
  results = detected.summarize(tested, ["cat", "dog"], compare=[("B", "A")])
  assert results["rows"][0]["per_class"] == {"cat": 0.2, "dog": None}
  rows = {
    (r["init"], r["reference"]): r
    for r in results["differences"]
    if r["metric"] == "AP50"
  }
  assert list(rows) == [("A", "random"), ("B", "random"), ("B", "A")]
  assert rows["A", "random"]["mean"] == pytest.approx(0.1)
  assert rows["A", "random"]["stderr"] == pytest.approx(0, abs=1e-9)
  assert (
    rows["B", "A"]
    == {
      "init": "B",
      "reference": "A",
      "metric": "AP50",
    }
    | accuracy.paired_difference([0.5, 0.5], [0.3, 0.7])._asdict()
  )
  assert "+10.00 points" in detected.table(results)
  json.dumps(results, allow_nan=False)


def test_a_rate_follows_the_batch_size_unless_it_is_given():
  common = dict(recipe="voc_detection", batch_size=4)
  training = recipe.plan_training(common, {}, 16_551, name="random")
  assert training.num_steps == 96_000
  assert training.optimizer["lr"] == pytest.approx(0.005)
  assert training.optimizer["warmup"] == 400
  init = dict(optimizer=dict(lr=0.1), num_steps=50)
  training = recipe.plan_training(common, init, 100, name="random")
  assert training.num_steps == 50 and training.optimizer["lr"] == 0.1
  assert training.epochs == 2


def test_none_unsets_a_field_for_one_start():
  common = dict(recipe="voc_detection", batch_size=4, num_steps=100)
  init = dict(num_steps=None, epochs=5, optimizer=dict(warmup=None))
  training = recipe.plan_training(common, init, 1_000, name="random")
  assert (training.num_steps, training.epochs) == (1_250, 5)
  assert training.optimizer["warmup"] is None
  plain = dict(recipe=None, optimizer=dict(name="sgd", lr=0.1))
  training = recipe.plan_training(common, plain, 1_000, name="random")
  assert training.optimizer == {"name": "sgd", "lr": 0.1}


# --- refusals ---------------------------------------------------------------


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (dict(short_side=(48,)), "did you mean 'short_sides'"),
    (dict(inits=dict(scratch=dict())), "inits.scratch has no weights"),
    (
      dict(inits=dict(random=dict(lr=1))),
      "detect.inits.random has no field 'lr'",
    ),
    (dict(inits=dict(random=dict(weights="x"))), "random has weights"),
    (
      dict(inits=dict(a=dict(weights="nowhere.safetensors"))),
      "detect.inits.a.weights must name.*no file nowhere",
    ),
    (dict(test=dict(kind="scenes", split="train", count=6)), "the same images"),
    (dict(test=dict(kind="scene")), "did you mean 'scenes'"),
    (dict(test=dict(kind="scenes", split="tests", count=1)), "split 'tests'"),
    (
      dict(test=dict(kind="voc", sets=(("2007", "test"),))),
      "PASCAL VOC is not there: .*synthjax.datasets fetch voc`",
    ),
    (
      dict(test=dict(kind="voc", sets=(("2007", "test"),), data_dir="/no")),
      "/no/voc lacks VOC2007/ImageSets/Main/test.txt",
    ),
    (dict(model=dict(name="vit_tiny")), "stands on a ResNet"),
    (dict(options=dict(size=(3,))), "did you mean 'sizes'"),
    (
      dict(options=dict(max_foreground=600, test_post_top=9_000)),
      "max_foreground=600 is more than num_rois=512\n.*=6000",
    ),
    (dict(options=dict(sizes=(64,))), r"sizes=\(64,\).*side of 48 px"),
    (dict(options=dict(anchor_iou=(0.3, 1.2))), r"anchor_iou\[1\]=1.2: needed"),
    (dict(options=dict(roi_weights=(1, 1))), "roi_weights=.1, 1.: needed"),
    (dict(max_size=40), "none above max_size"),
    (dict(train=dict(kind="scenes", split="train", count=0)), "train.count=0"),
    (dict(seeds=(0, 0)), r"seeds=\(0, 0\): needed"),
    (dict(inits=dict()), "inits={}: needed one start or more"),
    (dict(inits={"a b": dict(weights="x"), "a-b": dict(weights="x")}), "share"),
    (dict(fsdp=3), "fsdp=3 does not divide"),
    (dict(interpolation="12-point"), "did you mean '11-point'"),
    (dict(compare=(("MoCo", "labels"),)), "start to compare, 'labels'"),
    (dict(recipe="voc"), "detect.recipe='voc': needed one of"),
    (dict(recipe=None), "lacks optimizer.name, optimizer.lr for 'pretrained'"),
    (dict(epochs=2), "num_steps=4 and epochs=2"),
    (dict(optimizer=dict(lr=(0.1, 0.2))), "lr=.0.1, 0.2.: needed a number"),
    (dict(optimizer=dict(rates="cosine")), "did you mean 'rate'"),
  ],
)
def test_bad_fields_are_refused_before_any_work(
  pretrained_workdir, fields, message
):
  with pytest.raises(UserError, match=message):
    detect.check(make_config(**fields), str(pretrained_workdir))
  assert not (pretrained_workdir / "detect").exists()


def test_a_backbone_of_another_model_is_refused(tmp_path):
  pretrain(tmp_path, model=MODEL | dict(width=6))
  with pytest.raises(UserError, match=r"conv1/kernel: the ResNet has.*needs"):
    detect.check(make_config(), str(tmp_path))
  config = make_config(compare=())
  config.tasks = ("pretrain", "detect")  # trained by this very run
  config.pretrain = dict(model=MODEL | dict(width=6))
  with pytest.raises(UserError, match=r"conv1/kernel: the ResNet has.*needs"):
    detect.check(config, str(tmp_path / "other"))


def test_a_missing_backbone_stops_before_any_work(tmp_path):
  with pytest.raises(UserError, match="'pretrain' has not been completed"):
    detect.check(make_config(), str(tmp_path))


def test_voc_is_opened_with_its_own_names(tmp_path):
  drawn = scenes.open_scenes("train", 3)
  names = SPACE.class_names
  voc.write_voc(tmp_path, drawn, names, year="2007", split="trainval")
  block = dict(kind="voc", sets=(("2007", "trainval"),), data_dir=tmp_path)
  opened = sources.open_detection(block, SPACE)
  for i in range(3):
    np.testing.assert_array_equal(opened[i]["labels"], drawn[i]["labels"])


@pytest.mark.parametrize("arg", ["runlocal", "runlocal,init=random"])
def test_the_embedded_config_passes_the_check(tmp_path, arg):
  detect.check(detect_voc.get_config(arg), str(tmp_path))


@pytest.mark.parametrize(
  ("room", "model", "remat"),
  [
    (None, {}, False),  # a CPU
    (10**9, {}, False),
    (10**5, {}, True),
    (10**5, {"remat": False}, False),  # as the model says
  ],
)
def test_blocks_are_computed_again_where_memory_is_short(
  monkeypatch, room, model, remat
):
  setup = detect._read(make_config(model=MODEL | model))
  built = []
  monkeypatch.setattr(detect.memory, "limit", lambda: room)
  monkeypatch.setattr(
    detect.detection, "detection", lambda model, *_, **__: built.append(model)
  )
  training = recipe.Training(4, 1.0, 2, dict(name="sgd", lr=0.1))
  detect._objective(setup, training)
  assert built[0].remat is remat


def test_the_full_size_is_the_protocol_of_moco():
  block = detect_voc.get_config("init=random,data_dir=/data").detect
  fields = schema.read(detect.Detect, block, "config.detect")
  block = block.to_dict()
  init = block["inits"]["random"]
  training = recipe.plan_training(block, init, 16_551, name="random")
  assert (training.num_steps, training.batch_size) == (24_000, 16)
  assert fields.short_sides[0] == 480 and fields.short_sides[-1] == 800
  assert (fields.eval_short_side, fields.max_size) == (800, 1333)


def test_a_command_line_may_set_any_field():
  block = detect_voc.get_config("runlocal,init=random").detect
  names = lambda path: schema.fields_of(detect.FIELDS, block, path)
  assert {"precise_bn_iterations", "short_sides", "log_every"} <= {*names("")}
  assert {"name", "momentum", "warmup_epochs"} <= {*names("optimizer")}
  assert names("options") == [*Options._fields]
  assert names("train") == ["kind", "split", "count", "seed"]
  assert "weights" in names("inits.random")
