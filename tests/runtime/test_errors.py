"""Problems are gathered, and what takes long comes last."""

import pytest

from synthjax.runtime.errors import UserError, gathered, lastly


def fail(*problems):
  raise UserError(*problems)


def test_all_problems_of_all_calls_are_told_once():
  with pytest.raises(UserError) as error:
    with gathered() as attempt:
      assert attempt(fail, "one", "two") is None
      assert attempt(int, "3") == 3
      with gathered() as inner:
        inner(fail, "two")
        fail("three")  # what the rest of the block cannot do without
  assert error.value.problems == ("one", "two", "three")
  assert str(error.value) == "one\ntwo\nthree"


def test_what_takes_long_comes_after_all_else_and_only_if_nothing_is_wrong():
  calls = []
  with gathered() as attempt:
    with gathered():
      lastly(calls.append, "long")
    attempt(calls.append, "short")
  assert calls == ["short", "long"]
  with pytest.raises(UserError, match="^missing$"), gathered() as attempt:
    lastly(calls.append, "never")
    attempt(fail, "missing")
  lastly(calls.append, "at once")
  assert calls == ["short", "long", "at once"]


def test_long_checks_gather_their_problems_too():
  with pytest.raises(UserError, match="^shapes$"), gathered():
    lastly(fail, "shapes")
    lastly(fail, "shapes")
