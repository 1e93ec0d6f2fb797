"""A command line can set all that the tasks of a config read."""

import pathlib

import pytest
from ml_collections import ConfigDict

from synthjax import main
from synthjax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("[!_]*.py"))
# Of each type, the words of a command line and what they stand for.
WORDS = {
  bool: ("true", True),
  int: ("3", 3),
  float: ("0.25", 0.25),
  str: ("word", "word"),
  tuple: ("(3,)", (3,)),
  ConfigDict: ("{'field': 3}", {"field": 3}),
  object: ("{'split': 'test'}", {"split": "test"}),
}


def blocks(config):
  """Yields the name of each block that something reads, and of those within."""
  for outer in sorted({*main.TASKS, *main.LOADED} & {*config.keys()}):
    yield outer, config[outer]
    inner = [k for k, v in config[outer].items() if isinstance(v, ConfigDict)]
    for name in inner:
      if main.fields_of(config, f"{outer}.{name}"):
        yield f"{outer}.{name}", config[outer][name]


@pytest.mark.parametrize("arg", ["", ":runlocal"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_command_line_can_set_every_field_that_a_task_reads(
  path, arg, command_line
):
  fields = {"outer": {}, "inner": {}}
  plain = main.load_config(f"{path}{arg}")
  for name, block in blocks(plain):
    where = fields["inner" if "." in name else "outer"]
    for field in main.fields_of(plain, name):
      kind = block.get_type(field) if field in block else object
      where[f"{name}.{field}"] = WORDS[kind]
  assert fields["outer"]
  for where in fields.values():
    given = [f"--config.{name}={words}" for name, (words, _) in where.items()]
    config = command_line(f"--config={path}{arg}", *given).to_dict()
    for name, (_, value) in where.items():
      found = config
      for key in name.split("."):
        found = found[key]
      assert found == value, name


@pytest.mark.parametrize("arg", ["", ":runlocal"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_not_given_is_not_there(path, arg, command_line):
  """So that no specification, and no finished workdir, knows of it."""
  config = command_line(f"--config={path}{arg}", "--config.seed=3")
  plain = main.load_config(f"{path}{arg}").to_dict()
  assert config.to_dict() == plain | {"seed": 3}
  assert config.is_locked


def test_a_finished_workdir_stays_finished_when_fields_could_be_given(
  command_line, tmp_path, capsys
):
  path = f"{ROOT}/configs/quickstart.py:images_per_class=2"
  config = main.load_config(path)
  config.tasks = ("prompts",)
  main.run_tasks(config, str(tmp_path))
  assert "prompts: done" in capsys.readouterr().out
  words = f"--config={path}", "--config.tasks=prompts"
  main.run_tasks(
    command_line(*words, "--config.card.license=CC0-1.0"), str(tmp_path)
  )
  assert "prompts: skipped" in capsys.readouterr().out


def test_values_are_read_as_python_has_them(command_line):
  config = command_line(
    f"--config={ROOT}/configs/quickstart.py",
    "--config.card.license=CC-BY-4.0",
    "--config.generate.image_format=jpeg",
    "--config.generate.quality=90",
    "--config.tune.temperature=2.5",
    "--config.tune.best_epoch_on_test",
    "--noconfig.tune.bias",
    "--config.score.filter_encoder={'name': 'clip'}",
    "--config.generator.guidance_interval=(0.2, 0.8)",
    "--config.encoder.resize=device",
  )
  assert config.generator.guidance_interval == (0.2, 0.8)
  assert config.encoder.resize == "device"
  assert config.card.license == "CC-BY-4.0"
  assert (config.generate.image_format, config.generate.quality) == ("jpeg", 90)
  assert config.tune.temperature == 2.5
  assert config.tune.best_epoch_on_test is True and config.tune.bias is False
  assert config.score.filter_encoder.name == "clip"


@pytest.mark.parametrize(
  ("field", "words"),
  [
    ("card.licence", "config.card field 'licence'; did you mean 'license'"),
    ("transfer.fsdp", "no config field 'transfer'"),
    ("tune.arm.lr", "config.tune field 'arm'; did you mean 'arms'"),
    ("generate.real_guidance.pool", "generate has no real_guidance yet: give"),
    ("tune.lr.x", "config.tune.lr is a value"),
    ("generator.guidance_intervall", "did you mean 'guidance_interval'"),
    ("encoder.dtyp", "config.encoder field 'dtyp'"),
  ],
)
def test_what_no_task_reads_is_refused(field, words, command_line):
  with pytest.raises(UserError, match=words):
    command_line(
      f"--config={ROOT}/configs/quickstart.py", f"--config.{field}=1"
    )


def test_a_file_of_flags_is_checked_too(command_line, tmp_path):
  (tmp_path / "flags").write_text("--config.card.licence=MIT\n")
  with pytest.raises(UserError, match="did you mean 'license'"):
    command_line(
      f"--config={ROOT}/configs/quickstart.py", f"--flagfile={tmp_path}/flags"
    )


def test_a_tuple_that_is_given_twice_adds_up_and_an_error_says_so(
  command_line, tmp_path
):
  """As ml_collections documents; so that the same seeds twice are refused."""
  path = f"--config={ROOT}/configs/quickstart.py"
  seeds = ["--config.tune.seeds=(0,)", "--config.tune.seeds=(1,)"]
  assert command_line(path, *seeds).tune.seeds == (0, 1)
  config = command_line(path, "--config.tasks=tune", seeds[0], seeds[0])
  with pytest.raises(UserError, match=r"seeds=\(0, 0\): .* twice adds up"):
    main.run_tasks(config, str(tmp_path))
