"""Small copies of Aircraft, Birdsnap and Caltech256 in their own layouts."""

import pickle

import numpy as np
import pytest
from PIL import Image

from synthjax.data.pipeline import image_files
from synthjax.data.real import archives, real_images
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError


def save(path, mode="RGB", colour=(200, 10, 20)):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, (6, 4), colour).save(path)


def space_of(*classes):
  """Returns a space of names, or of (name, key)."""
  fields = [
    {"name": c} if isinstance(c, str) else {"name": c[0], "key": c[1]}
    for c in classes
  ]
  return spaces.parse_space({"name": "tiny", "classes": fields}, where="tiny")


def ids_of(source):
  return [source[i]["id"] for i in range(len(source))]


# --- Aircraft ---------------------------------------------------------------

VARIANTS = space_of("707-320", "F-16A/B", "BAE 146-200")


@pytest.fixture
def aircraft(tmp_path):
  data = tmp_path / "fgvc-aircraft-2013b" / "data"
  lists = {
    "train": "0000001 707-320\n0000002 F-16A/B\n0000003 BAE 146-200\n",
    "val": "0000004 707-320\n0000005 F-16A/B\n0000006 BAE 146-200\n",
    "test": "0000009 BAE 146-200\n0000008 F-16A/B\n0000007 707-320\n",
  }
  for i in range(1, 10):
    save(data / "images" / f"{i:07}.jpg")
  for split, text in lists.items():
    (data / f"images_variant_{split}.txt").write_text(text)
  return tmp_path


@pytest.mark.parametrize("below", ["", "fgvc-aircraft-2013b/data"])
def test_aircraft_are_read_in_the_order_of_their_lists(aircraft, below):
  block = dict(kind="aircraft", path=str(aircraft / below), split="test")
  source = real_images.open_real(block, VARIANTS)
  assert ids_of(source) == [f"images/000000{i}.jpg" for i in (9, 8, 7)]
  assert source.labels.tolist() == [2, 1, 0]
  assert [source[i]["label"] for i in range(3)] == [2, 1, 0]
  assert len(pickle.loads(pickle.dumps(source))) == 3
  validation = real_images.open_real(block | {"split": "validation"}, VARIANTS)
  assert ids_of(validation)[0] == "images/0000004.jpg"


def test_aircraft_of_other_variants_are_all_listed(aircraft):
  block = dict(kind="aircraft", path=str(aircraft), split="train")
  with pytest.raises(UserError) as error:
    real_images.open_real(block, space_of("707-320", "F-16A/C", "Spitfire"))
  message = str(error.value)
  assert "'F-16A/B': no class is called so; the nearest is 'F-16A/C'" in message
  assert "'BAE 146-200': no class" in message
  assert "'Spitfire': this class is not there" in message


def test_aircraft_that_are_missing_are_counted(aircraft):
  (aircraft / "fgvc-aircraft-2013b/data/images/0000008.jpg").unlink()
  block = dict(kind="aircraft", path=str(aircraft), split="test")
  with pytest.raises(UserError, match=r"1 of 3 images .*0000008\.jpg"):
    real_images.check_real(block, VARIANTS)
  with pytest.raises(UserError, match="split='val': needed.*did you mean"):
    real_images.open_real(block | {"split": "val"}, VARIANTS)
  with pytest.raises(UserError, match="does not hold images_variant_test.txt"):
    real_images.open_real(block | {"path": str(aircraft / "images")}, VARIANTS)


# --- Birdsnap ---------------------------------------------------------------

BIRDS = space_of("Allens Hummingbird", "Brant", "Black and white Warbler")


@pytest.fixture
def birdsnap(tmp_path):
  """Species in another order than ours; the warbler's test image is gone."""
  folders = ["Brant", "Black-and-white_Warbler", "Allens_Hummingbird"]
  names = ["Brant", "Black-and-white Warbler", "Allen's Hummingbird"]
  (tmp_path / "species.txt").write_text(
    "id\tcommon\tscientific\tdir\n"
    + "".join(
      f"{i + 1}\t{name}\tx y\t{folder}\n"
      for i, (name, folder) in enumerate(zip(names, folders, strict=True))
    )
  )
  rows, tested = ["url\tmd5\tpath\tspecies_id\tbb_x1"], ["path"]
  for i, folder in enumerate(folders):
    for j in range(3):
      path = f"{folder}/{j}.jpg"
      rows.append(f"x\tx\t{path}\t{i + 1}\t5")
      if j == 2:
        tested.append(path)
      if (i, j) != (1, 2):
        save(tmp_path / "download" / "images" / path)
  (tmp_path / "images.txt").write_text("\n".join(rows))
  (tmp_path / "test_images.txt").write_text("\n".join(tested))
  return tmp_path


