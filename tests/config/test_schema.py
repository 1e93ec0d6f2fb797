"""Blocks of a config become dataclasses, and all mistakes are told at once."""

import ast
import dataclasses
import functools
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from synthjax.config import schema
from synthjax.config.schema import (
  Arguments,
  Block,
  Choice,
  Count,
  NotNegative,
  Positive,
  Rule,
  Seeds,
  Share,
  fields_of,
  one_of,
  problems,
  read,
  resolve,
  unique_names,
)
from synthjax.runtime.errors import UserError

NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """Fields that lie flat in the blocks of several trainings."""

  checkpoint_every: Count
  log_every: Count = 50


@dataclasses.dataclass(frozen=True)
class Sgd:
  lr: NotNegative | schema.Numbers
  momentum: schema.BelowOne = 0.9
  name: str = ""


@dataclasses.dataclass(frozen=True)
class AdamW:
  lr: NotNegative
  weight_decay: NotNegative = 0.0


@dataclasses.dataclass(frozen=True)
class Arm:
  name: str
  filter: bool = False
  images_per_class: Count | None = None


@dataclasses.dataclass(frozen=True)
class Start:
  weights: str | None = None


class Net(nn.Module):
  width: int
  num_classes: int
  stages: "tuple[int, ...]" = (2, 2)
  dtype: jnp.dtype = jnp.float32


def euler(denoise, noise, *, eta: Share = 0.0, steps: "Count", extra=None):
  return denoise, noise, eta, steps, extra


OPTIMIZERS = {"sgd": Sgd, "adamw": AdamW}
SAMPLERS = {
  "euler": euler,
  "short": functools.partial(euler, steps=2),
  "lazy": "config.test_schema:euler",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Loop):
  seeds: Seeds
  arms: Annotated[tuple[Arm, ...], unique_names("zero_shot")]
  optimizer: Annotated[Any, Choice("name", OPTIMIZERS, default="sgd")]
  test: Block = dataclasses.field(default_factory=dict)
  inits: Mapping[str, Start] = dataclasses.field(default_factory=dict)
  writer: Literal["grammar"] | Start = "grammar"
  model: Annotated[Any, Arguments(Net, ("num_classes",))] = None
  sampler: Annotated[
    Any, Choice("name", SAMPLERS, filled=("denoise", "noise"))
  ] = None
  epochs: Positive | None = None
  num_steps: Count | None = None

  def problems(self) -> Iterable[str]:
    if self.epochs and self.num_steps:
      yield f"epochs={self.epochs} and num_steps={self.num_steps}: give one"


def block(**fields):
  """Returns the least that Train needs, and `fields`."""
  return {
    "checkpoint_every": 10,
    "seeds": (0,),
    "arms": ({"name": "real"},),
    "optimizer": {"lr": 0.1},
  } | fields


def train(**fields):
  return read(Train, block(**fields), "config.train")


def test_a_config_becomes_a_dataclass():
  config = ConfigDict(
    block(
      seeds=[0, 1],
      log_every=placeholder(int),
      epochs=placeholder(float),
      test={"split": "test", "files": ["a"], "inner": {"x": 1}},
      inits={"random": {}, "mine": {"weights": "w"}},
      writer={"weights": "t5"},
      model={"width": 8, "stages": [1], "dtype": "bfloat16"},
    )
  )
  config.num_steps = config.get_ref("checkpoint_every") * 2
  made = read(Train, config, "config.train")
  assert made.seeds == (0, 1) and made.arms == (Arm("real"),)
  assert made.log_every == 50 and made.epochs is None
  assert made.num_steps == 20
  assert made.optimizer == Sgd(0.1, name="sgd")
  assert made.test == {"split": "test", "files": ["a"], "inner": {"x": 1}}
  assert type(made.test) is type(made.test["inner"]) is dict
  assert made.inits == {"random": Start(), "mine": Start("w")}
  assert made.writer == Start("t5")
  net = made.model(num_classes=3)
  assert (net.width, net.stages, net.dtype) == (8, (1,), jnp.bfloat16)


def test_all_mistakes_are_told_one_a_line():
  with pytest.raises(UserError) as error:
    train(
      checkpoint_every=0,
      log_evry=1,
      seeds=None,
      arms=[{"name": "a", "filtr": True}, {"name": "b", "filter": 1}],
      optimizer={"name": "sdg"},
      test=3,
    )
  lines = str(error.value).split("\n")
  expected = (
    "config.train has no field 'log_evry'; did you mean 'log_every'? Allowed: ",
    "config.train lacks seeds: needed different whole numbers, 0 or more",
    "config.train.arms[0] has no field 'filtr'; did you mean 'filter'? ",
    "config.train.arms[1].filter=1: needed True or False",
    "config.train.checkpoint_every=0: needed a whole number, 1 or more",
    "config.train.optimizer.name='sdg': needed one of sgd, adamw; did you mean "
    "'sgd'?",
    "config.train.test=3: needed a block of fields",
  )
  for line, start in zip(sorted(lines), expected, strict=True):
    assert line.startswith(start)
  assert problems(Train, block(), "config.train") == []


