"""How commands end when they are asked to stop."""

import contextlib
import os
import signal
import time

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
  assert set(received) == {sent}  # again at the end, as it went on
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


class Removed:
  """Gets a signal where Python drops exceptions."""

  def __del__(self):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0)  # the handler runs here


def test_what_is_dropped_with_an_object_stops_the_run_all_the_same(capsys):
  received = []

  def receive(number):
    received.append(number)
    raise SystemExit(number)

  with pytest.raises(SystemExit), commands.on_stop(receive):
    Removed()
    time.sleep(10)
    pytest.fail("It goes on.")
  assert received == [signal.SIGINT] * 2
  assert "ignored" not in capsys.readouterr().err


def test_what_is_dropped_at_the_end_stops_the_run_too():
  def receive(number):
    raise SystemExit(number)

  with pytest.raises(SystemExit), commands.on_stop(receive):
    with contextlib.suppress(SystemExit):
      os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_after_the_last_step_of_a_training_stops_the_run():
  received = []
  with commands.on_stop(received.append):
    with processes.stop_signal() as stop:
      assert stop(1) == 0
      os.kill(os.getpid(), signal.SIGTERM)
    assert received == [signal.SIGTERM]


@pytest.mark.parametrize("sent", commands.STOPS)
def test_a_training_is_told_the_code_that_it_ends_with(sent):
  with pytest.raises(SystemExit), processes.stop_signal() as stop:
    assert stop(1) == 0
    os.kill(os.getpid(), sent)
    assert stop(2) == stop(3) == 128 + sent
    raise SystemExit(stop(3))


def test_ctrl_c_is_a_message(capsys):
  with pytest.raises(SystemExit) as end, as_message():
    raise KeyboardInterrupt
  assert end.value.code == 130
  assert "synthjax: interrupted." in capsys.readouterr().err
