"""PASCAL VOC: the same boxes from its archives, from TFDS, and written anew."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from synthjax.detection import voc, voc_files
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

# As annotations say it: name, difficult, xmin, ymin, xmax, ymax.
NOTES = {
  "000005": [("chair", 0, 263, 211, 324, 339), ("person", 1, 1, 2, 500, 375)],
  "000007": [],
  "000009": [("tvmonitor", 0, 45.7, 9, 45.7, 9)],  # 2012 has such numbers
}
SIZES = {"000005": (375, 500), "000007": (20, 30), "000009": (333, 500)}


def xml(size, objects):
  parts = "".join(
    f"""<object><name>{name}</name><difficult>{difficult}</difficult>
    <part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin>
    <xmax>8</xmax><ymax>8</ymax></bndbox></part>
    <bndbox><xmax>{x1}</xmax><xmin>{x0}</xmin><ymax>{y1}</ymax>
    <ymin>{y0}</ymin></bndbox></object>"""
    for name, difficult, x0, y0, x1, y1 in objects
  )
  return f"""<annotation><size><width>{size[1]}</width>
    <height>{size[0]}</height><depth>3</depth></size>{parts}</annotation>"""


def jpeg(size):
  file = io.BytesIO()
  Image.new("RGB", size[::-1], (200, 10, 20)).save(file, "JPEG")
  return file.getvalue()


def write(folder, notes, sizes=SIZES, split="trainval"):
  for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
    (folder / name).mkdir(parents=True, exist_ok=True)
  for name, objects in notes.items():
    text = xml(sizes[name], objects)
    (folder / "Annotations" / f"{name}.xml").write_text(text)
    image = jpeg(sizes[name])
    (folder / "JPEGImages" / f"{name}.jpg").write_bytes(image)
  listed = folder / "ImageSets" / "Main" / f"{split}.txt"
  listed.write_text("\n".join(notes) + "\n")


@pytest.fixture
def devkit(tmp_path):
  write(tmp_path / "VOCdevkit" / "VOC2007", NOTES)
  return tmp_path


ONLY_2007 = (("2007", "trainval"),)
TRAIN = (*ONLY_2007, ("2012", "trainval"))
TEST = (("2007", "test"),)


def test_boxes_are_edges_counted_from_0(devkit):
  source = voc.open_voc(devkit, ONLY_2007)
  assert len(source) == 3 and source.max_objects == 2
  row = source[0]
  assert row["image"].shape == (375, 500, 3)
  assert row["image"].dtype == np.uint8
  assert row["boxes"].dtype == np.float32
  assert row["boxes"].tolist() == [[262, 210, 324, 339], [0, 1, 500, 375]]
  assert row["labels"].dtype == np.int32 and row["labels"].tolist() == [8, 14]
  assert row["difficult"].dtype == bool
  assert row["difficult"].tolist() == [False, True]
  assert row["id"] == "000005" and row["size"] == (375, 500)
  # One pixel of VOC is a box of width 1.
  np.testing.assert_allclose(source[2]["boxes"], [[44.7, 8, 45.7, 9]])
  assert source[1]["boxes"].shape == (0, 4)
  assert source.sizes.tolist() == [list(size) for size in SIZES.values()]


def test_images_without_objects_can_be_left_out(devkit):
  source = voc.open_voc(devkit, ONLY_2007, drop_empty=True)
  assert [row["id"] for row in source] == ["000005", "000009"]
  assert source[1]["image"].shape == (333, 500, 3)


def test_sets_follow_one_another_and_can_be_pickled(devkit):
  folder = devkit / "VOCdevkit" / "VOC2012"
  write(folder, {"2008_1": [("cat", 0, 1, 1, 5, 5)]}, {"2008_1": (9, 8)})
  source = voc.open_voc(devkit / "VOCdevkit", TRAIN)
  source = pickle.loads(pickle.dumps(source))
  assert [source.annotate(i)["id"] for i in range(4)] == [*NOTES, "2008_1"]
  assert source[3]["image"].shape == (9, 8, 3)
  assert "image" not in source.annotate(3)


def test_a_user_can_give_the_classes(devkit):
  classes = {"Chair": 1, "person": 0, "tvmonitor": 2}
  source = voc.open_voc(devkit, ONLY_2007, classes)
  assert source[0]["labels"].tolist() == [1, 0]


def test_the_space_of_voc_is_in_the_order_of_tfds():
  tfds = pytest.importorskip("tensorflow_datasets")
  space = spaces.load_space("voc")
  builder = tfds.builder("voc/2007", data_dir="/nowhere")
  names = builder.info.features["objects"]["label"].names
  assert [c.key or c.name for c in space.classes] == names


# --- TFDS -------------------------------------------------------------------


def prepare(data_dir, year, split, notes, sizes):
  """Writes what TFDS keeps of VOC, as its builder and features encode it."""
  tfds = pytest.importorskip("tensorflow_datasets")
  from array_record.python import array_record_module

  features = tfds.builder(f"voc/{year}", data_dir=data_dir).info.features
  folder = data_dir / "voc" / year / "5.0.0"
  folder.mkdir(parents=True)
  features.save_config(str(folder))
  file = f"voc-{split}.array_record-00000-of-00001"
  writer = array_record_module.ArrayRecordWriter(
    str(folder / file), "group_size:1"
  )
  for name, objects in notes.items():
    height, width = sizes[name]
    example = {
      "image": io.BytesIO(jpeg(sizes[name])),
      "image/filename": f"{name}.jpg",
      "objects": [
        {
          "label": label,
          "bbox": tfds.features.BBox(
            y0 / height, x0 / width, y1 / height, x1 / width
          ),
          "pose": "frontal",
          "is_truncated": False,
          "is_difficult": difficult == 1,
        }
        for label, difficult, x0, y0, x1, y1 in objects
      ],
      "labels": [],
      "labels_no_difficult": [],
    }
    writer.write(features.serialize_example(features.encode_example(example)))
  writer.close()
  info = {
    "name": "voc",
    "configName": year,
    "version": "5.0.0",
    "fileFormat": "array_record",
    "moduleName": "tensorflow_datasets.object_detection.voc",
    "splits": [
      {
        "name": split,
        "numBytes": "1",
        "shardLengths": [str(len(notes))],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
      }
    ],
  }
  (folder / "dataset_info.json").write_text(json.dumps(info))


def test_tfds_gives_the_same_rows(devkit):
  # The test split, as "trainval" is two of TFDS's.
  write(devkit / "VOCdevkit" / "VOC2007", NOTES, split="test")
  prepare(devkit, "2007", "test", NOTES, SIZES)
  ours = voc.open_voc(devkit, TEST)
  theirs = voc.open_voc_tfds(TEST, data_dir=devkit)
  assert len(theirs) == 3
  np.testing.assert_array_equal(ours.sizes, theirs.sizes)
  for a, b in zip(ours, theirs, strict=True):
    assert a["id"] == b["id"] and a["size"] == b["size"]
    for key in ("image", "boxes", "labels", "difficult"):
      assert a[key].dtype == b[key].dtype
      np.testing.assert_array_equal(a[key], b[key])
  kept = voc.open_voc_tfds(TEST, data_dir=devkit, drop_empty=True)
  assert [row["id"] for row in kept] == ["000005", "000009"]
  assert len(pickle.loads(pickle.dumps(kept))) == 2


def test_a_division_by_any_size_is_undone_exactly(devkit):
  """Every corner of the largest sizes of VOC, through float32 and back."""
  corner = np.arange(1, 501)
  for size in range(100, 501):
    kept = (corner[:size] / size).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal((kept * size).round(4), corner[:size])


# --- bad input --------------------------------------------------------------


def test_all_mistakes_are_listed_at_once(devkit):
  folder = devkit / "VOCdevkit" / "VOC2007"
  bad = {
    "inverted": [("cat", 0, 9, 1, 5, 5)],
    "outside": [("cat", 0, 1, 1, 33, 5)],
    "unknown": [("unicorn", 0, 1, 1, 5, 5), ("cat", 0, 1, 1, 5, 5)],
    "nan": [("cat", 0, "nan", 1, 5, 5)],
    "word": [("cat", 0, "left", 1, 5, 5)],
    "flag": [("cat", 2, 1, 1, 5, 5)],
    "broken": [],
    "unsized": [],
    "gone": [],
    "unseen": [],
    "klingon": [],
  }
  write(folder, NOTES | bad, SIZES | dict.fromkeys(bad, (20, 30)))
  (folder / "Annotations" / "broken.xml").write_text("<annotation><size>")
  (folder / "Annotations" / "unsized.xml").write_text("<annotation/>")
  (folder / "Annotations" / "gone.xml").unlink()
  (folder / "JPEGImages" / "unseen.jpg").unlink()
  (folder / "Annotations" / "klingon.xml").write_text(
    '<?xml version="1.0" encoding="klingon"?><annotation/>'
  )
  with (folder / "ImageSets/Main/trainval.txt").open("a") as names:
    names.write("../away\n")
  with pytest.raises(UserError) as error:
    voc.open_voc(devkit, [*ONLY_2007, ("2012", "trainval")])
  message = str(error.value)
  for words in (
    "inverted.xml: object 1 has the box (9, 1, 5, 5), which ends before it",
    "outside.xml: object 1 has the box (1, 1, 33, 5), outside of its image of "
    "30 x 20 pixels",
    "unknown.xml: has an object 'unicorn': no class is called so",
    "nan.xml: object 1 has the box (nan, 1, 5, 5), which is not finite",
    "word.xml: has 'left' for <bndbox/xmin>, which is no number",
    "flag.xml: has '2' for <difficult>, where 0 or 1 belongs",
    "broken.xml: is no XML",
    "klingon.xml: is no XML (unknown encoding: klingon)",
    "away.xml: is not there",
    "unsized.xml: has no <size/width> in <annotation>",
    "gone.xml: is not there",
    "unseen.jpg: is not there",
    "VOC2012/ImageSets/Main/trainval.txt: is not there",
    "Unpack the archives anew",
  ):
    assert words in message, words
  assert "000005" not in message


@pytest.mark.parametrize(
  ("line", "files", "filename", "found"),
  [
    ("x", ["x.png"], "x.png", "x.png"),
    ("x", ["x.JPG"], "other.jpg", "x.JPG"),
    ("x", ["scan.png"], "scan.png", "scan.png"),
    ("x", ["x.jpg", "x.png"], "x.png", "x.jpg"),
    ("my photo", ["my photo.jpg"], "", "my photo.jpg"),
    ("my photo 1", ["my photo.jpg"], "", "my photo.jpg"),  # a list of a class
    ("x  -1", ["x.jpg"], "", "x.jpg"),
  ],
)
def test_an_image_is_found_by_its_annotation_and_may_have_spaces(
  tmp_path, line, files, filename, found
):
  folder = tmp_path / "VOC2007"
  name = "my photo" if "photo" in line else "x"
  write(folder, {name: [("cat", 0, 1, 1, 5, 5)]}, {name: (20, 30)})
  (folder / "JPEGImages" / f"{name}.jpg").unlink()
  for file in files:
    Image.new("RGB", (30, 20)).save(folder / "JPEGImages" / file)
  note = folder / "Annotations" / f"{name}.xml"
  says = f"<filename>{filename}</filename><size>"
  note.write_text(note.read_text().replace("<size>", says))
  (folder / "ImageSets" / "Main" / "some.txt").write_text(f"{line}\n")
  source = voc.open_voc(tmp_path, [("2007", "some")])
  assert source[0]["id"] == name
  assert source.files.names == [f"VOC2007/JPEGImages/{found}"]


def test_images_of_one_name_are_listed_where_none_is_meant(devkit):
  folder = devkit / "VOCdevkit" / "VOC2007" / "JPEGImages"
  (folder / "000005.jpg").rename(folder / "000005.png")
  (folder / "000005.gif").write_bytes(b"")
  with pytest.raises(
    UserError, match="000005.jpg: is not there, but 000005.gif and 000005.png"
  ):
    voc.open_voc(devkit, ONLY_2007)


def test_a_box_that_is_a_pixel_over_is_clipped(devkit):
  folder = devkit / "VOCdevkit" / "VOC2007"
  write(folder, {"a": [("cat", 0, 0, 0, 31, 20)]}, {"a": (20, 30)})
  source = voc.open_voc(devkit, ONLY_2007)
  assert source[0]["boxes"].tolist() == [[0, 0, 30, 20]]


@pytest.mark.faults
def test_a_damaged_image_is_named_when_it_is_read(devkit):
  path = devkit / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000005.jpg"
  source = voc.open_voc(devkit, ONLY_2007)
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(UserError, match="000005.jpg cannot be read"):
    source[0]
  path.write_bytes(jpeg((30, 40)))
  with pytest.raises(UserError, match="has 40 x 30 .* says 500 x 375"):
    source[0]


def test_a_data_set_without_objects_is_refused(devkit):
  write(devkit / "VOCdevkit" / "VOC2007", {"000007": []})
  with pytest.raises(UserError, match="no image left"):
    voc.open_voc(devkit, ONLY_2007, drop_empty=True)


# --- writing ----------------------------------------------------------------


def test_written_rows_are_read_back(devkit, tmp_path):
  rows = list(voc.open_voc(devkit, ONLY_2007))
  names = [c.name for c in spaces.load_space("voc").classes]
  again = tmp_path / "again"
  assert voc.write_voc(again, rows, names, year="2012", split="val") == 3
  reread = voc.open_voc(again, [("2012", "val")])
  for a, b in zip(rows, reread, strict=True):
    assert a["id"] == b["id"] and a["size"] == b["size"]
    assert abs(a["image"].astype(int) - b["image"]).max() <= 2  # JPEG
    for key in ("boxes", "labels", "difficult"):
      np.testing.assert_array_equal(a[key], b[key])
  xmin = (again / "VOCdevkit/VOC2012/Annotations/000005.xml").read_text()
  assert "<xmin>263</xmin>" in xmin and "<difficult>1</difficult>" in xmin


def test_an_id_that_can_be_no_file_is_refused(tmp_path):
  row = {
    "id": "a b",
    "image": np.zeros((4, 4, 3), np.uint8),
    "boxes": np.array([[0, 0, 2, 2]], np.float32),
    "labels": np.array([1], np.int32),
    "difficult": np.array([False]),
  }
  for name in ("a b", "../a", ""):
    with pytest.raises(UserError, match="cannot be the name"):
      voc.write_voc(tmp_path, [row | {"id": name}], ["x", "y"])
  with pytest.raises(UserError, match="'a' cannot be the name"):
    voc.write_voc(tmp_path, [row | {"id": "a"}] * 2, ["x", "y"])
  with pytest.raises(UserError, match=r"labels \[1\], but there are 1"):
    voc.write_voc(tmp_path, [row | {"id": "b"}], ["x"])


@pytest.mark.faults
def test_a_list_is_written_last(tmp_path, devkit, monkeypatch):
  rows, calls = list(voc.open_voc(devkit, ONLY_2007)), []

  def stop(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return real(*args, **kwargs)

  real = voc_files.to_xml
  monkeypatch.setattr(voc_files, "to_xml", stop)
  names = [c.name for c in spaces.load_space("voc").classes]
  with pytest.raises(KeyboardInterrupt):
    voc.write_voc(tmp_path / "new", rows, names)
  with pytest.raises(UserError, match="trainval.txt: is not there"):
    voc.open_voc(tmp_path / "new", ONLY_2007)


# --- images that EXIF turns ---------------------------------------------------


@pytest.mark.parametrize("noted", ["stored", "shown"])
def test_boxes_are_turned_with_the_pixels_that_they_are_of(tmp_path, noted):
  """Tools note the stored pixels, or say by the size that they turn them."""
  folder = tmp_path / "VOCdevkit" / "VOC2007"
  box, size = {
    "stored": ((5, 3, 12, 10), (24, 32)),  # of VOC: from 1, both ends included
    "shown": ((15, 5, 22, 12), (32, 24)),
  }[noted]
  write(folder, {"a": [("dog", 0, *box)]}, {"a": size})
  stored = np.zeros((24, 32, 3), np.uint8)
  stored[2:10, 4:12] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # a quarter to the right
  file = folder / "JPEGImages" / "a.jpg"
  Image.fromarray(stored).save(file, exif=exif, quality=95)
  source = voc.open_voc(tmp_path, [("2007", "trainval")])
  row = source[0]
  assert row["image"].shape == (32, 24, 3) and row["size"] == (32, 24)
  assert source.sizes.tolist() == [[32, 24]]
  assert row["boxes"].tolist() == [[14, 4, 22, 12]]
  assert row["boxes"].dtype == np.float32
  assert (row["image"][4:12, 14:22] > 200).all()
  np.testing.assert_array_equal(source.annotate(0)["boxes"], row["boxes"])