@pytest.mark.parametrize(
  ("kind", "right", "wrong"),
  [
    (schema.Count, (1, 7), (0, -1, 1.0, True, "1", (1,), [{}])),
    (schema.Several, (2,), (1, 2.0)),
    (schema.Whole, (0, 3), (-1, 0.5, False)),
    (schema.Number, (-1, 0.5, 10**400), (NAN, INF, -INF, True, "1")),
    (schema.Positive, (1, 1e-9), (0, -1, NAN, INF, "x")),
    (schema.NotNegative, (0, 0.1), (-0.1, NAN)),
    (schema.Share, (0, 0.5, 1), (1.01, -0.1, True)),
    (schema.Inside, (0.5,), (0, 1)),
    (schema.BelowOne, (0, 0.9), (1, -0.1)),
    (schema.Seeds, ((0,), (3, 1)), ((), (0, 0), (-1,), ("a",), 3, [{}])),
    (schema.Shots, ((1, None), (16,)), ((), (0,), (1, 1), (None, None))),
    (schema.Range, ((1, 2), (3, 3)), ((), (2, 1), (1,), (1, 2, 3), (-1, 2))),
    (schema.Counts, ((8, 8),), ((), (0,), 8, (1.5,))),
    (schema.Sides, ((16, 0.5),), ((), (0,))),
    (schema.Numbers, ((0.5, -1),), ((), ("x",), (NAN,), 0.5)),
    (schema.Text, ("", "a"), (1, ("a",), {})),
    (schema.Texts, (("a", "b"),), ((), "ab", (1,))),
    (schema.Pairs, ((), (("a", "b"),)), ((("a",),), "ab", (1,), ("ab",))),
    (schema.Dtype, ("bfloat16",), ("half", 32, [{}])),
    (schema.Flag, (True, False), (0, 1, "true", None)),
    (schema.Block, ({}, {"a": 1}), (1, "a", ({},))),
    (schema.Blocks, (({},), ({}, {"a": 1})), ((), {}, (1,))),
    (tuple[int, ...], ((), (1,)), (1, (True,))),
    (dict[str, Count], ({}, {"a": 1}), ({"a": 0}, 1)),
    (str | tuple[str, ...], ("a", ()), (1, (1,))),
    (Literal["a", 1], ("a", 1), (True, "b", None, [{}])),
    (Annotated[str, one_of(OPTIMIZERS)], ("sgd",), ("sdg", 1, [{}])),
    (Annotated[Count, Rule(lambda x: x % 2 == 0, "even")], (2,), (3, -2)),
  ],
)
def test_values_are_of_their_kind(kind, right, wrong):
  def make(field: kind):
    """Stands for any block."""

  for value in right:
    listed = list(value) if isinstance(value, tuple) else value
    for given in (value, listed):
      made = read(make, {"field": given}, "x").keywords["field"]
      assert made == value and type(made) is type(value)
  for value in wrong:
    lines = problems(make, {"field": value}, "x")
    assert lines and all(
      line.startswith(("x.field", "x lacks field")) and ": needed" in line
      for line in lines
    )


def test_none_is_the_default_or_nothing():
  def make(needed: int, empty: int | None, chosen: int | None = 5):
    pass

  given = {"needed": 1, "empty": None, "chosen": None}
  assert read(make, given, "x").keywords == {"needed": 1, "empty": None}
  assert problems(make, given | {"needed": None}, "x") == [
    "x lacks needed: needed a whole number"
  ]
  assert problems(make, {"needed": 1}, "x") == [
    "x lacks empty: needed a whole number"
  ]
  assert read(Start, None, "x") == Start()


def test_what_is_no_block_is_refused():
  for value in (3, "text", (), 0):
    assert problems(Start, value, "config.x") == [
      f"config.x={value!r}: needed a block of the fields weights"
    ]


def test_names_of_blocks_are_unique():
  for names in ((), ("a", "a"), ("zero_shot",)):
    (line,) = problems(Train, block(arms=[{"name": n} for n in names]), "x")
    assert line.startswith(f"x.arms={[*names]}: needed one block or more")
    assert "not 'zero_shot'" in line


def test_fields_are_checked_together_when_each_is_right():
  both = block(epochs=2, num_steps=3)
  assert problems(Train, both, "config.train") == [
    "config.train: epochs=2 and num_steps=3: give one"
  ]
  (line,) = problems(Train, both | {"log_every": 0}, "config.train")
  assert "log_every=0" in line


