"""Files of images are looked at before hours are spent, and known again."""

import os
import shutil
import threading
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image

from synthjax.data.formats import png_folder
from synthjax.data.pipeline import image_files, inspection
from synthjax.data.pipeline.rows import Detection, Files, Source
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError

CLASSES = {"cat": 0, "dog": 1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("SYNTHJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  for name in CLASSES:
    (tmp_path / "test" / name).mkdir(parents=True)
    for i in range(4):
      pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
      ending = ("png", "jpg", "gif", "bmp")[i]
      Image.fromarray(pixels).save(tmp_path / f"test/{name}/{i}.{ending}")
  return tmp_path / "test"


def inspect(folder, classes=CLASSES):
  return inspection.inspect(png_folder.open_folder(folder, classes))


def test_a_second_inspection_opens_no_file(folder, monkeypatch):
  first = inspect(folder)
  assert first["path"] == str(folder) and first["files"] == 8
  monkeypatch.setattr(inspection, "_look", None)
  monkeypatch.setattr(inspection, "_decode", None)
  assert inspect(folder) == first


@pytest.mark.faults
def test_an_inspection_whose_note_is_damaged_is_made_again(folder):
  first = inspect(folder)
  (note,) = (folder.parent / "cache").rglob("inspected/*.json")
  for content in (b"", b"[1]", b"\xff"):
    note.write_bytes(content)
    assert inspect(folder) == first


def test_a_folder_that_is_moved_or_copied_anew_is_the_same(folder):
  first = inspect(folder)
  moved = folder.parent / "elsewhere"
  shutil.copytree(folder, moved, copy_function=shutil.copyfile)
  assert inspect(moved) == first | {"path": str(moved)}
  os.utime(folder / "cat/0.png", (0, 0))
  assert inspect(folder) == first


def swap_labels(folder):
  (folder / "cat").rename(folder / "x")
  (folder / "dog").rename(folder / "cat")
  (folder / "x").rename(folder / "dog")


def edit_in_place(folder):
  """Changes a pixel of an uncompressed image, and so neither name nor size."""
  path = folder / "cat/3.bmp"
  content = bytearray(path.read_bytes())
  content[-9] ^= 1
  path.write_bytes(content)
  os.utime(path, (1, 1))


@pytest.mark.parametrize(
  "change",
  [
    swap_labels,
    edit_in_place,
    lambda folder: (folder / "dog/1.jpg").unlink(),
    lambda folder: (folder / "dog/1.jpg").rename(folder / "dog/5.jpg"),
    lambda folder: (folder / "dog/1.jpg").rename(folder / "cat/5.jpg"),
    lambda folder: Image.new("L", (4, 4)).save(folder / "cat/new.png"),
  ],
)
def test_other_images_have_another_identity(folder, change):
  first = inspect(folder)
  change(folder)
  assert inspect(folder)["sha256"] != first["sha256"]


def test_other_labels_have_another_identity(folder):
  assert (
    inspect(folder)["sha256"] != inspect(folder, {"cat": 1, "dog": 0})["sha256"]
  )


@pytest.mark.faults
@pytest.mark.parametrize("ending", ["png", "jpg", "gif"])
def test_files_that_were_cut_short_or_are_no_images_are_all_listed(
  folder, ending
):
  # Headers are whole, and no class begins with the image.
  number = {"png": 0, "jpg": 1, "gif": 2}[ending]
  path = folder / f"dog/{number}.{ending}"
  path = path.rename(folder / f"dog/8.{ending}")
  path.write_bytes(path.read_bytes()[:-1000])
  (folder / "cat/9.png").write_bytes(b"<html>not found</html>")
  for _ in range(2):  # what is wrong is not forgotten
    with pytest.raises(UserError) as error:
      inspect(folder)
    assert f"dog/8.{ending} cannot be read as an image" in str(error.value)
    assert "cat/9.png cannot be read as an image" in str(error.value)
    assert len(error.value.problems) == 2


@pytest.mark.faults
def test_one_image_of_each_class_is_decoded(folder):
  """Damage in the middle of a file shows in no header."""
  path = folder / "dog/0.png"
  content = bytearray(path.read_bytes())
  content[300:400] = bytes(100)
  path.write_bytes(content)
  with pytest.raises(UserError, match="dog/0.png cannot be read"):
    inspect(folder)


@pytest.mark.faults
def test_at_most_ten_are_listed(folder):
  for i in range(10, 25):
    (folder / f"cat/{i}.png").write_bytes(b"")
  with pytest.raises(UserError, match="and 5 more images") as error:
    inspect(folder)
  assert len(error.value.problems) == 11


def test_sources_without_files_are_tried_by_their_first_row():
  reads = []

  def read(index):
    reads.append(index)
    return {}

  source = Source(3, read)
  assert inspection.inspect(source) is None and reads == [0]
  assert inspection.identify({"test": source, "pool": None}) == {}


def detection(folder, boxes, sizes):
  rows = [
    {
      "labels": np.array([0]),
      "boxes": np.array([box]),
      "difficult": np.array([False]),
    }
    for box in boxes
  ]

  def read(index):
    with Image.open(folder / f"cat/{index}.png") as image:
      if image.size[::-1] != sizes[index]:
        raise UserError(f"{index}.png has another size.")
    return rows[index]

  names = [f"cat/{i}.png" for i in range(len(boxes))]
  return Detection(
    len(boxes),
    read,
    files=Files(folder, names, are_rows=True),
    annotate=rows.__getitem__,
    sizes=np.array(sizes),
    max_objects=1,
  )


def test_other_boxes_have_another_identity_and_sizes_are_compared(folder):
  Image.new("RGB", (30, 20)).save(folder / "cat/1.png")
  box, sizes = [0, 0, 5, 5], [(40, 50), (20, 30)]
  first = inspection.inspect(detection(folder, [box, box], sizes))
  other = inspection.inspect(detection(folder, [box, [0, 0, 5, 6]], sizes))
  assert other["sha256"] != first["sha256"]
  with pytest.raises(UserError, match="^1.png has another size"):
    inspection.inspect(detection(folder, [box, box], [(40, 50), (20, 31)]))


# --- in specifications --------------------------------------------------------


def spec_of(folder, **more):
  block = {"kind": "folder", "path": str(folder)}
  source = png_folder.open_folder(folder, CLASSES)
  spec = {"tune": {"test": block}, "real": {"test": block}}
  return spec | inspection.identify({"test": source}) | more


def test_a_workdir_goes_on_with_moved_images_and_refuses_others(folder):
  workdir = folder.parent / "work"
  artifacts.begin(workdir, spec_of(folder))
  moved = folder.rename(folder.parent / "moved")
  assert not artifacts.begin(workdir, spec_of(moved))
  artifacts.finish(workdir, spec_of(moved), {})
  assert artifacts.begin(workdir, spec_of(moved))
  with pytest.raises(specifications.SpecMismatch, match="tune.test: found"):
    artifacts.begin(workdir, spec_of(moved, tune={"test": None}))
  (moved / "dog/1.jpg").unlink()
  with pytest.raises(specifications.SpecMismatch) as error:
    artifacts.begin(workdir, spec_of(moved))
  assert "image_files.test.files: found 8, asked for 7" in str(error.value)
  assert "Real images were added, taken away or changed" in str(error.value)


def test_a_specification_without_the_images_is_of_an_older_version(folder):
  workdir, spec = folder.parent / "work", spec_of(folder)
  old = {k: v for k, v in spec.items() if k != specifications.IMAGE_FILES}
  artifacts.begin(workdir, old)
  artifacts.finish(workdir, old, {})
  assert artifacts.begin(workdir, spec)
  with pytest.raises(specifications.SpecMismatch, match="real.test.path"):
    artifacts.begin(workdir, spec_of(folder, real={"test": {"path": "other"}}))


def test_where_one_set_is_unknown_its_place_counts(folder):
  """A source of a user's own does not name its files."""
  workdir, spec = folder.parent / "work", spec_of(folder)
  spec[specifications.IMAGE_FILES]["pool"] = None
  artifacts.begin(workdir, spec | {"pool": {"path": "one"}})
  with pytest.raises(specifications.SpecMismatch, match="pool.path"):
    artifacts.begin(workdir, spec | {"pool": {"path": "other"}})


def test_few_photographs_are_held_at_once():
  """Each thread that decodes may hold a hundred megabytes."""
  lock, held, most = threading.Lock(), 0, 0

  def read(index):
    nonlocal held, most
    with lock:
      held += 1
      most = max(most, held)
    time.sleep(0.003)
    with lock:
      held -= 1
    return {"image": None, "label": index}

  files = Files(epath.Path("/nowhere"), [str(i) for i in range(40)], True)
  inspection.inspect(image_files.Labelled(40, read, int, files=files))
  assert 1 <= most <= 4
