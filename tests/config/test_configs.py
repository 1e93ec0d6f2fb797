"""Every config loads, and each of its blocks is one that a task reads."""

import importlib
import pathlib
import re

import pytest

from synthjax import main
from synthjax.adapt import mixed_tuning
from synthjax.embedded import captions, world
from synthjax.labels import spaces
from synthjax.runtime import specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import few_shot
from synthjax.weights import catalogue, files

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("[!_]*.py"))
NO_TASK = {"tasks", "seed", "space", "generator", "encoder", "also"}


def load(name, arg=""):
  return main.load_config(f"{ROOT / 'configs' / name}:{arg}")


def test_there_are_configs():
  assert {"quickstart.py", "ablation_zeroshot.py"} <= set(CONFIGS)


@pytest.mark.parametrize("arg", ["", "runlocal"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_plain_data_about_its_tasks(name, arg):
  config = load(name, arg)
  assert set(config.tasks) <= main.TASKS.keys()
  assert set(config) <= main.TASKS.keys() | NO_TASK
  assert isinstance(config.seed, int)
  specifications.plain(config.to_dict())  # a specification can hold all of it


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unknown_argument_is_refused(name):
  with pytest.raises(UserError, match="did you mean 'runlocal'"):
    load(name, "runlocl")


@pytest.mark.parametrize("name", CONFIGS)
def test_the_docstring_tells_the_command(name):
  text = (ROOT / "configs" / name).read_text()
  assert f"--config=configs/{name}" in text and "Measured:" in text


# --- what is said in two places ---------------------------------------------


@pytest.mark.parametrize(
  ("file", "name", "arg", "stage"),
  [
    ("base", "train_generator", "", "base"),
    ("upsampler", "train_generator", "", "upsampler"),
    ("clip", "train_clip", "", None),
    ("clip_resnet", "train_clip", "tower=resnet", None),
  ],
)
def test_shipped_weights_were_trained_as_their_config_says(
  file, name, arg, stage
):
  path = files.EMBEDDED / "weights" / f"{file}.safetensors"
  found = files.read_description(path)["training"]
  config = load(f"{name}.py", arg)
  block = config[name][stage] if stage else config[name]
  want = specifications.plain(block.to_dict())
  assert found.pop("images") == captions.digest()
  assert found.pop("seed") == config.seed
  for field in ("leave_out", "leave_out_styles"):
    if not found["data"].get(field):  # as where it is not given
      found["data"].pop(field, None)
  assert found == want


def test_concepts_to_pre_train_on_are_of_what_the_generator_drew():
  data = load("train_generator.py").train_generator.base.data
  assert data.subcategories == world.DRAWN


def test_detectors_start_from_arms_of_the_tables():
  arms = load("detect_voc.py", "runlocal").pretrain.arms
  tables = load("pretrain_tables.py", "table=moco").pretrain.arms
  names = [arm["name"] for arm in arms]
  assert list(arms) == [arm for arm in tables if arm["name"] in names]


# --- the two of zero-shot recognition ---------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_label_spaces_of_configs_are_in_the_package(name):
  space = load(name).get("space")
  assert space is None or space in spaces.built_in_spaces()


@pytest.mark.parametrize(
  ("name", "needed"),
  [
    ("zeroshot.py", {"glide", "clip_rn50", "t5_common_gen"}),
    ("image_count.py", {"glide", "clip_rn50", "t5_common_gen"}),
    ("from_scratch_c100.py", {"glide", "t5_common_gen"}),
    (
      "zeroshot.py:space=eurosat,writer=grammar,encoder=vit_b16",
      {"glide", "clip_rn50", "clip_vit_b16"},
    ),
    (
      "ablation_zeroshot.py:space=cifar10",
      {"glide", "clip_rn50", "t5_common_gen"},
    ),
    (
      "ablation_zeroshot.py:space=cifar100",
      {"glide", "clip_rn50", "t5_common_gen"},
    ),
    (
      "ablation_zeroshot.py:space=eurosat",
      {"glide", "clip_rn50", "t5_common_gen"},
    ),
  ],
)
def test_full_size_without_weights_names_the_commands_that_fetch_them(
  name, needed, tmp_path, monkeypatch
):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  file, _, arg = name.partition(":")
  workdir = tmp_path / "work"
  with pytest.raises(UserError, match=":runlocal") as error:
    main.run_tasks(load(file, arg), str(workdir))
  assert not workdir.exists()  # at once: no task has begun
  fetched = re.findall(
    r"python -m synthjax.weights fetch (\w+)", str(error.value)
  )
  assert set(fetched) == needed <= catalogue.RELEASED.keys()


def test_one_command_measures_both_columns_of_table_1():
  """The other one is what encoder=vit_b16 would measure on its own drawing."""
  both, alone = (
    load("zeroshot.py", f"encoder={n}") for n in ("both", "vit_b16")
  )
  assert both.also.keys() == ["vit_b16"] and "also" not in alone
  for block in ("encoder", "score"):
    assert both.also.vit_b16[block].to_dict() == alone[block].to_dict()
  rn50 = load("zeroshot.py").to_dict()
  assert {k: v for k, v in both.to_dict().items() if k != "also"} == rn50


def test_the_ablation_compares_what_table_2_does():
  config = load("ablation_zeroshot.py")
  assert [arm["name"] for arm in config.tune.arms] == [
    "B CE",
    "B SCE",
    "LE CE",
    "LE SCE",
    "LE+CF CE",
    "LE+CF SCE",
  ]
  assert config.generate.images_per_class == 10 * config.prompts.per_class
  assert load("ablation_zeroshot.py", "runlocal").generate.seeds == (*range(5),)
  with pytest.raises(UserError, match="did you mean 'cifar10'"):
    load("ablation_zeroshot.py", "space=cifar1")


@pytest.mark.parametrize("name", ["quickstart.py", "ablation_zeroshot.py"])
@pytest.mark.parametrize(
  ("field", "value", "words"),
  [
    ("prompts", {"strategy": ("basic",)}, "did you mean 'strategies'"),
    ("select", {"max_per_clas": 3}, "did you mean 'max_per_class'"),
    ("tune", {"seed": 3}, "did you mean 'seeds'"),
  ],
)
def test_a_misspelt_field_stops_before_anything_runs(
  name, field, value, words, tmp_path
):
  config = load(name, "runlocal")
  config.tasks = (field,)
  with config.unlocked():
    config[field] = config[field].to_dict() | value
  with pytest.raises(UserError, match=words):
    main.run_tasks(config, str(tmp_path))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["quickstart.py", "ablation_zeroshot.py"])
def test_nothing_is_chosen_on_the_test_split(name):
  config = load(name, "runlocal")
  assert config.tune.validation.split == "validation"
  assert config.tune.test.split == "test"
  assert not config.tune.get("best_epoch_on_test")


# --- pre-training -----------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "millions"),
  [
    ("pretrain_c100.py:", 1.2),
    ("pretrain_c100.py:amount=2.4M", 2.4),
    ("pretrain_c100.py:amount=3.6M", 3.6),
    ("pretrain_in1k.py:", 1.2),
    ("pretrain_in1k.py:amount=2.4M", 2.4),
    ("pretrain_in2k.py:", 2.4),
    ("pretrain_in2k.py:amount=4.0M", 4.0),
    ("pretrain_moco.py:", 1.2),
    ("pretrain_moco.py:amount=2.4M", 2.4),
    ("pretrain_moco.py:space=in2k", 2.4),
    ("pretrain_moco.py:space=in2k,amount=4.0M", 4.0),
    ("pretrain_in2k.py:images_per_class=5", 0.01),
    ("pretrain_moco.py:space=cifar100,images_per_class=10", 0.001),
  ],
)
def test_an_amount_is_of_all_images(name, millions):
  config = load(*name.split(":"))
  size = len(spaces.load_space(config.space).classes)
  assert config.generate.images_per_class * size == round(millions * 1e6)


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("pretrain_c100.py:amount=4.0M", "Allowed: 1.2M, 2.4M, 3.6M"),
    ("pretrain_in1k.py:amount=4.0M", "Allowed: 1.2M, 2.4M"),
    ("pretrain_in2k.py:amount=4M", "did you mean '4.0M'.*Allowed: 2.4M, 4.0M"),
    ("pretrain_moco.py:amount=4.0M", "of imagenet.*Allowed: 1.2M, 2.4M"),
    ("pretrain_moco.py:space=in2k,amount=1.2M", "of in2k.*2.4M, 4.0M"),
    ("pretrain_moco.py:space=cifar100,amount=1.2M", "of cifar100"),
  ],
)
def test_an_amount_that_the_paper_has_not_is_refused(name, words):
  with pytest.raises(UserError, match=words):
    load(*name.split(":"))