def optimizer_problems(value):
  return problems(Train, block(optimizer=value), "x")


def test_a_field_chooses_the_schema():
  adamw = {"name": "adamw", "lr": 1, "weight_decay": 0.1}
  assert train(optimizer=adamw).optimizer == AdamW(1, 0.1)
  assert train(optimizer={"lr": (1, 2)}).optimizer == Sgd((1, 2), name="sgd")
  assert optimizer_problems(adamw | {"momentum": 0.9}) == [
    "x.optimizer has no field 'momentum'. Allowed: name, lr, weight_decay"
  ]
  assert optimizer_problems({"name": "adamw", "lr": "x"}) == [
    "x.optimizer.lr='x': needed a number, 0 or more"
  ]
  mixed = Choice("name", OPTIMIZERS | SAMPLERS, filled=("lr", "denoise"))
  assert read(mixed, "adamw", "x")(lr=2) == AdamW(2)
  rest = Choice("name", OPTIMIZERS | SAMPLERS, filled=("denoise", "noise"))
  assert read(rest, {"name": "euler", "steps": 1}, "x").func is euler
  assert read(rest, adamw, "x") == AdamW(1, 0.1)
  (line,) = optimizer_problems({"lr": "x"})
  assert line.endswith("a number, 0 or more, or numbers, as (0.5, 0.75)")
  assert optimizer_problems({"lr": (1, "x")}) == [
    "x.optimizer.lr[1]='x': needed a number"
  ]
  for wrong in (3, [{}], {"name": [{}]}, {"name": 3}):
    (line,) = optimizer_problems(wrong)
    assert "needed one of sgd, adamw" in line
  assert problems(Choice("kind", OPTIMIZERS), {"lr": 1}, "x") == [
    "x lacks kind: needed one of sgd, adamw"
  ]


def test_a_name_may_stand_for_a_block():
  def sampler(value):
    return train(sampler=value).sampler

  assert sampler({"name": "euler", "steps": 3, "eta": 1})(1, 2)[2:4] == (1, 3)
  assert sampler("short")(1, 2)[2:4] == (0.0, 2)
  assert sampler({"name": "lazy", "steps": 3}).keywords == {"steps": 3}
  given = {"name": "config.test_schema.euler", "steps": 3, "extra": {"a": 1}}
  assert sampler(given)(1, 2)[4] == {"a": 1}
  for value, message in (
    ("euler", "x.sampler lacks steps: needed a whole number, 1 or more"),
    ("eular", "x.sampler='eular': needed one of euler, short, lazy; did you "),
    ("short.er", "x.sampler='short.er': cannot import short.er (Module"),
    ({"name": "short", "noise": 1}, "x.sampler has no field 'noise'"),
    ("config.test_schema", "x.sampler='config.test_schema': needed a function"),
  ):
    (line,) = problems(Train, block(sampler=value), "x")
    assert line.startswith(message)


def test_a_name_or_a_block_of_its_own():
  assert train(writer="grammar").writer == "grammar"
  (line,) = problems(Train, block(writer="gramar"), "x")
  assert "x.writer='gramar': needed one of grammar, or a block of the" in line
  assert "did you mean 'grammar'?" in line
  assert problems(Train, block(writer={"weights": 3}), "x") == [
    "x.writer.weights=3: needed text"
  ]


def test_trainings_share_flat_fields_and_a_field_chooses_among_them():
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Moco(Loop):
    objective: str
    queue_size: Count
    decay: Literal["none"] | Annotated[Any, Choice("name", OPTIMIZERS)] | None

  objectives = Choice("objective", {"moco": Moco, "loop": Loop}, default="loop")
  common = {"checkpoint_every": 3, "log_every": 2}
  loop = read(objectives, common, "x")
  assert loop == Loop(**common)
  own = {
    "objective": "moco",
    "queue_size": 4,
    "decay": {"name": "sgd", "lr": 1},
  }
  moco = read(objectives, common | own, "x")
  assert (moco.log_every, moco.queue_size, moco.objective) == (2, 4, "moco")
  assert moco.decay.lr == 1
  assert read(objectives, common | own | {"decay": None}, "x").decay is None
  (line,) = problems(objectives, common | {"queue_size": 4}, "x")
  assert "x has no field 'queue_size'" in line


def test_a_flax_module_is_a_schema():
  lines = problems(Train, block(model={"stages": (1, "x"), "name": "a"}), "x")
  assert [line.split(": needed")[0].split(". ")[0] for line in lines] == [
    "x.model.stages[1]='x'",
    "x.model has no field 'name'",
    "x.model lacks width",
  ]
  assert problems(Net, {"width": 1, "num_classes": 2, "dtype": "x"}, "x") == [
    "x.dtype='x': needed one of float32, bfloat16, float16"
  ]
  assert read(Net, {"width": 1, "num_classes": 2}, "x")().width == 1


