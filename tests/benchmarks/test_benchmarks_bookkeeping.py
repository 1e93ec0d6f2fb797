"""The benchmark of plans and shards, with few of them."""

import json

import pytest

from benchmarks import bookkeeping


@pytest.mark.slow
def test_a_small_run_gives_every_row(tmp_path, capsys):
  file = tmp_path / "rows.json"
  bookkeeping.main(["--sizes", "20x4000", "--json", str(file)])
  rows = json.loads(file.read_text())
  assert len(rows) == 7 + 3 * len(bookkeeping.AFTER)
  assert all(row["ours"] > 0 for row in rows)
  [startup] = [r for r in rows if r["name"].endswith("with half of it there")]
  assert startup["unit"] == "s" and startup["ours"] < 10
  assert "peak memory" in capsys.readouterr().out
