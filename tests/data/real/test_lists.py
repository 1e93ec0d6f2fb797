"""Lists in publishers' archives that are not as published are one message."""

import numpy as np
import pytest
import scipy.io

from synthjax.data.real import archives
from synthjax.runtime.errors import UserError

CLASSES = {"dog": 0, "cat": 1}


@pytest.mark.faults
@pytest.mark.parametrize(
  ("images", "splits", "words"),
  [
    ("1 dog/a.jpg\n2\n", "1 0\n", r"images.txt: \['2'\] is not a number and"),
    ("1 dog/a.jpg\n", "1\n", "test_split.txt: .* is not a number, and 0 or 1"),
    ("1 dog/a.jpg\n2 cat/b.jpg\n", "1 0\n", "split.txt lacks cat/b.jpg"),
  ],
)
def test_odd_lists_of_cub_are_named(tmp_path, images, splits, words):
  (tmp_path / "images.txt").write_text(images)
  (tmp_path / "train_test_split.txt").write_text(splits)
  with pytest.raises(UserError, match=words):
    archives.cub(tmp_path, "test", CLASSES)


@pytest.mark.faults
@pytest.mark.parametrize(
  ("labels", "ids", "words"),
  [
    ([1, 103], [1, 2], "labels must be whole numbers from 1 to 102"),
    ([1, 2], [0, 1], "setid.mat .*tstid must be whole numbers from 1 to 2"),
    ([1, 2], [1.5], "tstid must be whole"),
    ([1, 2], [], "setid.mat cannot be read"),
  ],
)
def test_numbers_of_flowers_that_cannot_be_are_named(
  tmp_path, labels, ids, words
):
  """Zero would count from the end."""
  scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": labels})
  path = tmp_path / "setid.mat"
  scipy.io.savemat(path, {"tstid": ids}, do_compression=True)
  if not ids:  # an empty file, about which SciPy has an error of its own
    path.write_bytes(b"")
  with pytest.raises(UserError, match=words):
    archives.flowers(tmp_path, "test", CLASSES)


@pytest.mark.faults
def test_classes_of_cars_that_cannot_be_are_named(tmp_path):
  (tmp_path / "devkit").mkdir()
  names = np.array([["dog", "cat"]], object)
  scipy.io.savemat(
    tmp_path / "devkit" / "cars_meta.mat", {"class_names": names}
  )
  path = tmp_path / "devkit" / "cars_train_annos.mat"
  for fields, words in (
    ([("class", "O"), ("fname", "O")], r"'1.jpg', 0\) has none of the 2"),
    ([("class", "O"), ("name", "O")], "cars_train_annos.mat cannot be read"),
  ):
    rows = np.array([[(0, "1.jpg"), (2, "2.jpg")]], fields)
    scipy.io.savemat(path, {"annotations": rows})
    with pytest.raises(UserError, match=words):
      archives.cars(tmp_path, "train", CLASSES)
