"""The task bakeoff: candidates that draw, rank, resume and are refused."""

import json
import pathlib

import jax
import numpy as np
import pytest
import tiny_world
from ml_collections import ConfigDict

from synthjax import main, verify
from synthjax.adapt import feature_sets, linear_head
from synthjax.data.generated import shards
from synthjax.encoders import load_encoder
from synthjax.evals import accuracy, ranking
from synthjax.generators import Generator
from synthjax.labels import spaces
from synthjax.report.sections import bakeoff as section
from synthjax.runtime import artifacts, timings
from synthjax.runtime.errors import UserError
from synthjax.tasks import bakeoff
from synthjax.weights import files

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
NAMES = [c["name"] for c in tiny_world.SPACE["classes"]]
GENERATOR = f"{__name__}:load"
BAKEOFF = dict(
  candidates=(
    dict(name="plain", prompts=dict(strategies=("basic",))),
    dict(name="loud", generator=dict(name=GENERATOR, noise=250)),
    dict(name="own texts", prompts=dict(strategies=("template",))),
  ),
  seeds=(0, 1),
  num_epochs=2,
  batch_size=8,
  lr=0.5,
  validation=dict(split="validation"),
  test=dict(split="test"),
  neighbours=2,
  big_run=dict(
    generate=dict(images_per_class=40),
    tune=dict(
      arms=(dict(name="all", filter=False, soft_weight=0.5),),
      seeds=(0,),
      test=dict(split="test"),
    ),
  ),
)
stop_after = None  # images, of the generator of this file
drawn = 0


class Killed(Exception):
  pass


def check(*, noise, broken=False):
  if broken:
    raise UserError(
      f"config.generator: a generator of noise {noise} is broken."
    )


def load(*, noise: int, broken: bool = False) -> Generator:
  """Draws the colour of the class that a prompt names, under noise."""

  def stream(prompts, rngs):
    global drawn
    for first in range(0, len(prompts), 5):
      if stop_after is not None and drawn >= stop_after:
        raise Killed
      texts, keys = prompts[first : first + 5], rngs[first : first + 5]
      draw = jax.vmap(lambda rng: jax.random.uniform(rng, (32, 32, 3)))
      images = noise * np.asarray(draw(keys))
      for image, text in zip(images, texts, strict=True):
        (label,) = [i for i, name in enumerate(NAMES) if name in text]
        image[..., label] += 255 - noise
      drawn += len(texts)
      yield images.astype(np.uint8)

  identity = {"generator": "colours", "noise": noise}
  return Generator(stream, 5, 32, 32, 0, identity)


def make_config(folder, **fields):
  config = tiny_world.make_config(
    folder,
    generator=dict(name=GENERATOR, noise=60),
    prompts=dict(strategies=("basic",)),
    generate=dict(images_per_class=6, seeds=(0,), shard_size=9),
    score={},
    select={"max_per_class": 4},
    bakeoff=BAKEOFF | fields,
    report={"samples_per_class": 2},
  )
  config.tasks = ("bakeoff", "report")
  return config


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("whole")
  config = make_config(tmp_path_factory.mktemp("files"))
  opened = []
  with pytest.MonkeyPatch.context() as patch:
    encode, learn = feature_sets.encode_real, linear_head.learn
    patch.setattr(
      feature_sets,
      "encode_real",
      lambda block, *a, **k: (
        opened.append(block["split"]),
        encode(block, *a, **k),
      )[1],
    )
    patch.setattr(
      linear_head,
      "learn",
      lambda *a: (opened.append("learned"), learn(*a))[1],
    )
    main.run_tasks(config, str(workdir))
  return workdir, config, opened


def results_of(workdir):
  return json.loads((workdir / "bakeoff" / "results.json").read_text())


def test_each_candidate_draws_into_a_workdir_of_its_own(whole):
  workdir, _, _ = whole
  images = {
    name: shards.open_shards(workdir / "candidates" / name / "generate")
    for name in ("plain", "loud", "own-texts")
  }
  assert [len(source) for source in images.values()] == [18] * 3
  assert images["plain"][0]["prompt"] == images["loud"][0]["prompt"]
  assert images["own-texts"][0]["id"].startswith("template-")
  spread = {name: np.std(source[0]["image"]) for name, source in images.items()}
  assert spread["plain"] != spread["loud"]
  assert not (workdir / "generate").exists()


