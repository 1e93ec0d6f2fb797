"""Fixtures of the tests of the report in a browser: pages, and a tab."""

import importlib.util

import pytest
from browser import open_browser
from made_up_run import (
  MAKERS,
  METHODS,
  make_config,
  make_detect,
  make_encoder,
  make_few_shot,
  make_workdir,
  write,
)

from synthjax import main
from synthjax.report import paper_comparison


@pytest.fixture(scope="session")
def made_up(tmp_path_factory):
  """Writes a page of all tasks that classify or detect."""
  workdir = make_workdir(tmp_path_factory.mktemp("made_up"), MAKERS)
  make_few_shot(workdir / "few_shot", [*METHODS, "RF", "CoOp"])
  make_encoder(workdir / "tune_encoder")
  make_detect(workdir / "detect")
  write(workdir, make_config(paper=tuple(paper_comparison.keys())))
  return workdir / "report"


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
  """Runs the quick start with 64 images and one seed, and exports them."""
  workdir = tmp_path_factory.mktemp("quickstart")
  config = main.load_config("configs/quickstart.py:images_per_class=4")
  config.generate.seeds = config.tune.seeds = (0,)
  config.tasks = (*config.tasks[:-1], "export", "report")
  formats = ["webdataset", "png_folder"]
  if importlib.util.find_spec("pyarrow"):
    formats.append("parquet")
  config.export = dict(formats=formats)
  config.report.paper = ("table1",)
  config.report.price_per_device_hour = 2.5
  main.run_tasks(config, str(workdir))
  return workdir / "report"


@pytest.fixture(scope="session", params=["made_up", "quickstart"])
def folder(request):
  return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def chromium():
  with open_browser() as tab:
    yield tab


@pytest.fixture
def tab(chromium):
  chromium.resize(1280, 900)
  chromium.prefer()
  return chromium


@pytest.fixture
def page(tab, folder):
  tab.open(folder / "report.html")
  return tab


@pytest.fixture
def made_up_page(tab, made_up):
  tab.open(made_up / "report.html")
  return tab
