"""Weights & Biases and MLflow beside TensorBoard, without a network."""

import pytest
from etils import epath

from synthjax.config import schema
from synthjax.runtime import specifications
from synthjax.runtime.errors import UserError
from synthjax.training import loggers
from synthjax.training.run import Loop


def run_of(workdir, first_step=0):
  return loggers.Run(epath.Path(workdir), "pretrain/x", first_step, {"lr": 0.1})


@pytest.fixture(
  params=[
    "tensorboard",
    pytest.param("mlflow", marks=pytest.mark.slow),
    pytest.param("wandb", marks=pytest.mark.slow),
  ]
)
def name(request, monkeypatch):
  if request.param != "tensorboard":
    pytest.importorskip(request.param)
  for variable in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT"):
    monkeypatch.delenv(variable, raising=False)
  monkeypatch.setenv("WANDB_MODE", "offline")
  return request.param


def test_a_logger_writes_below_the_workdir(name, tmp_path, capsys):
  with loggers.opened(name, run_of(tmp_path)) as logger:
    logger.text("parameters", "| w | 12 |")
    logger.write(1, {"loss": 1.0, "top1, test": 0.5})
    logger.write(2, {"loss": 0.5})
  written = {path.name for path in tmp_path.iterdir()}
  assert written & {"tensorboard", "mlflow.db", "wandb"}
  assert "Cannot log" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_stopped_run_goes_on_in_mlflow(tmp_path, monkeypatch):
  pytest.importorskip("mlflow")
  from mlflow.tracking import MlflowClient

  monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
  with (
    pytest.raises(SystemExit),
    loggers.opened("mlflow", run_of(tmp_path)) as logger,
  ):
    for step in (1, 2, 3):
      logger.write(step, {"loss": 1 / step})
    raise SystemExit(143)
  client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
  experiment = client.get_experiment_by_name("synthjax").experiment_id
  (run,) = client.search_runs([experiment])
  assert run.info.status == "KILLED"
  with loggers.opened("mlflow", run_of(tmp_path, first_step=2)) as logger:
    for step in (3, 4):
      logger.write(step, {"loss": 1 / step})
  (run,) = client.search_runs([experiment])
  assert run.info.status == "FINISHED" and run.data.params == {"lr": "0.1"}
  history = client.get_metric_history(run.info.run_id, "loss")
  assert {m.step: m.value for m in history} == {1: 1, 2: 0.5, 3: 1 / 3, 4: 0.25}


@pytest.mark.slow
def test_a_stopped_run_goes_on_in_wandb(tmp_path, monkeypatch):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  for first_step in (0, 1):
    with (
      pytest.raises(SystemExit),
      loggers.opened("wandb", run_of(tmp_path, first_step)) as logger,
    ):
      logger.write(first_step + 1, {"loss": 1.0})
      raise SystemExit(143)
  (file,) = (tmp_path / "log" / "wandb").iterdir()
  # An attempt without a network has a folder of its own, by time, id
  folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
  # and a number, of two in one second.
  assert {name.split("-")[3] for name in folders} == {file.read_text()}


@pytest.mark.faults
def test_a_logger_that_fails_is_said_once_and_others_go_on(
  tmp_path, monkeypatch, capsys
):
  def failing(run):
    def fail(*args):
      raise RuntimeError("no network")

    return loggers.Logger(fail, fail, fail)

  def recording(run):
    return loggers.Logger(
      lambda *row: written.append(row), print, lambda is_done: None
    )

  written = []
  monkeypatch.setitem(loggers.LOGGERS, "wandb", failing)
  monkeypatch.setitem(loggers.LOGGERS, "mlflow", recording)
  with loggers.opened("wandb, mlflow", run_of(tmp_path)) as logger:
    for step in (1, 2):
      logger.write(step, {"loss": 1.0})
  (line,) = capsys.readouterr().err.splitlines()
  assert "Cannot log pretrain/x to wandb: RuntimeError: no network" in line
  assert [step for step, _ in written] == [1, 2]


@pytest.mark.parametrize("names", ["tensorboard", ("tensorboard",), (), ""])
def test_loggers_are_chosen_by_a_field(names):
  fields = schema.read(Loop, {"loggers": names}, "config.pretrain")
  assert fields.loggers == names


def test_loggers_that_are_not_there_are_refused(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  for names in ("tensorbord", ("tensorboard", "wandb")):
    with pytest.raises(UserError, match=r'pip install "synthjax\[wandb\]"'):
      schema.read(Loop, {"loggers": names}, "config.pretrain")


def test_a_folder_of_runs_is_no_package(tmp_path, monkeypatch):
  (tmp_path / "some_runs").mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  assert not loggers._is_installed("some_runs")
  assert loggers._is_installed("pytest")


def test_loggers_are_no_part_of_a_specification():
  spec = {"pretrain": {"lr": 0.1, "loggers": "wandb"}}
  assert specifications.of_the_result(spec) == {"pretrain": {"lr": 0.1}}
