"""Detections in VOC's text files."""

import numpy as np
import pytest
from detection.test_voc_ap import BOX, found

from synthjax.detection import voc_results
from synthjax.runtime.errors import UserError


def test_files_are_those_of_voc(tmp_path):
  detections = {
    "000001": found((BOX, 0.98765, 1), ((9.04, 9.0, 20.06, 21.0), 0.5, 0)),
    "000002": found((BOX, 0.1, 1)),
  }
  names = voc_results.write(tmp_path, detections, ["cat", "dog", "sofa"])
  assert names == [f"comp4_det_test_{c}.txt" for c in ("cat", "dog", "sofa")]
  texts = [(tmp_path / name).read_text() for name in names]
  assert texts == [
    "000001 0.500 10.0 10.0 20.1 21.0\n",
    "000001 0.988 11.0 11.0 30.0 30.0\n000002 0.100 11.0 11.0 30.0 30.0\n",
    "",
  ]


def test_what_was_written_is_read_back(tmp_path):
  flat = (5.0, 5.0, 5.0, 9.0)  # no width: nothing that a reader may refuse
  detections = {"b": found((BOX, 0.9, 1), (flat, 0.5, 0)), "a": found()}
  voc_results.write(tmp_path, detections, ["cat", "dog"])
  a, b = voc_results.read(tmp_path, ["cat", "dog"], ["a", "b"])
  assert len(a.labels) == 0 and a.boxes.shape == (0, 4)
  np.testing.assert_allclose(b.boxes, [flat, BOX])
  assert b.scores.tolist() == [0.5, 0.9] and b.labels.tolist() == [0, 1]


@pytest.mark.faults
@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("a 0.5 1 2 3", "found 5 columns of 6"),
    ("a 0.5 1 2 3 x4", "'x4' in place of a number"),
    ("a nan 1 2 3 4", "'nan' in place of a number"),
    ("c 0.5 1 2 3 4", "the unknown image 'c'"),
    ("", "found 0 columns"),
    ("\xff\x00", "found 1 columns"),
  ],
)
def test_a_garbled_line_is_named(tmp_path, line, message):
  path = tmp_path / "comp4_det_test_cat.txt"
  path.write_bytes(f"a 0.5 1.0 2.0 3.0 4.0\n{line}\n".encode("latin1"))
  with pytest.raises(UserError, match=message) as error:
    voc_results.read(tmp_path, ["cat"], ["a", "b"])
  assert f"{path}, line 2: " in str(error.value)


@pytest.mark.faults
def test_all_bad_lines_and_a_cut_end_are_named(tmp_path):
  path = tmp_path / "comp4_det_test_cat.txt"
  path.write_text("a 0.5\n" * 12 + "a 0.5 1.0 2.0 3.0 4")
  with pytest.raises(UserError, match="line 10: .*\n.*and 3 more"):
    voc_results.read(tmp_path, ["cat"], ["a"])
  path.write_text("a 0.5 1.0 2.0 30.0 40.0\na 0.5 1.0 2.0 30.0 4")
  with pytest.raises(UserError, match="line 2: it has no end of line"):
    voc_results.read(tmp_path, ["cat"], ["a"])
  with pytest.raises(UserError, match="lacks comp4_det_test_dog.txt, comp4"):
    voc_results.read(tmp_path, ["cat", "dog", "cow"], ["a"])


def test_names_with_spaces_are_not_written(tmp_path):
  with pytest.raises(UserError, match="must be one word"):
    voc_results.write(tmp_path, {"an image": found()}, ["cat"])
