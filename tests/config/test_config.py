"""Arguments and fields of configs, given rightly and wrongly."""

import ml_collections
import pytest

from synthjax.config import parse_arg
from synthjax.config.arguments import unknown_fields
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
