"""A user's photographs are opened however they lie in a folder."""

import collections
import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from synthjax.data.formats import image_list, webdataset
from synthjax.data.pipeline import codecs
from synthjax.data.real import photographs, real_images
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

pytest_plugins = ("hub_server",)  # fixtures

NAMES = ["red apple", "crème brûlée", "fish"]
SPACE = spaces.parse_space(NAMES, where="here")


def save(path, colour=0):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new("RGB", (5, 4), (colour, 9, 9)).save(path)


def in_folders(root, count=2, names=NAMES):
  for label, name in enumerate(names):
    for i in range(count):
      save(root / name / f"IMG_{i}.JPG", 10 * label + i)


def as_coco(root, boxes, file="labels.json"):
  """Writes images with the boxes of these categories each."""
  names = list(dict.fromkeys(name for each in boxes for name in each))
  content = {
    "images": [
      {"id": i, "file_name": f"{i}.png", "width": 5, "height": 4}
      for i in range(len(boxes))
    ],
    "annotations": [
      {"image_id": i, "category_id": names.index(n), "bbox": [0, 0, 3, 2]}
      for i, each in enumerate(boxes)
      for n in each
    ],
    "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
  }
  for i in range(len(boxes)):
    save(root / "images" / f"{i}.png", i)
  (root / file).parent.mkdir(exist_ok=True, parents=True)
  (root / file).write_text(json.dumps(content))


def opened(path, **fields):
  block = {"kind": "folder", "path": str(path), **fields}
  return real_images.open_real(block, SPACE)


def counts(path, **fields):
  labels = opened(path, **fields).labels.tolist()
  return [collections.Counter(labels)[i] for i in range(len(NAMES))]


# --- each layout --------------------------------------------------------------


def test_folders_from_a_mac_are_opened(tmp_path):
  decomposed = [unicodedata.normalize("NFD", name) for name in NAMES]
  in_folders(tmp_path, names=decomposed)
  (tmp_path / "fish" / "._IMG_0.JPG").write_bytes(b"no image")
  (tmp_path / ".DS_Store").write_bytes(b"")
  assert counts(tmp_path) == [2, 2, 2]


