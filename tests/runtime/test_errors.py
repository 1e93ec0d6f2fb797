"""What a command makes of errors."""

import errno
import os

import pytest

from synthjax.runtime.errors import UserError, as_message


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
