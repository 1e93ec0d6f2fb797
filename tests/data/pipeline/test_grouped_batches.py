"""Batches that hold several images of each prompt: order, ends and shares."""

import jax
import numpy as np
import pytest
from shaken_rows import shake

from synthjax.data.pipeline import loader as pipeline
from synthjax.runtime.errors import UserError

# Of 30 rows, group 0 has 9, 1 has 7, 2 has 5, 3 has 4, 4 has 3 and 5 has 2.
GROUPS = np.random.default_rng(0).permutation(
  np.repeat(range(6), (9, 7, 5, 4, 3, 2))
)
SOURCE = [{"x": np.float32([i, 0])} for i in range(30)]


def rows_of(count, first=0, **changes):
  """Returns the rows of so many batches, [count, batch]."""
  arguments = dict(batch_size=8, seed=1, repeats=4, groups=GROUPS) | changes
  batches = pipeline.train_batches(SOURCE, [], **arguments).start_at(first)
  return np.stack([next(batches)["x"][:, 0] for _ in range(count)]).astype(int)


def test_a_batch_holds_so_many_images_of_different_groups():
  rows = rows_of(12).reshape(12, 2, 4)  # four epochs of 3 batches
  groups = GROUPS[rows]
  np.testing.assert_array_equal(groups, groups[..., :1].repeat(4, -1))
  for epoch in groups[..., 0].reshape(4, 6):
    assert sorted(epoch) == [*range(6)]  # each group once
  for taken, group in zip(
    rows.reshape(-1, 4), groups[..., 0].flat, strict=True
  ):
    # All different, where a group has as many; otherwise each of its images.
    assert len({*taken}) == min(4, (GROUPS == group).sum())


def test_epochs_draw_anew_from_large_groups():
  rows = rows_of(30)
  assert len(np.unique(rows)) == 30
  epochs = rows.reshape(10, 24)
  assert len({tuple(epoch) for epoch in epochs}) == 10


def test_a_batch_has_no_group_twice_where_epochs_meet():
  """Of 6 groups, an epoch has 4 in one batch, and the other two wait."""
  groups = GROUPS[rows_of(6, batch_size=16)][:, ::4]
  assert all(len({*batch}) == 4 for batch in groups)


def test_batches_from_any_of_them_on_are_the_same():
  np.testing.assert_array_equal(rows_of(4, first=5), rows_of(9)[5:])


def test_processes_share_the_batches_of_one_process(monkeypatch):
  def shares(count):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    found = []
    for rank in range(count):
      monkeypatch.setattr(jax, "process_index", lambda rank=rank: rank)
      batches = iter(
        pipeline.train_batches(
          SOURCE, [shake], batch_size=8, seed=1, repeats=4, groups=GROUPS
        )
      )
      found.append([next(batches)["x"] for _ in range(4)])
    return np.concatenate(found, axis=1)

  np.testing.assert_array_equal(shares(4), shares(1))


def test_a_repeated_image_is_transformed_differently():
  source = [{"x": np.float32([i, 0])} for i in (0, 100)]
  batches = pipeline.train_batches(
    source, [shake], batch_size=4, seed=1, repeats=2, groups=np.arange(2)
  )
  x = next(iter(batches))["x"]
  assert (abs(x[::2, 0] - x[1::2, 0]) < 50).all()
  assert len({*x[:, 1].tolist()}) == 4


@pytest.mark.parametrize("batch_size", [6, 28])
def test_batches_that_groups_do_not_fill_are_refused(batch_size):
  with pytest.raises(UserError, match="multiple of 4, and at most 24"):
    rows_of(1, batch_size=batch_size)
