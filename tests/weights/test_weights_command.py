"""What the command of released weights finds wrong, and how it ends."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tiny_release import parameters, run

from synthjax.runtime.errors import UserError
from synthjax.weights import __main__ as weights
from synthjax.weights import files
from synthjax.weights.catalogue import RELEASED, Made

pytest_plugins = ("release_server",)  # fixtures
ROOT = pathlib.Path(__file__).parents[2]


# --- check ------------------------------------------------------------------


def test_a_check_reads_all_again(tiny, capsys):
  run("fetch", "tiny")
  run("check", "tiny")
  out = capsys.readouterr().out
  assert f"{parameters():,} parameters, float16" in out
  assert "as first fetched" in out and "as published" in out


@pytest.mark.faults
def test_a_check_lists_all_problems(tiny, capsys):
  run("fetch", "tiny")
  path = tiny / "text.pt"
  data = bytearray(path.read_bytes())
  data[-1] ^= 1
  path.write_bytes(data)
  variables, about = files.load_params(tiny / "text.safetensors", dtype=None)
  jax.tree.leaves(variables)[0][..., 0] = np.nan
  files.save_params(tiny / "text.safetensors", variables, about, dtype=None)
  (tiny / "tokenizer.json").write_text("{}")
  run("check", "tiny", code=2)
  out, err = capsys.readouterr()
  assert "CHANGED" in out and out.count("WRONG") == 2
  for words in (
    "text.pt has SHA-256",
    "not finite",
    f"Delete {tiny / 'tokenizer.json'} and run",
  ):
    assert words in err


@pytest.mark.faults
def test_another_model_s_size_is_noticed(tiny, monkeypatch, capsys):
  run("fetch", "tiny")
  entry = RELEASED["tiny"]
  made = {"text.safetensors": Made(("text.pt",), None, 7)}
  monkeypatch.setitem(RELEASED, "tiny", entry._replace(makes=made))
  run("check", "tiny", code=2)
  assert f"{parameters():,} parameters, the released model has 7" in (
    capsys.readouterr().err
  )


def test_a_check_of_nothing_names_the_command(tiny, capsys):
  run("check", "tiny", code=2)
  assert "`python -m synthjax.weights fetch tiny`" in capsys.readouterr().err


# --- the command line -------------------------------------------------------


@pytest.mark.parametrize(
  ("args", "words"),
  [
    (["fetch", "glade"], "'glade'; did you mean 'glide'?"),
    (["check", "clip_rn5"], "did you mean 'clip_rn50'?"),
    (["list", "deits"], "did you mean 'deit_s'?"),
    (["convert", "glid", "x"], "did you mean 'glide'?"),
    (["fech", "glide"], "no command 'fech'; did you mean 'fetch'?"),
    (["fetch"], "`fetch` needs a name"),
    (["fetch", "glide", "--output=x"], "--output is for `convert` and `pack`"),
  ],
)
def test_a_misspelt_argument_ends_in_one_message(args, words, capsys):
  run(*args, code=2)
  err = capsys.readouterr().err
  assert err.startswith("synthjax: ") and words in err


def test_an_interruption_keeps_what_was_fetched(tiny, monkeypatch, capsys):
  def interrupted(*args, **kwargs):
    raise KeyboardInterrupt

  monkeypatch.setattr("synthjax.runtime.download.fetch", interrupted)
  run("fetch", "tiny", code=130)
  err = capsys.readouterr().err
  assert "interrupted. What is complete is kept" in err


def start(*args, **env):
  return subprocess.Popen(
    [sys.executable, "-m", "synthjax.weights", *args],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", **env},
    stderr=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )


@pytest.mark.faults
def test_ctrl_c_ends_a_waiting_fetch_cleanly(tmp_path):
  """From the real catalogue and a mirror that never answers."""
  with socket.create_server(("127.0.0.1", 0)) as silent:
    port = silent.getsockname()[1]
    process = start(
      "fetch",
      "glide",
      SYNTHJAX_CACHE=str(tmp_path),
      SYNTHJAX_MIRROR=f"http://127.0.0.1:{port}",
    )
    connection, _ = silent.accept()
    connection.recv(1)  # it has asked, and waits
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=30)[1]
    connection.close()
  assert process.returncode == 130
  assert "interrupted" in err and "Traceback" not in err


@pytest.mark.faults
def test_without_a_network_the_message_is_clear_and_soon(tmp_path):
  with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{closed.getsockname()[1]}"
  began = time.monotonic()
  process = start(
    "fetch", "glide", SYNTHJAX_CACHE=str(tmp_path), SYNTHJAX_MIRROR=url
  )
  err = process.communicate(timeout=60)[1]
  assert time.monotonic() - began < 30
  assert process.returncode == 2 and "Traceback" not in err
  assert f"{url}/glide/base.pt cannot be fetched" in err
  assert "`python -m synthjax.weights convert NAME FILE`" in err


def test_user_errors_are_what_the_command_raises():
  with pytest.raises(UserError, match="no command"):
    weights.run("frobnicate", [], None)


def test_a_reader_that_has_enough_ends_the_list_quietly():
  done = subprocess.run(
    f"{sys.executable} -m synthjax.weights list | head -1",
    shell=True,
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.stdout.startswith("name") and not done.stderr