def test_the_best_on_validation_alone_is_tested_once(whole):
  workdir, config, opened = whole
  assert opened == ["validation", *["learned"] * 6, "test"]
  found, folder = results_of(workdir), workdir / "bakeoff"
  space = spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  params, about = files.load_params(folder / "heads.safetensors")
  means = {}
  for split in ("validation", "test"):
    (features, labels), _ = feature_sets.encode_real(
      {"split": split}, space, encoder, folder
    )
    for arm, labelled in about["arms"].items():
      heads = [bakeoff.Head(**params[name]) for name in labelled]
      shares = [accuracy.top1(np.asarray(h(features)), labels) for h in heads]
      means[split, arm] = np.mean(shares)
  ranked = [row["arm"] for row in found["ranked"]]
  of_validation = [means["validation", arm] for arm in ranked]
  assert of_validation == sorted(of_validation, reverse=True)
  assert found["ranked"][0]["mean"] == pytest.approx(of_validation[0])
  assert found["test"]["mean"] == pytest.approx(means["test", ranked[0]])
  assert found["test"]["zero_shot"] == means["test", "zero_shot"]
  assert all(row["accuracy"].keys() == {"validation"} for row in found["rows"])


def test_what_stands_beside_the_accuracy(whole):
  workdir, _, _ = whole
  for row in results_of(workdir)["ranked"]:
    home = workdir / row["folder"]
    (record,) = [r for r in timings.read(home) if r["task"] == "generate"]
    assert (
      0 < row["seconds_per_image"] * 13 < record["seconds"]
    )  # 5 of 18: first
    assert row["seconds_per_image"] == record["seconds_per_image"]
    assert row["devices"] == "1 x cpu"
    assert 1 <= row["vendi"] <= 4 and 0 <= row["coverage"] <= 1
    assert (row["drawn"], row["kept"]) == (18, 12)
  rows = {row["arm"]: row for row in results_of(workdir)["ranked"]}
  assert rows["loud"]["vendi"] != rows["plain"]["vendi"]


def test_a_network_that_learned_too_has_a_column(tmp_path):
  config = make_config_of_blocks()
  assert all(x.tasks == bakeoff.BEFORE for x, _ in bakeoff.before(config, "w"))
  config.pretrain = {"epochs": 1}
  homes = {path: x for x, path in bakeoff.before(config, str(tmp_path))}
  assert {x.tasks[-1] for x in homes.values()} == {"pretrain"}
  home = tmp_path / "candidates" / "plain"
  for name, summary in (
    ("generate", {}),
    ("pretrain", {"validation": {"backbone-s0": 0.5, "backbone-s1": 0.7}}),
  ):
    artifacts.begin(home / name, {"generator": {}})
    artifacts.finish(home / name, {"generator": {}}, {}, **summary)
  found = bakeoff._cost(home, {"name": GENERATOR})
  assert found["network"]["mean"] == pytest.approx(0.6)
  assert found["seconds_per_image"] is found["devices"] is None
  columns = section._accuracies({"ranked": [found]})
  assert columns["network (%)"](found).text == "60.00"


def test_ranking_by_hand():
  right = {
    "second": np.array([[1, 0, 0, 0], [1, 1, 0, 0]], bool),
    "first": np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool),
    "as good": np.array([[1, 1, 0, 0], [1, 1, 1, 0]], bool),
  }
  first, equal, second = ranking.rank(right)
  assert [first["arm"], equal["arm"], second["arm"]] == [
    *("first", "as good", "second")
  ]
  assert first["mean"] == 0.625 and first["behind"] is first["over_images"]
  assert equal["behind"]["mean"] == equal["over_images"]["low"] == 0
  assert second["behind"]["mean"] == second["behind"]["high"] == -0.25
  assert second["over_images"]["mean"] == -0.25  # of 0, -1/2, -1/2 and 0
  assert second["over_images"]["low"] == pytest.approx(
    accuracy.summarize([0, -0.5, -0.5, 0]).low
  )


@pytest.mark.slow
def test_a_killed_bake_off_ends_as_one_that_was_not(
  whole, tmp_path, monkeypatch
):
  workdir, config, _ = whole
  monkeypatch.setattr(f"{__name__}.drawn", 0)
  monkeypatch.setattr(f"{__name__}.stop_after", 30)  # in the second candidate
  with pytest.raises(Killed):
    main.run_tasks(config, str(tmp_path))
  assert not (tmp_path / "bakeoff").exists()
  monkeypatch.setattr(f"{__name__}.stop_after", None)
  main.run_tasks(config, str(tmp_path))
  for name in ("plain", "loud", "own-texts"):
    ours, theirs = (
      artifacts.load(folder / "candidates" / name / "generate")["files"]
      for folder in (workdir, tmp_path)
    )
    assert ours == theirs
  assert results_of(workdir)["rows"] == results_of(tmp_path)["rows"]
  assert not verify.check(tmp_path)