def test_birds_without_a_file_are_left_out_with_a_warning(birdsnap, caplog):
  block = dict(kind="birdsnap", path=str(birdsnap), split="train")
  train = real_images.open_real(block, BIRDS)
  assert train.labels.tolist() == [1, 1, 2, 2, 0, 0]
  assert not caplog.records
  test = real_images.open_real(block | {"split": "test"}, BIRDS)
  assert ids_of(test) == ["Brant/2.jpg", "Allens_Hummingbird/2.jpg"]
  assert "1 of 3 images of the split 'test'" in caplog.text
  assert "addresses are dead" in caplog.text


def test_birds_that_all_flew_are_an_error(birdsnap):
  (birdsnap / "download").rename(birdsnap / "elsewhere")
  with pytest.raises(UserError, match="None of the 3 images .* is in"):
    archives.birdsnap(birdsnap, "test", dict.fromkeys(BIRDS.class_names, 0))


def test_a_table_with_other_columns_is_named(birdsnap):
  (birdsnap / "species.txt").write_text("id\tname\n1\tBrant\n")
  with pytest.raises(UserError, match="without common"):
    archives.birdsnap(birdsnap, "test", {"Brant": 0})


# --- Caltech256 -------------------------------------------------------------

OBJECTS = space_of(
  ("ak47", "001.ak47"), ("dog", "056.dog"), ("clutter", "257.clutter")
)


@pytest.fixture
def caltech256(tmp_path):
  root = tmp_path / "256_ObjectCategories"
  for each in OBJECTS.classes:
    for i in range(5):
      save(root / each.key / f"{each.key[:3]}_{i + 1:04}.jpg")
  # What the archive holds beside images.
  save(root / "056.dog" / "greg" / "vision309" / "a.jpg")
  (root / "001.ak47" / "RENAME2").write_text("a script")
  return tmp_path


@pytest.mark.parametrize("below", ["", "256_ObjectCategories"])
def test_the_first_images_of_each_class_are_for_training(caltech256, below):
  block = dict(
    kind="caltech256", path=str(caltech256 / below), train_per_class=3
  )
  train = real_images.open_real(block | {"split": "train"}, OBJECTS)
  test = real_images.open_real(block | {"split": "test"}, OBJECTS)
  assert ids_of(train)[:3] == [f"001.ak47/001_000{i}.jpg" for i in (1, 2, 3)]
  assert ids_of(test)[2:4] == ["056.dog/056_0004.jpg", "056.dog/056_0005.jpg"]
  assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
  assert not set(ids_of(train)) & set(ids_of(test))
  assert len(real_images.open_real(block | {"split": "all"}, OBJECTS)) == 15


def test_a_class_without_test_images_is_named(caltech256):
  block = dict(kind="caltech256", path=str(caltech256), split="test")
  with pytest.raises(UserError, match=r"more than 60 .*056\.dog has 5"):
    real_images.open_real(block, OBJECTS)
  (caltech256 / "256_ObjectCategories" / "999.moon").mkdir()
  with pytest.raises(UserError, match=r"'999\.moon': no class is called so"):
    real_images.open_real(block | {"train_per_class": 3}, OBJECTS)


# --- images -----------------------------------------------------------------


def test_grey_and_four_colour_jpegs_become_rgb(tmp_path):
  """Caltech, Food and ImageNet have some of each."""
  save(tmp_path / "a" / "grey.jpg", "L", 100)
  save(tmp_path / "a" / "cmyk.jpg", "CMYK", (0, 255, 255, 0))
  source = image_files.open_files(
    tmp_path, ["a/grey.jpg", "a/cmyk.jpg"], [0, 1]
  )
  assert source[0]["image"].shape == source[1]["image"].shape == (4, 6, 3)
  np.testing.assert_allclose(source[0]["image"], 100, atol=2)
  np.testing.assert_allclose(source[1]["image"][0, 0], (255, 0, 0), atol=6)


def test_a_file_is_read_by_what_it_is_and_not_by_its_name(tmp_path):
  """SUN397 and Pets call PNG, GIF and BMP files .jpg."""
  for i, kind in enumerate(("PNG", "GIF", "BMP")):
    Image.new("RGB", (6, 4), (0, 0, 255)).save(tmp_path / f"{i}.jpg", kind)
  files = [f"{i}.jpg" for i in range(3)]
  for row in image_files.open_files(tmp_path, files, [0, 0, 0]):
    assert row["image"][0, 0].tolist() == [0, 0, 255]


@pytest.mark.faults
def test_a_page_that_was_saved_as_an_image_is_named_when_read(birdsnap):
  path = birdsnap / "download/images/Brant/2.jpg"
  path.write_text("<html>404</html>")
  block = dict(kind="birdsnap", path=str(birdsnap), split="test")
  source = real_images.open_real(block, BIRDS)
  with pytest.raises(UserError, match="Brant/2.jpg cannot be read"):
    source[0]


def test_absent_files_are_found_by_folder(tmp_path):
  save(tmp_path / "a" / "x.png")
  save(tmp_path / "y.png")
  files = ["a/x.png", "a/z.png", "b/x.png", "y.png", "w.png"]
  assert image_files.absent(tmp_path, files) == {"a/z.png", "b/x.png", "w.png"}
