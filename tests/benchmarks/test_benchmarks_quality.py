"""The benchmark of quality measures, with few features."""

import json

import numpy as np
import pytest

from benchmarks import quality
from synthjax.evals import image_quality
from synthjax.evals.image_quality import compare_manifolds


def test_a_small_run_gives_every_row(tmp_path, capsys):
  pytest.importorskip("torch")
  file = tmp_path / "rows.json"
  quality.main(["--images=300", "--features=8", f"--json={file}"])
  rows = json.loads(file.read_text())
  assert len(rows) == 3 and all(row["ours"] > 0 for row in rows)
  assert all(row["ratio"] > 0 for row in rows)
  assert "precision, recall" in capsys.readouterr().out


def test_both_sides_compute_the_same():
  pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  x, y = (rng.normal(size=(300, 8)).astype(np.float32) for _ in range(2))
  found = image_quality.frechet_distance(x, y)
  np.testing.assert_allclose(found, quality._frechet(x, y), rtol=1e-4)
  found = compare_manifolds(x, y, k=3)[:2]
  np.testing.assert_allclose(found, quality._precision_recall(x, y), rtol=1e-6)