def test_the_config_of_the_big_run_loads_and_is_that_of_the_best(
  whole, tmp_path
):
  workdir, config, _ = whole
  big = main.load_config(str(workdir / "bakeoff" / "best.py"))
  assert big.tasks == (*bakeoff.BEFORE, "tune", "report")
  best = results_of(workdir)["ranked"][0]["arm"]
  (chosen,) = [c for c in BAKEOFF["candidates"] if c["name"] == best]
  wanted = config.to_dict() | {k: v for k, v in chosen.items() if k != "name"}
  assert big.generator.to_dict() == wanted["generator"]
  assert big.prompts.to_dict() == wanted["prompts"]
  assert big.generate.images_per_class == 40 and big.generate.shard_size == 9
  assert big.tune.arms[0]["strategy"] == wanted["prompts"]["strategies"][0]
  assert "bakeoff" not in big and big.space == config.space
  for name in big.tasks:  # as a run of it does first
    if hasattr(task := main.schema.resolve(name, main.TASKS), "check"):
      task.check(big, str(tmp_path))
  with pytest.raises(UserError, match="argument 'runlocal'"):
    main.load_config(f"{workdir / 'bakeoff' / 'best.py'}:runlocal")


def test_each_candidate_has_the_strategy_of_its_prompts():
  config = make_config_of_blocks()
  fields = main.schema.read(bakeoff.Bakeoff, config.bakeoff, "config.bakeoff")
  found = [
    bakeoff._big_run(config, fields, each)["tune"]["arms"][0]["strategy"]
    for each in fields.candidates
  ]
  assert found == ["basic", "basic", "template"]


def make_config_of_blocks():
  return ConfigDict(
    dict(
      seed=0,
      prompts=dict(strategies=("basic",)),
      generate=dict(images_per_class=6),
      bakeoff=BAKEOFF,
    )
  )


BROKEN = dict(
  name="broken", generator=dict(name=GENERATOR, noise=1, broken=True)
)


def test_all_problems_are_told_before_anything_is_drawn(tmp_path):
  wrong = dict(name="wrong", generator=dict(name=GENERATOR, nois=3))
  two = dict(name="two", prompts=dict(strategies=("basic", "template")))
  config = make_config(
    tmp_path, candidates=(*BAKEOFF["candidates"], BROKEN, wrong, two)
  )
  with pytest.raises(UserError) as caught:
    main.run_tasks(config, str(tmp_path / "work"))
  said = str(caught.value)
  assert "candidates/broken: config.generator: a generator of noise 1" in said
  assert "did you mean 'noise'" in said and "candidates/wrong: " in said
  assert "'two' has the prompt strategies ('basic', 'template')" in said
  assert not (tmp_path / "work").exists()
  config = make_config(tmp_path)
  config.generate.seeds = (1, 2)
  with pytest.raises(UserError, match=r"drawn with the seeds \(1, 2\)"):
    main.run_tasks(config, str(tmp_path / "work"))
  config = make_config(tmp_path)
  config.bakeoff.big_run.tune.sedes = (0,)
  with pytest.raises(UserError, match="best.py: .*did you mean 'seeds'"):
    main.run_tasks(config, str(tmp_path / "work"))
  config = make_config(tmp_path)
  config.bakeoff.big_run.tunes = dict(seeds=(0,))
  with pytest.raises(UserError, match="big_run.* 'tunes'; did you mean 'tune'"):
    main.run_tasks(config, str(tmp_path / "work"))
  config = make_config(tmp_path)
  config.bakeoff.big_run.export = dict(format="parquet")
  with pytest.raises(UserError, match="best.py: .*did you mean 'formats'"):
    main.run_tasks(config, str(tmp_path / "work"))
  # What all have is no candidate's.
  config = make_config(tmp_path, validation=dict(split="vali"))
  config.select = {"max_per_class": 0}
  with pytest.raises(UserError) as caught:
    main.run_tasks(config, str(tmp_path / "work"))
  assert "candidates/" not in str(caught.value)
  assert "max_per_class=0" in str(caught.value)
  assert str(caught.value).count("config.select") == 1