# --- few-shot recognition ---------------------------------------------------


@pytest.mark.parametrize(
  ("part", "names"),
  [
    ("figure1", ["CT w. Syn (RG)", "CT w. init", "CoOp", "Tip-Adapter-F"]),
    ("table5", ["B (LE+CF)", "RF", "CT w. Syn (RG)"]),
    ("table7", ["RG, syn>real", "RG, real>syn", "CT w. Syn (RG)"]),
  ],
)
def test_the_few_shot_config_compares_what_the_paper_does(part, names):
  for arg in (part, f"{part},runlocal"):
    block = load("fewshot.py", f"only={arg}").few_shot
    found = [method["name"] for method in block.methods]
    assert set(names) <= set(found)
    assert tuple(block.shots) == (1, 2, 4, 8, 16)
    assert len(block.seeds) >= 3
    assert not block.get("best_epoch_on_test") and not block.get("protocol")


@pytest.mark.parametrize("arg", ["", "only=table5,", "only=table7,"])
def test_the_few_shot_config_will_draw_what_its_methods_learn_from(
  arg, tmp_path
):
  config = load("fewshot.py", f"{arg}runlocal")
  few_shot.check(config, str(tmp_path))
  assert set(config.few_shot.seeds) <= set(config.generate.seeds)
  splits = [config.few_shot[name].split for name in ("pool", "validation")]
  assert splits == ["real_pool", "validation"]
  assert config.few_shot.test.split == "test"


def test_the_mix_has_half_the_rate_of_phases():
  """Appendix C.5.2: 1e-3 and 2e-3, and what the code has for batches."""
  block = load("fewshot.py").few_shot
  options = {m["name"]: m.get("options", {}) for m in block.methods}
  assert options["CT w. Syn (RG)"]["lr"] == 1e-3
  assert options["RG, syn>real"]["lr"] == options["RG, real>syn"]["lr"] == 2e-3
  assert mixed_tuning.BATCH_SIZES["paper"] == (512, 32)


def test_images_and_shots_must_be_drawn_by_one_sampler(tmp_path):
  config = load("fewshot.py", "runlocal")
  task = importlib.import_module(main.TASKS["few_shot"])
  task.check(config, str(tmp_path))
  with config.unlocked():
    config.few_shot.sampler = "coop"
  with pytest.raises(UserError, match="one sampler; found coop and nested"):
    task.check(config, str(tmp_path))
  with config.unlocked():
    config.generate.real_guidance.sampler = "coop"
  task.check(config, str(tmp_path))