@pytest.mark.parametrize(
  ("header", "between", "encoding"),
  [
    ("path,label", ",", "utf-8"),
    ("File Name;Class", ";", "utf-8-sig"),
    ("id\timage\tspecies", "\t", "utf-8"),
    ("sep=;\npath;category", ";", "utf-8-sig"),
    ("", ",", "utf-8"),
  ],
)
def test_tables_of_spreadsheets_are_opened(tmp_path, header, between, encoding):
  in_folders(tmp_path / "all images", count=1)
  first = ["1"] if header.startswith("id") else []
  lines = [
    between.join([*first, f"all images\\{name}\\IMG_0.JPG", name])
    for name in NAMES
  ]
  text = "\r\n".join([header, *lines] if header else lines)
  (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
  for path in (tmp_path, tmp_path / "labels.csv"):
    rows = opened(path)
    assert {row["id"]: row["label"] for row in rows} == {
      f"all images/{name}/IMG_0.JPG": i for i, name in enumerate(NAMES)
    }


def test_images_of_coco_are_of_the_one_class_of_their_boxes(tmp_path):
  both = ["fish", "red apple"]
  as_coco(tmp_path, [["fish", "fish"], ["red apple"], both, []])
  for path in (tmp_path, tmp_path / "labels.json"):
    assert counts(path) == [1, 0, 1]


def test_webdataset_is_opened(tmp_path):
  rows = [
    {
      "encoded": encoded(i),
      "label": i % 3,
      "id": f"x{i}",
      "prompt": "",
      "seed": 0,
    }
    for i in range(4)
  ]
  webdataset.write(tmp_path, rows, NAMES, split="val", shard_size=3)
  assert counts(tmp_path, split="validation") == [2, 1, 1]
  with pytest.raises(UserError, match="holds 'val', and nothing .* 'test'"):
    opened(tmp_path, split="test")


def test_a_data_set_of_datasets_is_opened_from_the_hub_too(tmp_path, hub):
  pa = pytest.importorskip("pyarrow")
  images = [encoded(i) for i in range(4)]
  features = {"label": {"_type": "ClassLabel", "names": NAMES[::-1]}}
  about = {"huggingface": json.dumps({"info": {"features": features}})}
  table = pa.table(
    {
      "image": [{"bytes": image, "path": None} for image in images],
      "label": [2, 1, 0, -1],  # the last has no class
    }
  ).replace_schema_metadata(about)
  saved = hub.folder("me/fish", kind="datasets")
  for split, rows in (("train", table), ("test", table[:1])):
    (saved / split).mkdir(parents=True)
    file = saved / split / "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(file, table.schema) as stream:
      stream.write_table(rows)
    (saved / split / "state.json").write_text("{}")
  for path in (saved, "hf://datasets/me/fish"):
    rows = opened(path, split="train")
    assert rows.labels.tolist() == [0, 1, 2]
    assert rows[2]["image"].tolist() == np.full((4, 5, 3), 2).tolist()
    assert counts(path, split="test") == [1, 0, 0]


def encoded(value):
  return codecs.encode_png(np.full((4, 5, 3), value, np.uint8))


def test_what_is_no_layout_is_named_beside_those_that_are(tmp_path):
  save(tmp_path / "a.jpg")
  with pytest.raises(UserError) as error:
    opened(tmp_path)
  assert "holds a.jpg, which is no layout" in str(error.value)
  for line in photographs.LAYOUTS.values():
    assert line in str(error.value)
  with pytest.raises(UserError, match="no folder or file .*gone"):
    opened(tmp_path / "gone")


def test_a_folder_in_a_folder_is_entered(tmp_path):
  in_folders(tmp_path / "photos" / "my photos")
  assert counts(tmp_path) == [2, 2, 2]
  (tmp_path / "x.zip").write_bytes(b"")
  with pytest.raises(UserError, match="x.zip is no layout .* Unpack archives"):
    opened(tmp_path / "x.zip")


# --- splits -------------------------------------------------------------------


def test_folders_called_like_splits_are_the_splits(tmp_path):
  in_folders(tmp_path / "train", 3)
  in_folders(tmp_path / "val", 1)
  shares = {"test": 0.5}
  assert counts(tmp_path, split="train", shares=shares) == [3, 3, 3]
  assert counts(tmp_path, split="validation") == [1, 1, 1]
  with pytest.raises(UserError, match="holds 'train', 'val', and nothing"):
    opened(tmp_path, split="test", shares=shares)
  with pytest.raises(UserError, match="holds 'train', 'val': give the path"):
    opened(tmp_path)


def test_files_of_coco_called_like_splits_are_the_splits(tmp_path):
  as_coco(tmp_path, [["fish"]] * 2, "annotations/instances_train2017.json")
  as_coco(tmp_path, [["red apple"]] * 3, "annotations/instances_val2017.json")
  assert counts(tmp_path, split="train") == [0, 0, 2]
  assert counts(tmp_path, split="validation") == [3, 0, 0]


def test_a_column_of_a_table_says_the_split(tmp_path):
  in_folders(tmp_path)
  lines = ["path,label,split"]
  for name in NAMES:
    lines += [f"{name}/IMG_0.JPG,{name},train", f"{name}/IMG_1.JPG,{name},test"]
  (tmp_path / "labels.csv").write_text("\n".join(lines))
  rows = opened(tmp_path / "labels.csv", split="test")
  assert {row["id"][-5] for row in rows} == {"1"} and len(rows) == 3


def test_shares_of_one_folder_have_no_image_in_common(tmp_path):
  in_folders(tmp_path, 10)
  ids = {}
  for shares in (
    {"validation": 0.2, "test": 0.3},
    {"test": 0.3, "validation": 0.2},
  ):
    for split in ("train", "validation", "test"):
      rows = opened(tmp_path, split=split, shares=shares)
      found = {row["id"] for row in rows}
      assert ids.setdefault(split, found) == found
  assert [len(ids[s]) for s in ("train", "validation", "test")] == [15, 6, 9]
  assert len(set.union(*ids.values())) == 30
  assert len(opened(tmp_path, shares=shares)) == 30  # of no split


# --- what does not fit --------------------------------------------------------


def test_other_images_are_passed_over_and_counted(tmp_path, caplog):
  in_folders(tmp_path, 9, NAMES[:1])
  in_folders(tmp_path, 2, [NAMES[2]])
  save(tmp_path / "unsorted" / "a.png")
  assert counts(tmp_path) == [9, 0, 2]
  said = " ".join(caplog.messages)
  assert "no class is called so: unsorted" in said
  assert (
    "11 images of 2 of 3 classes; 1 image of no class is passed over; there "
    "are none of crème brûlée; there are from 2 of fish to 9 of red apple."
  ) in said


def test_classes_of_too_few_shots_are_named(tmp_path):
  in_folders(tmp_path, 3, NAMES[1:])
  in_folders(tmp_path, 1, NAMES[:1])
  block = {"kind": "folder", "path": str(tmp_path)}
  with pytest.raises(UserError, match="but red apple has 1. Ask for at most 1"):
    real_images.check_real(block, SPACE, shots=(2,))


def test_a_misspelt_class_is_no_other_image(tmp_path):
  in_folders(tmp_path, 1, ["red aple", "fish"])
  with pytest.raises(UserError, match="'red aple': no .* is 'red apple'"):
    opened(tmp_path)


def test_an_empty_folder_and_names_of_no_class_are_errors(tmp_path):
  in_folders(tmp_path, 1)
  (tmp_path / "fish" / "IMG_0.JPG").unlink()
  with pytest.raises(UserError, match="fish: holds no image"):
    opened(tmp_path)
  save(tmp_path / "fish" / "1.png")
  (tmp_path / "fish" / "1.png").rename(tmp_path / "fish" / "1.HEIC")
  with pytest.raises(UserError, match="fish: .* but files of .HEIC: save"):
    opened(tmp_path)
  in_folders(tmp_path / "others", 1, ["house", "tree"])
  with pytest.raises(UserError, match="'house': no class(.|\n)*'tree': no"):
    opened(tmp_path / "others")


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("name,where\na,b", "has the columns 'name,where': needed one of paths"),
    ("path,label\na.png", "line 2, has too few columns"),
    ("path,label\nb.png,fish", "b.png: is not there"),
    ("path,label\na.png,fish\na.png,cat", "line 3: a.png is 'cat' here"),
    ("path,label\n", "lists no image"),
    ("path,label\na.png,fush", "'fush': no class .* is 'fish'"),
  ],
)
def test_a_table_with_mistakes_is_explained(tmp_path, text, words):
  save(tmp_path / "a.png")
  (tmp_path / "x.csv").write_text(text)
  with pytest.raises(UserError, match=words):
    opened(tmp_path / "x.csv")


def test_a_table_may_have_numbers_and_rows_without_a_class(tmp_path):
  in_folders(tmp_path, 1)
  rows = "".join(f"{n}/IMG_0.JPG,{i}\n" for i, n in enumerate(NAMES))
  (tmp_path / "x.csv").write_text("path,label\n" + rows.replace(",1\n", ",\n"))
  assert counts(tmp_path / "x.csv") == [1, 0, 1]
  with pytest.raises(UserError, match="line 3: .* has no class"):
    image_list.open_list(tmp_path / "x.csv", space=SPACE)