@pytest.mark.parametrize(
  ("arg", "said"),
  [
    ("generators=fast+papr", "generator 'papr'; did you mean 'paper'"),
    ("generators=glide+sdxl_turb", "'sdxl_turb'; did you mean 'sdxl_turbo'"),
    ("prompts=basic+grammer", "prompts, .* 'grammer'; did you mean 'grammar'"),
    ("prompts=basic+", "kind of prompts, .* ''"),
    ("guidance=1.5+x", "guidance=1.5.x: needed numbers"),
    ("generator=fast", "argument 'generator'"),
  ],
)
@pytest.mark.parametrize("runlocal", [True, False])
def test_a_misspelt_argument_is_refused(arg, said, runlocal):
  """Also one that the small run of `runlocal` has other names for."""
  if not runlocal and "papr" in arg:
    said = "generator 'fast'"
  path = f"{CONFIGS / 'bakeoff.py'}:{'runlocal,' * runlocal}{arg}"
  with pytest.raises(UserError, match=said):
    main.load_config(path)


def test_a_head_learns_from_the_images_of_its_seed():
  ids = [f"basic-{i % 3}-0-s{i // 3 % 2}-{i // 6}" for i in range(12)]
  labels = np.arange(12, dtype=np.int32) % 3
  features = np.arange(12, dtype=np.float16)[:, None]
  kept = np.arange(12) != 11
  scores = feature_sets.scores.Scores(
    np.array(ids), labels, features, features, features[:, 0]
  )
  scored = feature_sets.Scored(scores, kept, {}, None)
  found = {
    seed: bakeoff._images_of(scored, "basic", seed, NAMES) for seed in (0, 1)
  }
  assert found[0][0][:, 0].tolist() == [0, 1, 2, 6, 7, 8]
  assert found[1][0][:, 0].tolist() == [3, 4, 5, 9, 10]
  assert found[1][1].tolist() == [0, 1, 2, 0, 1]


def test_what_is_refused_is_left_out_if_asked_for(tmp_path, capsys):
  config = make_config(
    tmp_path,
    candidates=(BROKEN, BAKEOFF["candidates"][0]),
    skip_refused=True,
    seeds=(0,),
    test=None,
  )
  main.run_tasks(config, str(tmp_path / "work"))
  found = results_of(tmp_path / "work")
  assert [row["arm"] for row in found["ranked"]] == ["plain"]
  assert "noise 1 is broken" in found["refused"]["broken"]
  assert "test" not in found
  assert "broken" in capsys.readouterr().out
  page = (tmp_path / "work" / "report" / "report.html").read_text()
  assert "Left out" in page and "noise 1 is broken" in page
  config.bakeoff.candidates = (BROKEN,)
  with pytest.raises(UserError, match="noise 1 is broken"):
    main.run_tasks(config, str(tmp_path / "none"))


def test_names_of_one_folder_are_refused():
  twins = (dict(name="a b"), dict(name="a-b"))
  lines = main.schema.problems(
    bakeoff.Bakeoff, BAKEOFF | {"candidates": twins}, "config.bakeoff"
  )
  assert "the folders ['a-b', 'a-b']" in lines[0]


def test_the_page_ranks_and_shows_each_candidate(whole):
  workdir, _, _ = whole
  page = (workdir / "report" / "report.html").read_text()
  assert "Bake-off" in page and "Candidates, the best first" in page
  order = [
    page.index(f'scope="row">{row["arm"]}<')
    for row in results_of(workdir)["ranked"]
  ]
  assert order == sorted(order)
  assert page.count('class="thumb"') == 6  # two of each
  cost = json.loads((workdir / "report" / "results.json").read_text())["cost"]
  runs = {row["task"]: row["runs"] for row in cost["tasks"]}
  assert runs == dict.fromkeys(bakeoff.BEFORE, 3) | {"bakeoff": 1}


def test_verify_reads_the_files_of_candidates(whole, tmp_path):
  workdir, _, _ = whole
  assert not verify.check(workdir)
  path = workdir / "candidates" / "loud" / "select" / "selection.parquet"
  before = path.read_bytes()
  path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
  problems = verify.check(workdir)
  path.write_bytes(before)
  assert len(problems) == 1 and "loud/select/selection.parquet" in problems[0]
