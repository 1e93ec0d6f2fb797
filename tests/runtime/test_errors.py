"""What a command makes of errors, and how problems are gathered."""

import errno
import os

import pytest

from synthjax.runtime.errors import UserError, as_message, gathered, lastly


@pytest.mark.parametrize(
  ("error", "words"),
  [
    (UserError("change it"), "synthjax: change it\n"),
    (
      OSError(errno.EROFS, os.strerror(errno.EROFS), "/mnt/a"),
      "synthjax: /mnt/a: Read-only file system. ",
    ),
    (OSError(errno.ENOSPC, "No space left on device"), "synthjax: No space "),
  ],
)
def test_what_a_user_can_correct_is_one_message(error, words, capsys):
  with pytest.raises(SystemExit) as stop, as_message():
    raise error
  assert stop.value.code == 2
  assert capsys.readouterr().err.startswith(words)


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(2, "x")])
def test_a_bug_keeps_its_traceback(error):
  with pytest.raises(type(error)), as_message():
    raise error


# --- gathering ----------------------------------------------------------------


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
