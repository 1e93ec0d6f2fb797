"""How commands end when they are asked to stop."""

import contextlib
import os
import signal

import pytest

from synthjax.runtime import commands, processes, progress
from synthjax.runtime.errors import as_message


@pytest.mark.parametrize("sent", commands.STOPS)
def test_the_first_signal_is_received_and_a_second_one_ends_all(sent):
  before, received = signal.getsignal(sent), []
  with commands.on_stop(received.append):
    os.kill(os.getpid(), sent)
    assert received == [sent]
    assert signal.getsignal(sent) == signal.SIG_DFL
  assert signal.getsignal(sent) == before


def test_a_loop_stops_though_the_exception_was_lost():
  """As where Python removes an object while the signal comes."""

  def receive(number):
    raise SystemExit(number)

  count_on = progress.counter("loop", 9)
  with pytest.raises(SystemExit), commands.on_stop(receive):
    count_on()
    with contextlib.suppress(SystemExit):
      os.kill(os.getpid(), signal.SIGINT)
    count_on()
  count_on()


@pytest.mark.parametrize("sent", commands.STOPS)
def test_a_training_is_told_the_code_that_it_ends_with(sent):
  with processes.stop_signal() as stop:
    assert stop(1) == 0
    os.kill(os.getpid(), sent)
    assert stop(2) == stop(3) == 128 + sent


def test_ctrl_c_is_a_message(capsys):
  with pytest.raises(SystemExit) as end, as_message():
    raise KeyboardInterrupt
  assert end.value.code == 130
  assert "synthjax: interrupted." in capsys.readouterr().err
