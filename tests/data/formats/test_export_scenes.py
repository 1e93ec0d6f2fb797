"""Scenes are exported in the formats of detectors: VOC's and COCO's."""

import json
import pickle

import ml_collections
import numpy as np
import pytest
from PIL import Image

from synthjax.data.formats import coco
from synthjax.data.pipeline import codecs
from synthjax.detection import sources
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import export

SCENES = {
  "space": "emoji16",
  "train": {"kind": "scenes", "split": "validation", "count": 3, "seed": 1},
  "test": {"kind": "scenes", "split": "validation", "count": 2, "seed": 2},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  """Exports 3 + 2 scenes as COCO and VOC; returns workdir and config."""
  workdir = tmp_path_factory.mktemp("scenes")
  config = ml_collections.ConfigDict(
    {"tasks": ("export",), "seed": 0, "space": "emoji16", "detect": SCENES}
  )
  export.check(config, str(workdir))
  export.run(config, str(workdir))
  return workdir, config


def assert_same_objects(found, want):
  for name in ("boxes", "labels", "difficult"):
    assert found[name].dtype == want[name].dtype
    np.testing.assert_array_equal(found[name], want[name])
  assert (found["id"], tuple(found["size"])) == (want["id"], want["size"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_come_back_from_coco_and_voc(scenes, split):
  """From COCO every pixel; VOC's are JPEG, of the quality 95."""
  workdir, _ = scenes
  space, top = spaces.load_space("emoji16"), workdir / "export"
  want = sources.open_detection(SCENES[split], space)
  found = sources.open_detection(
    dict(kind="coco", path=str(top / "coco"), split=split), space
  )
  found = pickle.loads(pickle.dumps(found))
  voc = sources.open_detection(
    dict(kind="voc", data_dir=str(top / "voc"), sets=(("2007", split),)), space
  )
  assert len(found) == len(voc) == len(want) == SCENES[split]["count"]
  np.testing.assert_array_equal(found.sizes, want.sizes)
  for i in range(len(want)):
    row = want[i]
    for other in (found, voc):
      assert_same_objects(other[i], row)
      assert_same_objects(other.annotate(i), row)
    np.testing.assert_array_equal(found[i]["image"], row["image"])
    error = np.abs(voc[i]["image"].astype(int) - row["image"])
    assert error.mean() < 4


def test_the_manifests_of_scenes_hold_every_file(scenes):
  workdir, config = scenes
  for name in export.SCENES:
    folder = workdir / "export" / name
    artifacts.verify(folder)
    files = {
      str(path.relative_to(folder))
      for path in folder.rglob("*.*")
      if path.name not in ("manifest.json", "spec.json") and path.is_file()
    }
    assert files == artifacts.load(folder)["files"].keys()
    assert artifacts.load(folder)["summary"]["images"] == {
      "train": 3,
      "test": 2,
    }
  before = artifacts.digest(workdir / "export/coco")
  export.run(config, str(workdir))
  assert artifacts.digest(workdir / "export/coco") == before


def test_an_interrupted_export_of_scenes_ends_in_the_same_bytes(
  scenes, tmp_path
):
  workdir, config = scenes
  folder = workdir / "export/coco"
  spec = artifacts.load(folder)["spec"]
  artifacts.begin(tmp_path / "export/coco", spec)
  source = sources.open_detection(SCENES["train"], spaces.load_space("emoji16"))
  # As if stopped within the split: the images are there, the list is not.
  names = spec["classes"]
  coco.write(tmp_path / "export/coco", source, names, split="train")
  (tmp_path / "export/coco/annotations/instances_train.json").unlink()
  with config.unlocked():
    config.export = {"formats": ("coco",)}
  export.run(config, str(tmp_path))
  assert artifacts.digest(tmp_path / "export/coco") == artifacts.digest(folder)


# --- COCO -------------------------------------------------------------------


def write_coco(folder, **changes):
  """Writes two images of 8 x 6 px and what COCO says of them."""
  content = {
    "images": [
      {"id": 9, "file_name": "a.png", "height": 6, "width": 8},
      {"id": 4, "file_name": "b.png", "height": 6, "width": 8},
    ],
    "annotations": [
      {"id": 1, "image_id": 4, "category_id": 18, "bbox": [1, 2, 3, 4.5]},
      {
        "id": 2,
        "image_id": 4,
        "category_id": 1,
        "bbox": [0, 0, 8, 6],
        "iscrowd": 1,
      },
      {"id": 3, "image_id": 4, "category_id": 1, "bbox": [2, 2, 0, 3]},
    ],
    "categories": [
      {"id": 1, "name": "person"},
      {"id": 18, "name": "Dog"},
      {"id": 90, "name": "toothbrush"},
    ],
  } | changes
  (folder / "val2017").mkdir()
  (folder / "annotations").mkdir()
  for name in ("a", "b"):
    Image.new("RGB", (8, 6)).save(folder / "val2017" / f"{name}.png")
  path = folder / "annotations/instances_val2017.json"
  path.write_text(json.dumps(content))
  return path


def test_cocos_own_layout_is_read(tmp_path):
  """A box that passes the border is clipped; one without an area left out."""
  write_coco(tmp_path)
  source = coco.open_coco(tmp_path, "val2017", {"dog": 0, "person": 5})
  first, second = source
  assert (first["id"], second["id"]) == ("a", "b")
  assert first["boxes"].shape == (0, 4) and source.max_objects == 2
  assert second["boxes"].tolist() == [[1, 2, 4, 6], [0, 0, 8, 6]]
  assert second["labels"].tolist() == [0, 5]
  assert second["difficult"].tolist() == [False, True]
  assert second["image"].shape == (6, 8, 3)
  kept = coco.open_coco(
    tmp_path, "val2017", {"dog": 0, "person": 5}, drop_empty=True
  )
  assert [row["id"] for row in kept] == ["b"]


def test_cocos_boxes_are_turned_with_their_image(tmp_path):
  write_coco(tmp_path)
  exif = Image.Exif()
  exif[0x0112] = 8  # a quarter to the left
  Image.new("RGB", (8, 6)).save(tmp_path / "val2017" / "b.png", exif=exif)
  source = coco.open_coco(tmp_path, "val2017", {"dog": 0, "person": 5})
  assert source.sizes.tolist() == [[6, 8], [8, 6]]
  assert source[1]["image"].shape == (8, 6, 3)
  assert source[1]["boxes"].tolist() == [[2, 4, 6, 7], [0, 0, 6, 8]]


@pytest.mark.faults
def test_all_that_is_wrong_with_coco_is_listed(tmp_path):
  note = {"image_id": 4, "category_id": 18}
  write_coco(
    tmp_path,
    images=[
      {"id": 4, "file_name": "b.png", "height": 6, "width": 8},
      {"id": 4, "file_name": "a.png", "height": 6, "width": 8},
      {"id": 5, "file_name": "../c.png", "height": 6, "width": 8},
      {"id": 6, "file_name": "d.png", "height": 0, "width": 8},
      {"id": 7, "file_name": "gone.png", "height": 6, "width": 8},
      {"id": 8, "file_name": "e.png"},
      "no image",
      {"id": [9], "file_name": "f.png", "height": 6, "width": 8},
    ],
    annotations=[
      note | {"id": 1, "bbox": [0, 0, 10, 3]},
      note | {"id": 2, "bbox": [0, 0, -1, 3]},
      note | {"id": 3, "bbox": [0, 0, 1]},
      note | {"id": 4, "bbox": [0, 0, 1, 1], "image_id": 99},
      note | {"id": 5, "bbox": [0, 0, 1, 1], "category_id": 7},
      note | {"id": 6, "bbox": [0, 0, float("nan"), 1]},
      note | {"id": 7, "bbox": [0, 0, 1, 1]},
      note,
      note | {"id": 9, "bbox": [10**400, 0, 1, 1]},
      note | {"id": 10, "bbox": [0, 0, 1, 1], "category_id": {}},
    ],
  )
  with pytest.raises(UserError) as error:
    coco.open_coco(tmp_path, "val2017", {"person": 0})
  message = str(error.value)
  for words in (
    "image 4 (a): is there twice",
    "image 5 (../c): has the file_name '../c.png', which leads elsewhere",
    "image 6 (d): has 8 x 0 pixels",
    "gone.png: is not there",
    "images[5]: lacks height, width",
    "images[6]: lacks id",
    "annotation 1: has the bbox [0, 0, 10, 3], outside of 8 x 6 pixels",
    "annotation 2: has the bbox [0, 0, -1, 3], which is no rectangle",
    "annotation 3: has the bbox [0, 0, 1], which is not four numbers",
    "annotation 4: is of the image 99",
    "annotation 5: is of the category 7",
    "annotation 6: has the bbox [0, 0, nan, 1]",
    "annotations[7]: lacks bbox",
    "images[7]: has the id [9]",
    "annotation 9: has the bbox [1000",
    "annotations[9]: has the category_id {}",
    "category 'Dog': no class is called so",
  ):
    assert words in message, message


@pytest.mark.faults
@pytest.mark.parametrize(
  ("text", "words"),
  [("{", "is damaged"), ("[]", "lacks the lists images, annotations")],
)
def test_a_damaged_file_of_coco_is_named(tmp_path, text, words):
  write_coco(tmp_path).write_text(text)
  with pytest.raises(UserError, match=words):
    coco.open_coco(tmp_path, "val2017", {"person": 0})
  with pytest.raises(UserError, match="instances_train2017.json is not there"):
    coco.open_coco(tmp_path, "train2017", {"person": 0})


@pytest.mark.faults
def test_an_image_of_another_size_shows_when_it_is_read(tmp_path):
  write_coco(tmp_path)
  source = coco.open_coco(tmp_path, "val2017", {"dog": 0, "person": 5})
  path = tmp_path / "val2017/a.png"
  path.write_bytes(codecs.encode_png(np.zeros((5, 5, 3), np.uint8)))
  with pytest.raises(UserError, match="has 5 x 5 pixels"):
    source[0]
  path.write_bytes(b"no image")
  with pytest.raises(UserError, match="cannot be read as an image"):
    source[0]


def test_a_zero_that_is_a_text_marks_no_crowd(tmp_path):
  write_coco(
    tmp_path,
    annotations=[
      {"image_id": 4, "category_id": 18, "bbox": [0, 0, 1, 1], "iscrowd": mark}
      for mark in ("0", 0, None, "1", 1)
    ],
  )
  source = coco.open_coco(tmp_path, "val2017", {"dog": 0, "person": 5})
  marks = [row["difficult"].tolist() for row in map(source.annotate, range(2))]
  assert [False, False, False, True, True] in marks
