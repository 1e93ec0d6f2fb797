"""At full size every config starts, or says at once all that is missing.

Arguments and their choices are read from what a config refuses, so that a new
one is tried as well.
"""

import functools
import itertools
import pathlib
import re

import pytest

from synthjax import main
from synthjax.data.real.paper_datasets import BENCHMARKS
from synthjax.runtime.errors import UserError
from synthjax.tasks import detect, pretrain, transfer

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("[!_]*.py"))
# All that a message may ask for: nothing of the config itself is wrong.
MISSING = re.compile(
  r"`python -m synthjax\.weights fetch \w+` fetches it"
  r"|`python -m synthjax\.datasets fetch \w+"
  r"|^TFDS has prepared no [\w/]+ in "
  r"|hf://[\w./-]+ cannot be fetched, as the hub cannot be reached"
  r"|^Task 'pretrain' has not been completed"
  r"|^config\.tune_generator: the method 'bob' has attributes: give the file of"
)
# What it may say of arguments that cannot go together.
CONTRADICTION = re.compile(
  r"^There is no backbone of table=\w+, 'vit'"
  r"|^There is no amount of images of \w+, '[\d.]+M'"
  r"|^There is no split of \w+ \(official\), 'train'"
  r"|has no `ensemble` of templates\. Leave \+ensemble out"
  r"|has \d+ classes, but the label space '\w+' has \d+: choose '\w+'"
)
EMBEDDED = ("emoji10", "emoji16")


def allowed(name, arg):
  """Returns what a config lists where it refuses an argument."""
  try:
    main.load_config(f"{ROOT / 'configs' / name}:{arg}")
  except UserError as error:
    if listed := re.search(r"Allowed: (.*)\.", str(error)):
      return listed[1].split(", ")
  return []


@functools.cache
def choices(name):
  """Returns the values of each argument that has a few."""
  names = [n for n in allowed(name, "no_argument=1") if n != "runlocal"]
  found = {n: allowed(name, f"{n}=no_choice") for n in names}
  if "space" in names and not found["space"]:
    of_the_paper = [*BENCHMARKS, "eurosat_released", "eurosat_clip"]
    found["space"] = EMBEDDED if name == "quickstart.py" else of_the_paper
  return {n: values for n, values in found.items() if values}


def one_at_a_time(name):
  return ["", *(f"{n}={v}" for n, vs in choices(name).items() for v in vs)]


def any_two(name):
  """Returns arguments such that any two choices are together in one of them."""
  lists = [[f"{n}={v}" for v in vs] for n, vs in choices(name).items()]
  found, together = [], set()
  for values in itertools.product(*lists):
    pairs = {*itertools.combinations(values, 2)} or {values}
    if not pairs <= together:
      together |= pairs
      found.append(",".join(values))
  return found


def problems_of(name, arg, workdir):
  """Returns what keeps a config from running, of all its tasks."""
  try:
    config = main.load_config(f"{ROOT / 'configs' / name}:{arg}")
    main.run_tasks(config, str(workdir))
  except UserError as error:
    assert not workdir.exists()  # nothing has begun
    return error.problems
  return ()


@pytest.fixture(autouse=True)
def nothing_fetched(tmp_path, monkeypatch):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.setattr(main, "_run_all", lambda *args: None)
  # Tracing takes seconds; tests of the tasks do it.
  for task in (detect, pretrain, transfer):
    monkeypatch.setattr(task, "lastly", lambda *args, **fields: None)


def check(name, args, tmp_path, *, right=(MISSING,)):
  wrong = {}
  for arg in args:
    found = problems_of(name, arg, tmp_path / f"work-{arg}")
    odd = [p for p in found if not any(each.search(p) for each in right)]
    if odd:
      wrong[f"{name}:{arg}"] = odd
  assert not wrong


def test_choices_are_found():
  assert {"3", "6"} <= {*choices("tune_encoder.py")["table"]}
  assert len(choices("zeroshot.py")["space"]) == 19
  assert "imagenet" in choices("fewshot.py")["space"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_starts_or_says_all_that_is_missing(name, tmp_path):
  args = one_at_a_time(name)
  if name != "zeroshot.py":  # whose spaces are those of the others
    args = [arg for arg in args if "space=" not in arg] + [
      f"space={space}"
      for space in ("pets", "imagenet")
      if space in choices(name).get("space", ())
    ]
  check(name, args, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_so_does_a_config_with_any_two_of_its_arguments(name, tmp_path):
  right = MISSING, CONTRADICTION
  check(name, any_two(name), tmp_path, right=right)


def test_weights_and_data_of_all_tasks_are_in_one_message(tmp_path):
  found = "\n".join(problems_of("fewshot.py", "space=pets", tmp_path / "work"))
  for weights in ("glide", "clip_rn50", "t5_common_gen"):
    assert f"synthjax.weights fetch {weights}`" in found
  for split in ("train", "validation", "test"):
    assert re.search(rf"pets \(coop, '{split}'\) is not there", found)
