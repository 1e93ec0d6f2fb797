"""The accuracies of finetuned networks: means, pairs and tables."""

import numpy as np
import pytest

from synthjax.training import finetune
from synthjax.training.finetune import Run


def test_the_rate_is_chosen_by_the_mean_on_validation_images():
  runs_of = {
    (init, 4, lr): [Run(init, 4, lr, seed) for seed in (0, 1)]
    for init in ("random", "pretrained")
    for lr in (0.1, 0.2)
  }
  validation = dict.fromkeys(
    (run for same in runs_of.values() for run in same), 0.5
  )
  validation[Run("random", 4, 0.1, 0)] = 0.9  # but 0.1 with the other seed
  validation[Run("random", 4, 0.1, 1)] = 0.0
  validation[Run("pretrained", 4, 0.2, 1)] = 0.6
  chosen = finetune.choose(runs_of, validation)
  assert {(run.init, run.lr) for run in chosen} == {
    ("random", 0.2),
    ("pretrained", 0.2),
  }


def test_pairs_share_their_seed():
  tested = {
    Run("random", 4, 0.1, 0): 0.2,
    Run("random", 4, 0.1, 1): 0.6,
    Run("pretrained", 4, 0.1, 0): 0.3,
    Run("pretrained", 4, 0.1, 1): 0.7,
  }
  results = finetune.summarize(tested, {})
  [difference] = results["differences"]
  assert difference["mean"] == pytest.approx(0.1)
  assert difference["stderr"] == pytest.approx(0, abs=1e-9)
  spread = [row["std"] for row in results["summary"]]
  np.testing.assert_allclose(spread, 0.2 * np.sqrt(2))
  lines = finetune.table(results).splitlines()
  assert lines[0].split()[:3] == ["random", "4", "shots:"]
  assert "+10.0 points" in lines[2]
