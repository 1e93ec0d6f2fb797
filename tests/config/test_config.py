"""Arguments and fields of configs, given rightly and wrongly."""

import ml_collections
import pytest

from synthjax.config import parse_arg, unknown_fields, validate
from synthjax.runtime import errors
from synthjax.runtime.errors import UserError


def test_values_have_the_types_of_their_defaults():
  arg = parse_arg(
    "runlocal, shots=16,lr=1e-3,name=vit,quick=false,seeds=3",
    runlocal=False,
    shots=1,
    lr=0.1,
    name="clip",
    quick=True,
    seeds=None,
    untouched=7,
  )
  assert arg.runlocal is True and arg.quick is False
  assert arg.shots == 16 and isinstance(arg.shots, int)
  assert arg.lr == 0.001
  assert (arg.name, arg.seeds, arg.untouched) == ("vit", "3", 7)


@pytest.mark.parametrize("nothing", [None, ""])
def test_no_argument_keeps_the_defaults(nothing):
  assert vars(parse_arg(nothing, runlocal=False)) == {"runlocal": False}


def test_unknown_names_are_all_named_with_the_nearest():
  with pytest.raises(UserError) as error:
    parse_arg("runlokal,shoots=1", runlocal=False, shots=1)
  for word in ("'runlokal'", "'runlocal'", "'shoots'", "'shots'", "Allowed"):
    assert word in str(error.value)


@pytest.mark.parametrize(
  "arg", ["shots=few", "shots", "runlocal=maybe", "shots=1,shots=2"]
)
def test_values_that_make_no_sense_are_refused(arg):
  with pytest.raises(UserError, match=r"shots|runlocal"):
    parse_arg(arg, runlocal=False, shots=1)


def test_a_default_of_another_type_is_a_bug_and_not_a_users_error():
  with pytest.raises(TypeError, match="sizes"):
    parse_arg("sizes=1", sizes=(1, 2))


def test_a_block_holds_only_known_fields():
  block = ml_collections.ConfigDict({"shots": 1, "temprature": 2.0})
  with pytest.raises(UserError, match="'temperature'") as error:
    validate(block, ("shots", "temperature"), name="tune")
  assert "config.tune" in str(error.value)
  validate(block, ("shots", "temprature"), name="tune")


def test_a_block_holds_what_is_required():
  with pytest.raises(UserError, match="config.tune lacks encoder"):
    validate({"shots": 1}, ("shots",), name="tune", required=("encoder",))
  validate({"encoder": 1}, ("shots",), name="tune", required=("encoder",))


def test_every_dotted_field_that_is_not_there_is_found():
  config = ml_collections.ConfigDict({"seed": 0, "data": {"size": 32}})
  assert unknown_fields(config, ["seed", "data.size", "data"]) is None
  error = str(unknown_fields(config, ["sede", "data.sise", "seed.x"]))
  for word in (
    "'seed'",
    "config.data field 'sise'",
    "'size'",
    "config.seed is",
  ):
    assert word in error


@pytest.mark.parametrize(
  ("kind", "good", "bad"),
  [
    (errors.COUNT, (1, 7, None), (0, -1, 1.0, True, "1", (1,))),
    (errors.WHOLE, (0, 3), (-1, 0.5, False)),
    (errors.POSITIVE, (1, 1e-9), (0, -1, float("nan"), float("inf"), "x")),
    (errors.SHARE, (0, 0.5, 1), (1.01, -0.1, True)),
    (errors.SEEDS, ((0,), [3, 1]), ((), (0, 0), (-1,), ("a",), 3)),
    (errors.DTYPE, ("bfloat16",), ("half", 32)),
  ],
)
def test_values_are_of_their_kind(kind, good, bad):
  for value in good:
    errors.check_values("config.x", {"a": value}, {"a": kind, "b": kind})
  for value in bad:
    with pytest.raises(UserError, match=r"config\.x\.a=.*: needed"):
      errors.check_values("config.x", {"a": value}, {"a": kind})
