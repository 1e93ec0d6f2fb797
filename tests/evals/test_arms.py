"""Arms side by side: what is summarised of them, and how it is laid out."""

import numpy as np
import pytest

from synthjax.evals import accuracy, arms


def logits_of(predictions):
  """Stands in for a model: it predicts what it is."""
  return lambda features: np.eye(3)[predictions[features]]


SPLITS = {
  "test": (np.arange(4), np.array([0, 1, 2, 0])),
  "other": (np.arange(2), np.array([1, 1])),
}


def compare(splits, **options):
  """Zero-shot says 0; "a" is right on "test"; "b" says 1 and then 2."""
  models = {
    "a": np.array([0, 1, 2, 0]),
    "b0": np.full(4, 1),
    "b1": np.full(4, 2),
  }
  runs = [
    ({"arm": "a", "seed": 0}, models["a"]),
    ({"arm": "b", "seed": 0}, models["b0"]),
    ({"arm": "b", "seed": 1}, models["b1"]),
  ]
  predict = lambda model, features: logits_of(model)(features)
  return arms.compare(predict, np.zeros(4, int), runs, splits, 3, **options)


def test_every_model_is_measured_on_every_split():
  found = compare(SPLITS)
  assert found["num_real"] == {"test": 4, "other": 2}
  assert found["zero_shot"] == {"test": 0.5, "other": 0.0}
  assert [row["accuracy"] for row in found["rows"]] == [
    {"test": 1.0, "other": 0.5},
    {"test": 0.25, "other": 1.0},
    {"test": 0.25, "other": 0.0},
  ]
  assert [row["seed"] for row in found["rows"]] == [0, 0, 1]


def test_confusions_are_of_zero_shot_and_the_seeds_of_the_last_arm():
  confusion = compare(SPLITS)["confusion"]
  assert confusion.keys() == {"test"}
  assert confusion["test"]["zero_shot"] == [[2, 0, 0], [1, 0, 0], [1, 0, 0]]
  assert confusion["test"]["b"] == [[0, 2, 2], [0, 1, 1], [0, 1, 1]]


def test_confusions_are_of_the_arm_that_stands_for_all():
  """The one that a task names, or else the best on validation."""
  named = compare(SPLITS, headline="a")["confusion"]["test"]
  assert named.keys() == {"zero_shot", "a"}
  assert named["a"] == [[2, 0, 0], [0, 1, 0], [0, 0, 1]]
  validated = compare(SPLITS | {"validation": SPLITS["test"]})["confusion"]
  assert validated["test"].keys() == {"zero_shot", "a"}


@pytest.mark.parametrize("splits", [{}, {"other": SPLITS["other"]}])
def test_there_may_be_no_test_split(splits):
  found = compare(splits)
  assert found["confusion"] == {}
  assert found["zero_shot"].keys() == found["num_real"].keys() == splits.keys()
  assert len(found["summary"]) == 2 * len(splits)
  table = arms.table(found)
  assert ("gain on other" in table) == bool(splits)
  assert ("no real images were given" in table) == (not splits)


def test_the_interval_is_students():
  rows = [{"arm": "a", "accuracy": {"test": x}} for x in (0.5, 0.6, 0.7)]
  (row,) = arms.summarize(rows, {"test": 0.4})
  # t(2) at 97.5 % is 4.3027; the standard error is 0.1 / sqrt(3).
  half = 4.302653 * 0.1 / 3**0.5
  assert (row["low"], row["high"]) == (
    pytest.approx(0.6 - half),
    pytest.approx(0.6 + half),
  )
  own = accuracy.summarize([0.5, 0.6, 0.7])
  assert (row["mean"], row["std"], row["n"]) == (own.mean, own.std, own.n)
  assert row["gain"] == pytest.approx(0.2)


def test_few_shot_tables_have_a_column_for_each_number_of_shots():
  rows = [
    {"arm": arms.label(name, shots), "accuracy": {"test": x}}
    for name, shots, x in (
      ("CT", 1, 0.5),
      ("CT", 1, 0.7),
      ("CT", 16, 0.8),
      ("CoOp", 1, 0.25),
      ("CoOp", 16, 1.0),
    )
  ]
  zero_shot = {"test": 0.4, "other": 0.1}
  for row in rows:
    row["accuracy"]["other"] = 0.0
  results = {
    "zero_shot": zero_shot,
    "methods": ["CT", "CoOp"],
    "shots": [1, 16],
    "summary": arms.summarize(rows, zero_shot),
  }
  lines = [line.split() for line in arms.shots_table(results).splitlines()]
  assert lines == [
    ["top-1,", "%", "1", "shots", "16", "shots"],
    ["zero-shot", "40.00"],
    ["CT", "60.00", "±", "14.14", "80.00"],
    ["CoOp", "25.00", "100.00"],
  ]
  other = arms.shots_table(results, split="other").splitlines()
  assert other[1].split() == ["zero-shot", "10.00"]


def test_the_table_is_aligned_and_in_percent():
  zero_shot = {"validation": 0.5, "test": 0.25}
  rows = [
    {"arm": "LE+CF SCE", "accuracy": {"validation": v, "test": t}}
    for v, t in ((0.6, 0.30), (0.8, 0.34))
  ]
  results = {
    "num_real": {"validation": 40, "test": 1234},
    "zero_shot": zero_shot,
    "summary": arms.summarize(rows, zero_shot),
  }
  lines = arms.table(results).splitlines()
  assert lines[0].split() == [
    *("top-1,", "%", "validation", "(40)", "test", "(1,234)"),
    *("gain", "on", "test"),
  ]
  assert lines[1].split() == ["zero-shot", "50.00", "25.00"]
  assert lines[2].split("  ", 1)[0] == "LE+CF SCE"
  assert (
    lines[2].split()[2:] == "70.00 ± 14.14 32.00 ± 2.83 +7.00 ± 2.00".split()
  )
  assert lines[1].index("25.00") + 5 == lines[0].index("(1,234)") + 7


def test_one_seed_has_no_spread():
  rows = [{"arm": "a", "accuracy": {"test": 0.5}}]
  (summary,) = arms.summarize(rows, {"test": 0.4})
  assert summary["std"] is None and summary["gain"] == pytest.approx(0.1)
  results = {"num_real": {"test": 1}, "zero_shot": {"test": 0.4}}
  table = arms.table(results | {"summary": [summary]})
  assert table.splitlines()[2].split() == ["a", "50.00", "+10.00"]
