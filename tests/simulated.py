"""Scripts that tests run on simulated devices, in one process or in several."""

import os
import pathlib
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable

TESTS = pathlib.Path(__file__).parent


def environment(devices: int, **more: str) -> dict[str, str]:
  """Returns the environment of a process with so many devices of the CPU."""
  return os.environ | {
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    "JAX_PLATFORMS": "cpu",
    # Modules of the tests, and this version of the package, can be imported.
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    **more,
  }


def start(
  script: str,
  *arguments: object,
  devices: int = 1,
  stdin: int | None = None,
  **more: str,
) -> subprocess.Popen:
  """Starts Python on a script; `finish` waits for it.

  Args:
    script: the text.
    *arguments: of its sys.argv.
    devices: simulated ones.
    stdin: as of `subprocess.Popen`.
    **more: variables of its environment.
  """
  return subprocess.Popen(
    [sys.executable, "-c", script, *map(str, arguments)],
    env=environment(devices, **more),
    stdin=stdin,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_joined(
  script: str, *arguments: object, count: int = 2, devices: int = 1
) -> list[subprocess.Popen]:
  """Starts a script in several processes, which find each other.

  It begins with `processes.join()`.
  """
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  return [
    start(
      script,
      *arguments,
      devices=devices,
      JAX_COORDINATOR_ADDRESS=address,
      JAX_NUM_PROCESSES=str(count),
      JAX_PROCESS_ID=str(index),
    )
    for index in range(count)
  ]


def fork(run: Callable[[], None], log: pathlib.Path) -> int:
  """Forks a process that runs a function, and returns its number.

  It starts at once, as this one has imported everything. Its exit code is 1
  after an exception.

  Args:
    run: without arguments.
    log: gets what it prints, at the end.
  """
  if process := os.fork():
    return process
  code = 1
  try:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    run()
    code = 0
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    os._exit(code)


def finish(*started: subprocess.Popen, code: int = 0) -> str:
  """Returns the last line that the first process prints, once all have ended.

  Where one of them does not end with the exit code, none is left running.
  """
  printed = []
  try:
    for process in started:
      out, err = process.communicate(timeout=500)
      assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
      printed.append((out.splitlines() or [""])[-1])
  finally:
    for process in started:
      process.kill()
  return printed[0]
