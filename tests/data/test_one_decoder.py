"""All loaders have the pixels, and the errors, of the one decoder."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from synthjax.data.formats import coco, parquet, png_folder, webdataset
from synthjax.data.pipeline import image_files
from synthjax.data.real import archives, coop_splits
from synthjax.detection import voc
from synthjax.runtime.errors import UserError

CLASSES = {"dog": 0}
SIZE = 24, 32  # of the stored pixels


def folder(path, content):
  (path / "dog").mkdir()
  (path / "dog" / "a.jpg").write_bytes(content)
  return png_folder.open_folder(path, CLASSES)


def caltech256(path, content):
  folder(path, content)
  return archives.caltech256(path, "all", CLASSES, train_per_class=0)


def coop(path, content):
  folder(path, content)
  rows = {"test": [["dog/a.jpg", 0, "dog"]]}
  (path / "split.json").write_text(json.dumps(rows))
  return coop_splits.coop(path, path / "split.json", "test", CLASSES)


def from_parquet(path, content):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  rows = [{"image": {"bytes": content, "path": "a.jpg"}, "label": 0, "id": "a"}]
  pq.write_table(pa.Table.from_pylist(rows), path / "a.parquet")
  (path / "._a.parquet").write_bytes(b"\0\5\x16\7")
  return parquet.open_parquet(path)


def from_webdataset(path, content):
  with tarfile.open(path / "a.tar", "w") as tar:
    for name, data in (
      ("./__MACOSX/._a.jpg", b"\0\5\x16\7"),
      ("./a.cls", b"0"),
      ("./a.jpg", content),
    ):
      member = tarfile.TarInfo(name)
      member.size = len(data)
      tar.addfile(member, io.BytesIO(data))
  return webdataset.open_webdataset(path)


def from_coco(path, content):
  note = {"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
  box = {"image_id": 1, "category_id": 1, "bbox": [4, 2, 8, 8]}
  lists = {
    "images": [note],
    "annotations": [box],
    "categories": [{"id": 1, "name": "dog"}],
  }
  for name in ("annotations", "val"):
    (path / name).mkdir()
  (path / "annotations" / "instances_val.json").write_text(json.dumps(lists))
  (path / "val" / "a.jpg").write_bytes(content)
  return coco.open_coco(path, "val", CLASSES)


def from_voc(path, content):
  row = {
    "image": np.zeros((*SIZE, 3), np.uint8),
    "boxes": np.array([[4, 2, 12, 10]], np.float32),
    "labels": [0],
    "difficult": [False],
    "id": "a",
  }
  voc.write_voc(path, [row], ["dog"])
  (path / "VOCdevkit" / "VOC2007" / "JPEGImages" / "a.jpg").write_bytes(content)
  return voc.open_voc(path, [("2007", "trainval")], CLASSES)


LOADERS = (
  *(folder, caltech256, coop, from_parquet, from_webdataset),
  *(from_coco, from_voc),
)


def content_of(image, kind, **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def made_up(kind):
  """Returns the content of a file that is named as a JPEG."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (*SIZE, 4), dtype=np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 6
  rgb = Image.fromarray(pixels[..., :3])
  grey = pixels[..., 0].astype(np.uint16) * 257
  return {
    "turned": lambda: content_of(rgb, "JPEG", exif=exif),
    "cmyk": lambda: content_of(rgb.convert("CMYK"), "JPEG"),
    "16 bits": lambda: content_of(Image.fromarray(grey), "TIFF"),
    "clear": lambda: content_of(Image.fromarray(pixels), "WEBP", lossless=True),
    "palette": lambda: content_of(rgb.quantize(9), "GIF", transparency=3),
    "pair": lambda: content_of(rgb, "MPO", save_all=True, append_images=[rgb]),
    "html": lambda: b"<!DOCTYPE html>",
    "float": lambda: content_of(Image.fromarray(pixels[..., 0] / 255), "TIFF"),
    "huge": lambda: content_of(rgb, "GIF").replace(b" \0\30\0", b"\xff" * 4),
    "cut": lambda: content_of(rgb, "PNG")[:-99],
  }[kind]()


@pytest.mark.parametrize("loader", LOADERS, ids=lambda x: x.__name__)
@pytest.mark.parametrize(
  "kind", ["turned", "cmyk", "16 bits", "clear", "palette", "pair"]
)
def test_every_loader_has_the_same_pixels(tmp_path, loader, kind):
  content = made_up(kind)
  row = loader(tmp_path, content)[0]
  want = image_files.decode(content, name="x")
  np.testing.assert_array_equal(row["image"], want)
  assert want.shape == (*(SIZE[::-1] if kind == "turned" else SIZE), 3)
  assert len(np.unique(want)) > 8
  if "boxes" in row:
    boxes = {"turned": [14, 4, 22, 12]}.get(kind, [4, 2, 12, 10])
    assert row["boxes"].tolist() == [boxes]


@pytest.mark.faults
@pytest.mark.parametrize("loader", LOADERS, ids=lambda x: x.__name__)
@pytest.mark.parametrize(
  ("kind", "words"),
  [
    ("html", "begins with b'<!DOCTYPE html"),
    ("float", "has pixels of 32 bits"),
    ("huge", "is too large an image"),
    ("cut", "cannot be read as an image"),
  ],
)
def test_every_loader_names_what_it_cannot_read(tmp_path, loader, kind, words):
  source = loader(tmp_path, made_up(kind))
  with pytest.raises(UserError, match=rf"\ba(\.jpg|').* {words}"):
    source[0]
