"""A user's images with boxes are opened however they lie in a folder."""

import json

import numpy as np
import pytest
from PIL import Image

from synthjax.detection import detector, scenes, sources
from synthjax.detection.voc_files import Detections
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

SPACE = spaces.parse_space(["fish", "boat"], where="here")
SHARES = {"test": 0.25}


def save(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (8, 6)).save(path)


def coco(root, names):
  """Writes an image for each name, with a box of it; none for an empty one."""
  known = sorted(filter(None, {*names}))
  for i in range(len(names)):
    save(root / "images" / f"{i}.jpg")
  content = {
    "images": [
      {"id": i, "file_name": f"{i}.jpg", "width": 8, "height": 6}
      for i in range(len(names))
    ],
    "annotations": [
      {"image_id": i, "category_id": known.index(n), "bbox": [1, 1, 4, 3]}
      for i, n in enumerate(names)
      if n
    ],
    "categories": [{"id": i, "name": n} for i, n in enumerate(known)],
  }
  (root / "labels.json").write_text(json.dumps(content))


def voc(root, names, notes="Annotations", images="JPEGImages"):
  for i, name in enumerate(names):
    save(root / images / f"photo {i}.jpg")
    box = "<xmin>2</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax>"
    objects = name and (
      f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    )
    file = root / notes / f"photo {i}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
      "<annotation><size><width>8</width><height>6</height><depth>3</depth>"
      f"</size>{objects}</annotation>"
    )


def opened(path, *, drop_empty=False, **fields):
  block = {"kind": "folder", "path": str(path), **fields}
  return sources.open_detection(block, SPACE, drop_empty=drop_empty)


NAMES = ["fish", "boat", "", "fish", "net", "boat", "boat", "fish"]


@pytest.mark.parametrize(
  "write",
  [
    coco,
    voc,
    lambda root, names: voc(root, names, "", ""),  # beside the images
    lambda root, names: voc(root, names, images="images"),
    lambda root, names: voc(root / "VOCdevkit" / "VOC2007", names),
  ],
)
def test_boxes_are_found_and_others_left_out(tmp_path, write, caplog):
  write(tmp_path, NAMES)
  rows = opened(tmp_path)
  labels = [row["labels"].tolist() for row in rows]
  assert labels == [[0], [1], [], [0], [], [1], [1], [0]]
  assert rows[0]["boxes"].tolist() == [[1, 1, 5, 4]]
  assert rows[0]["image"].shape == (6, 8, 3)
  assert "no class is called so: net" in " ".join(caplog.messages)
  assert len(opened(tmp_path, drop_empty=True)) == 6


def test_shares_are_disjoint_whether_or_not_empty_images_are_left(tmp_path):
  coco(tmp_path, NAMES)
  test = opened(tmp_path, split="test", shares=SHARES)
  train = opened(tmp_path, split="train", shares=SHARES, drop_empty=True)
  every = opened(tmp_path, split="train", shares=SHARES)
  assert len(test) == 2 and len(every) == 6
  ids = [{row["id"] for row in rows} for rows in (test, train, every)]
  assert not ids[0] & ids[2] and ids[1] < ids[2]
  assert sorted(x for row in test for x in row["labels"]) == [0, 1]
  assert all(len(train.annotate(i)["labels"]) for i in range(len(train)))
  assert len(train.sizes) == len(train) == len(train.files.names)


def test_lists_of_voc_are_the_splits(tmp_path):
  voc(tmp_path, NAMES)
  for split, numbers in (("train", (0, 1)), ("val", (3,))):
    lists = tmp_path / "ImageSets" / "Main" / f"{split}.txt"
    lists.parent.mkdir(parents=True, exist_ok=True)
    lists.write_text("".join(f"photo {i}\n" for i in numbers))
  assert len(opened(tmp_path, split="train")) == 2
  (row,) = opened(tmp_path, split="validation")
  assert row["id"] == "photo 3"


def test_images_without_boxes_are_refused(tmp_path):
  save(tmp_path / "fish" / "a.jpg")
  with pytest.raises(UserError, match="without boxes. A detector needs"):
    opened(tmp_path)
  coco(tmp_path / "none", ["", ""])
  with pytest.raises(UserError, match="'boat': this class is not there"):
    opened(tmp_path / "none", drop_empty=True)


# --- measuring a detector on them ---------------------------------------------


def test_a_detector_is_measured_by_class():
  space = spaces.load_space("emoji16")
  source = scenes.open_scenes("test", 6, space=space)
  truth, seen = [source[i] for i in range(6)], []

  def find(pixels, sizes):
    """Finds the objects of the first three images, and nothing else."""
    seen.extend([pixels[0], sizes])
    none = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    return [
      Detections(row["boxes"], np.ones(len(row["labels"])), row["labels"])
      for row in truth[:3]
    ] + [none] * 3

  known = detector.Detector(space.class_names, find, None, "area")
  found = detector.evaluate(known, source)
  np.testing.assert_array_equal(seen[0], truth[0]["image"])
  np.testing.assert_array_equal(seen[1], source.sizes)
  labels = [row["labels"][~row["difficult"]].tolist() for row in truth]
  everywhere, first = sum(labels, []), sum(labels[:3], [])
  # All that is found is right, so that the area is the recall.
  recall = {
    name: first.count(i) / everywhere.count(i)
    for i, name in enumerate(space.class_names)
    if i in everywhere
  }
  assert 0 < np.mean([*recall.values()]) < 1
  assert {row["class"]: row["AP50"] for row in found["classes"]} == (
    pytest.approx(recall)
  )
  assert found["AP50"] == pytest.approx(np.mean([*recall.values()]))
  assert sum(row["objects"] for row in found["classes"]) == len(everywhere)
  assert {*found["missing"]} == {*space.class_names} - recall.keys()
  lines = detector.table(found).splitlines()
  assert len(lines) == 2 + len(recall) + bool(found["missing"])
