"""The CLIP filter, counted by hand."""

import numpy as np
import pytest
import tiny_world
from pyarrow import parquet

from synthjax.data.generated import filters, plan, scores
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import score, select

NAMES = ("cat", "dog")


def scores_of(p_own, *, strategy="basic", seed=0, labels=None):
  """Makes scores of 2 classes; half of the images are of each by default."""
  n = len(p_own)
  labels = np.repeat([0, 1], [n - n // 2, n // 2]) if labels is None else labels
  ids = [f"{strategy}-{label}-0-s{seed}-{i}" for i, label in enumerate(labels)]
  return scores.Scores(
    np.array(ids),
    np.array(labels, np.int32),
    np.zeros((n, 4), np.float16),
    np.zeros((n, 2), np.float16),
    np.array(p_own, np.float32),
  )


def choose(found, max_per_class, seed=0, names=NAMES):
  return filters.select(
    found, class_names=names, max_per_class=max_per_class, seed=seed
  )


def test_an_image_passes_strictly_above_one_over_n():
  found = scores_of([0.5, 0.5001, 0.4999, 0.9, 0.7, 0.6])
  chosen = choose(found, 1)
  # Class 0 has one image above 1/2, and 1/2 itself is not above it.
  assert chosen.reasons.tolist()[:3] == ["below 1/N", "kept", "below 1/N"]
  assert chosen.kept.tolist()[:3] == [False, True, False]


@pytest.mark.parametrize("n", [3, 7, 10, 1000])
def test_an_even_guess_does_not_pass(n):
  """1/n is no binary fraction: float32 may lie above the true value."""
  texts = scores.Texts(np.ones((n, 1, 4)), 100.0)
  made = scores.make_scores(
    [f"basic-{i}-0-s0-0" for i in range(n)], range(n), np.ones((n, 4)), texts
  )
  chosen = choose(made, 1, names=[str(i) for i in range(n)])
  assert set(chosen.reasons) == {"filled"}


def test_a_smaller_drawing_is_found_in_a_larger_one():
  """Its images, and what the filter would have kept of them."""
  rows = {}
  for size in (5, 12):
    blocks = [
      plan.Block(
        size,
        3,
        lambda prompt, number, label=label: plan.Row(
          str(plan.ImageId("basic", label, prompt, 0, number)),
          label,
          "",
          "",
          0,
          number,
        ),
      )
      for label in range(2)
    ]
    rows[size] = list(plan.rows_of(blocks))
  labels = [row.label for row in rows[12]]
  p_own = np.random.default_rng(0).uniform(size=24)
  found = scores_of(p_own, labels=labels)
  found = found._replace(ids=np.array([row.id for row in rows[12]]))
  drawn = filters.in_smaller_drawing(found.ids, 5)
  small = [row.id for row in rows[5]]
  assert found.ids[drawn].tolist() == small
  of_small = scores.Scores(*(column[drawn] for column in found))
  kept = filters.keep_among(found, drawn, lambda offered: choose(offered, 2))
  assert kept[drawn].tolist() == choose(of_small, 2).kept.tolist()
  assert kept.sum() == 4 and not kept[~drawn].any()


def test_the_best_fill_up_when_too_few_pass():
  found = scores_of([0.1, 0.9, 0.3, 0.2] + [0.8, 0.7, 0.9, 0.6])
  chosen = choose(found, 3)
  assert chosen.reasons.tolist()[:4] == [
    "below 1/N",
    "kept",
    "filled",
    "filled",
  ]
  # All four of class 1 pass: three of them stay.
  assert sorted(chosen.reasons.tolist()[4:]) == ["kept"] * 3 + ["over the cap"]


def test_over_the_cap_the_choice_is_random_and_not_by_score():
  p_own = np.linspace(0.6, 0.9, 60)
  found = scores_of(np.concatenate([p_own, p_own]))
  chosen = [choose(found, 20, seed=seed) for seed in range(20)]
  for each in chosen:
    assert each.kept[:60].sum() == each.kept[60:].sum() == 20
  assert not np.array_equal(chosen[0].kept, chosen[1].kept)
  np.testing.assert_array_equal(chosen[0].kept, choose(found, 20).kept)
  # Over 20 seeds, as many come from the lower half as from the upper.
  share = np.mean([each.kept[:30].sum() / 20 for each in chosen])
  assert 0.4 < share < 0.6


def test_the_choice_does_not_depend_on_the_order_of_rows():
  found = scores_of(np.linspace(0.55, 0.95, 40))
  order = np.random.default_rng(0).permutation(40)
  mixed = scores.Scores(*(column[order] for column in found))
  np.testing.assert_array_equal(
    choose(found, 7).reasons[order], choose(mixed, 7).reasons
  )


def test_all_are_kept_where_there_are_not_enough():
  chosen = choose(scores_of([0.1, 0.9, 0.2, 0.8]), 5)
  assert chosen.reasons.tolist() == ["filled", "kept", "filled", "kept"]


def test_a_share_is_of_the_images_of_each_class():
  """0.4 of ceil(n / 0.4) images is n, for any n; a class may have none."""
  for n in range(1, 60):
    found = scores_of([0.9] * -(-5 * n // 2), labels=[0] * -(-5 * n // 2))
    chosen = filters.select(found, class_names=NAMES, share=0.4, seed=0)
    assert chosen.kept.sum() == n


def test_strategies_and_seeds_are_filtered_apart():
  groups = [("basic", 0), ("basic", 1), ("enhanced", 0)]
  parts = [
    scores_of([0.9, 0.8, 0.1] * 2, strategy=strategy, seed=seed)
    for strategy, seed in groups
  ]
  joined = scores.Scores(*map(np.concatenate, zip(*parts, strict=True)))
  chosen = choose(joined, 2)
  for i in range(3):
    kept = chosen.kept[6 * i : 6 * i + 6]
    assert kept.tolist() == [True, True, False] * 2


def test_a_class_without_images_is_named():
  found = scores_of([0.9, 0.8], labels=[0, 0])
  words = r"no image of 'dog' \(basic, seed 0\)\. W"
  with pytest.raises(UserError, match=words):
    choose(found, 1)


# --- the task ---------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
  """Leaves scores of 2 strategies x 2 seeds x 3 classes x 4 images."""
  workdir = tmp_path_factory.mktemp("select")
  tiny_world.write_images(
    workdir, strategies=("basic", "enhanced"), seeds=(0, 1), shard_size=20
  )
  config = tiny_world.make_config(
    workdir, score={}, select={"max_per_class": 2}
  )
  score.run(config, str(workdir))
  return workdir, config


def test_the_task_leaves_a_row_for_each_image(scored):
  workdir, config = scored
  select.check(config, str(workdir))
  select.run(config, str(workdir))
  path = workdir / "select" / "selection.parquet"
  rows = parquet.read_table(path).to_pylist()
  found = scores.read(workdir / "score")
  assert [row["id"] for row in rows] == found.ids.tolist()
  assert [row["p_own"] for row in rows] == pytest.approx(
    found.p_own.tolist(), rel=1e-5
  )
  assert sum(row["kept"] for row in rows) == 2 * 2 * 3 * 2
  assert {row["reason"] for row in rows if row["kept"]} <= {"kept", "filled"}
  np.testing.assert_array_equal(
    filters.read_kept(workdir / "select", workdir / "score", found.ids),
    [row["kept"] for row in rows],
  )
  summary = artifacts.load(workdir / "select")["summary"]
  assert summary["kept"]["basic"]["images"] == 24
  assert summary["kept"]["basic"]["kept"] == 12


@pytest.mark.parametrize(
  ("block", "words"),
  [
    ({"max_per_clas": 2}, "did you mean 'max_per_class'"),
    ({}, "lacks max_per_class and share"),
    ({"max_per_class": 2, "share": 0.5}, "has max_per_class and share"),
    ({"max_per_class": 0}, "1 or more"),
  ],
)
def test_check_refuses_bad_fields(scored, block, words):
  workdir, config = scored
  config = config.copy_and_resolve_references()
  config.select = block
  with pytest.raises(UserError, match=words):
    select.check(config, str(workdir))


def test_scores_of_other_images_are_refused(tmp_path):
  tiny_world.write_images(tmp_path)
  config = tiny_world.make_config(
    tmp_path, score={}, select={"max_per_class": 2}
  )
  score.run(config, str(tmp_path))
  (tmp_path / "generate").rename(tmp_path / "before")
  tiny_world.write_images(tmp_path, salt=1)
  with pytest.raises(UserError, match="made with other images"):
    select.run(config, str(tmp_path))


def test_a_selection_by_other_scores_is_refused(tmp_path):
  tiny_world.write_images(tmp_path)
  config = tiny_world.make_config(
    tmp_path, score={}, select={"max_per_class": 2}
  )
  score.run(config, str(tmp_path))
  select.run(config, str(tmp_path))
  (tmp_path / "score").rename(tmp_path / "before")
  config.encoder.weights = tiny_world.write_clip(
    tmp_path / "other.safetensors", seed=1
  )
  score.run(config, str(tmp_path))
  found = scores.read(tmp_path / "score")
  with pytest.raises(UserError, match="made by other scores"):
    filters.read_kept(tmp_path / "select", tmp_path / "score", found.ids)


@pytest.mark.faults
def test_an_edited_selection_is_refused(scored, tmp_path):
  workdir, config = scored
  select.run(config, str(workdir))
  path = workdir / "select" / "selection.parquet"
  content = path.read_bytes()
  path.write_bytes(content.replace(b"filled", b"kept  ", 1))
  found = scores.read(workdir / "score")
  try:
    with pytest.raises(UserError, match="content has changed"):
      filters.read_kept(workdir / "select", workdir / "score", found.ids)
  finally:
    path.write_bytes(content)
