"""The files of an export: their numbers, Parquet's schema, a folder's list."""

import json

import numpy as np
import pytest
import yaml
from odd_rows import NAMES, ROWS, SPACE, block_of, write
from PIL import Image

from synthjax.data.formats import numbered_files, parquet
from synthjax.data.pipeline import codecs
from synthjax.data.real import real_images
from synthjax.runtime.errors import UserError

# --- files of a data set ----------------------------------------------------


def test_files_are_numbered_and_none_may_be_missing(tmp_path):
  assert list(numbered_files.plan(5, 2, split="train", ending=".tar")) == [
    ("train-00000-of-00003.tar", range(2)),
    ("train-00001-of-00003.tar", range(2, 4)),
    ("train-00002-of-00003.tar", range(4, 5)),
  ]
  for name, _ in numbered_files.plan(5, 2, split="train", ending=".tar"):
    (tmp_path / name).touch()
  (tmp_path / ".tmp-x.tar").touch()
  assert len(numbered_files.find(tmp_path, ".tar")) == 3
  (tmp_path / "train-00001-of-00003.tar").unlink()
  with pytest.raises(
    UserError, match="lacks 1 of 3 files, such as train-00001"
  ):
    numbered_files.find(tmp_path, ".tar")
  (tmp_path / "test-00000-of-00001.tar").touch()
  assert len(numbered_files.find(tmp_path, ".tar", split="test")) == 1
  with pytest.raises(UserError, match="splits test, train"):
    numbered_files.find(tmp_path, ".tar")
  (tmp_path / "test-00000-of-00002.tar").touch()
  with pytest.raises(UserError, match="mixes files of 1 and 2"):
    numbered_files.find(tmp_path, ".tar", split="test")
  with pytest.raises(UserError, match="no .tar file of the split 'val'"):
    numbered_files.find(tmp_path, ".tar", split="val")
  with pytest.raises(UserError, match="There is no folder"):
    numbered_files.find(tmp_path / "gone", ".tar")


# --- Parquet ----------------------------------------------------------------


def test_the_schema_describes_images_and_classes_to_hugging_face(tmp_path):
  pq = pytest.importorskip("pyarrow.parquet")
  written = write("parquet", tmp_path, ROWS * 3, shard_size=50)
  assert list(written) == [
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
    "README.md",
  ]
  file = pq.ParquetFile(tmp_path / "data/train-00000-of-00002.parquet")
  sizes = [file.metadata.row_group(i).num_rows for i in range(2)]
  assert sizes == [32, 18]
  about = json.loads(file.schema_arrow.metadata[b"huggingface"])
  features = about["info"]["features"]
  assert features["image"] == {"_type": "Image"}
  assert features["label"] == {"_type": "ClassLabel", "names": list(NAMES)}
  assert set(features) == set(file.schema_arrow.names)
  readme = (tmp_path / "README.md").read_text(encoding="utf-8")
  card = yaml.safe_load(readme.split("---\n")[1])
  [label] = [
    f for f in card["dataset_info"]["features"] if f["name"] == "label"
  ]
  assert [*label["dtype"]["class_label"]["names"].values()] == list(NAMES)
  row = file.read().slice(40, 1).to_pylist()[0]
  want = ROWS[40 % len(ROWS)]
  assert row["image"]["bytes"] == want["encoded"]
  assert {k: row[k] for k in ("label", "id", "prompt", "seed")} == {
    k: want[k] for k in ("label", "id", "prompt", "seed")
  }
  source = real_images.open_real(block_of("parquet", tmp_path), SPACE)
  for i in (53, 49, 50, 31, 32, 0):  # both sides of groups and files
    assert source[i]["id"] == ROWS[i % len(ROWS)]["id"]


def test_parquet_files_of_others_are_read(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  png, path = ROWS[0]["encoded"], tmp_path / "x.parquet"
  pq.write_table(pa.table({"img": [png, png], "fine": ["Dog", "cat"]}), path)
  source = parquet.open_parquet(
    path, {"cat": 7, "dog": 3}, image_key="img", label_key="fine"
  )
  assert [(row["id"], row["label"]) for row in source] == [
    ("x.parquet-0", 3),
    ("x.parquet-1", 7),
  ]
  np.testing.assert_array_equal(source[1]["image"], codecs.decode_image(png))
  pq.write_table(pa.table({"image": [png], "label": [4]}), path)
  assert parquet.open_parquet(path)[0]["label"] == 4
  with pytest.raises(UserError, match="'label 4': no class is called so"):
    parquet.open_parquet(path, {"cat": 7})


@pytest.mark.faults
def test_odd_columns_of_parquet_files_are_read_or_named(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  path = tmp_path / "x.parquet"
  pq.write_table(pa.table({"image": [b"x"], "label": [[0]]}), path)
  with pytest.raises(UserError, match="x.parquet: has list.* in label"):
    parquet.open_parquet(path)
  table = pa.table({"image": [b"x"] * 2, "label": [1, 0], "id": ["a", None]})
  label = {"names": [7, 8], "_type": "ClassLabel"}
  about = json.dumps({"info": {"features": {"label": label}}})
  pq.write_table(table.replace_schema_metadata({"huggingface": about}), path)
  source = parquet.open_parquet(path, {"7": 5, "8": 6})
  assert source.labels.tolist() == [6, 5]
  with pytest.raises(UserError, match="x.parquet-1"):  # not the image None
    source[1]


@pytest.mark.faults
def test_all_problems_of_parquet_files_are_listed(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  write("parquet", tmp_path)
  first, second, third = sorted((tmp_path / "data").glob("*.parquet"))
  first.write_bytes(first.read_bytes()[:-20])
  pq.write_table(pa.table({"image": [b"x"], "class": [1]}), second)
  pq.write_table(pa.table({"image": [b"x"], "label": [None]}), third)
  with pytest.raises(UserError) as error:
    real_images.open_real(block_of("parquet", tmp_path), SPACE)
  message = str(error.value)
  assert f"{first.name}: " in message
  assert f"{second.name}: lacks label; its columns are image" in message
  assert f"{third.name}: has the label None" in message


# --- folders ----------------------------------------------------------------


def test_the_list_of_a_folder_is_what_imagefolder_reads(tmp_path):
  written = write("folder", tmp_path)
  lines = (tmp_path / "train/metadata.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert written["train/metadata.jsonl"] == len(rows) == len(ROWS)
  for row, want in zip(rows, ROWS, strict=True):
    with Image.open(tmp_path / "train" / row["file_name"]) as image:
      np.testing.assert_array_equal(image, codecs.pixels(want))
    assert row["class_name"] == NAMES[want["label"]]
    assert {n: row[n] for n in ("label", "prompt", "seed", "id")} == {
      n: want[n] for n in ("label", "prompt", "seed", "id")
    }


@pytest.mark.faults
def test_a_damaged_list_is_named(tmp_path):
  write("folder", tmp_path)
  (tmp_path / "train/metadata.jsonl").write_text('{"id": 1}\n')
  with pytest.raises(UserError, match="line 1, is damaged"):
    real_images.open_real(block_of("folder", tmp_path), SPACE)