def test_dotted_paths_are_resolved(tmp_path, monkeypatch):
  (tmp_path / "my_colours").mkdir()
  (tmp_path / "my_colours" / "__init__.py").write_text("def load(red=1): ...")
  (tmp_path / "my_colours" / "warm.py").write_text("def load(red): ...")
  (tmp_path / "my_colours" / "deep.py").write_text("class A:\n  value = 3")
  (tmp_path / "my_colours" / "broken.py").write_text("import not_there")
  (tmp_path / "my_colours" / "wrong.py").write_text("1 / 0")
  monkeypatch.syspath_prepend(tmp_path)
  assert resolve("sgd", OPTIMIZERS) is Sgd
  assert resolve("lazy", SAMPLERS).__name__ == "euler"
  assert resolve("my_colours.deep", {}).A.value == 3
  assert resolve("my_colours.deep.A", {}).value == 3
  assert resolve("my_colours.deep:A.value", {}) == 3
  generators = Choice("name", {"mine": "my_colours", "own": "my_colours:load"})
  for name in ("mine", "own", "my_colours.load", "my_colours.warm"):
    made = read(generators, {"name": name, "red": 2}, "x")
    assert made.keywords == {"red": 2} and made.func.__name__ == "load"
  for name, reason in (
    ("my_colours.broken", "No module named 'not_there'"),
    ("my_colours.wrong", "ZeroDivisionError: division by zero"),
    ("my_colours.deep.B", "has no attribute 'B'"),
    ("my_colours.deep:B", "has no attribute 'B'"),
    ("my_colourz.deep", "No module named 'my_colourz'"),
    ("..", "cannot import"),
    ("a..b", "cannot import"),
    ("adamv", "did you mean 'adamw'?"),
    (None, "needed one of sgd, adamw"),
    ([{}], "needed one of sgd, adamw"),
  ):
    with pytest.raises(UserError) as error:
      resolve(name, OPTIMIZERS)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_fields_at_a_path_are_told():
  names = lambda path, **fields: fields_of(Train, block(**fields), path)
  assert names("") == [field.name for field in dataclasses.fields(Train)]
  assert names("optimizer") == ["name", "lr", "momentum"]
  assert names("optimizer", optimizer={"name": "adamw"}) == [
    "name",
    "lr",
    "weight_decay",
  ]
  assert names("optimizer", optimizer={"name": "sdg"}) == ["name"]
  assert names("arms") == ["name", "filter", "images_per_class"]
  assert names("model") == ["width", "stages", "dtype"]
  assert names("sampler", sampler="short") == ["name", "eta", "steps", "extra"]
  assert names("writer") == ["weights"]
  assert names("inits", inits={"mine": {}}) == ["mine"]
  assert names("inits.mine", inits=ConfigDict({"mine": {}})) == ["weights"]
  assert names("inits.other") == names("log_every") == names("nothing.x") == []
  assert fields_of(Choice("name", OPTIMIZERS), {"name": "adamw"})[0] == "name"


def test_long_values_are_cut():
  (line,) = problems(Start, ConfigDict({"weights": {"x": "y" * 999}}), "x")
  assert len(line) < 300 and "\n" not in line


def test_reading_imports_no_slow_library():
  code = (
    "import sys,  synthjax.config.schema; "
    "print([m for m in ('jax', 'flax', 'numpy') if m in sys.modules])"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert result.stdout.strip() == "[]", result.stdout + result.stderr


# --- fields of the package ---------------------------------------------------

# Of classes and functions that no config fills.
NO_FIELDS = {"average", "dtype", "num_workers"}


def test_a_field_that_takes_none_has_none_as_its_default():
  """A None in a config is the default: any other one could not be undone."""
  wrong = []
  for path in pathlib.Path(schema.__file__).parents[1].rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      pairs = []
      if isinstance(node, ast.ClassDef):
        pairs = [
          (part.target.id, part.annotation, part.value)
          for part in node.body
          if isinstance(part, ast.AnnAssign)
        ]
      elif isinstance(node, ast.arguments):
        last = node.args[len(node.args) - len(node.defaults) :]
        given = zip(last, node.defaults, strict=True)
        keyword = zip(node.kwonlyargs, node.kw_defaults, strict=True)
        pairs = [(a.arg, a.annotation, d) for a, d in (*given, *keyword)]
      for name, kind, default in pairs:
        takes_none = kind is not None and "| None" in ast.unparse(kind)
        if takes_none and isinstance(default, ast.Constant):
          if default.value is not None and name not in NO_FIELDS:
            wrong.append(f"{path.name}: {name} = {default.value!r}")
  assert not wrong
