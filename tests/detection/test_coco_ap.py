"""COCO's average precision, by its own code."""

import sys

import numpy as np
import pytest
from detection.test_voc_ap import BOX, ELSEWHERE, detected, objects, shifted

from synthjax.detection.coco_precision import average_precision
from synthjax.runtime.errors import UserError


def test_cocos_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
  with pytest.raises(UserError, match="pip install pycocotools"):
    average_precision([detected()], [objects(BOX)], 1)


def test_cocos_counts_by_its_own_rules():
  pytest.importorskip("pycocotools")
  of = lambda *args: average_precision(*args, 1)
  measured = of([detected((BOX, 0.9))], [objects(BOX)])
  assert [measured[k] for k in ("AP", "AP50", "AP75")] == pytest.approx([1] * 3)
  assert measured["AP_small"] == pytest.approx(1)
  assert np.isnan(measured["AP_large"])
  # 16 / 24 of the union: right up to .65, at four of ten thresholds.
  measured = of([detected((shifted(4), 0.9))], [objects(BOX)])
  assert measured["AP"] == pytest.approx(0.4)
  # It takes the free object, where VOC looks at the best alone.
  rows = [detected((BOX, 0.9), (shifted(1), 0.8))]
  assert of(rows, [objects(BOX, shifted(5))])["AP50"] == pytest.approx(1)
  hard = objects(BOX, ELSEWHERE, difficult=[True, False])
  assert of([detected((BOX, 0.9), (ELSEWHERE, 0.7))], [hard])[
    "AP50"
  ] == pytest.approx(1)
  assert of([detected()], [objects(BOX)])["AP"] == 0
