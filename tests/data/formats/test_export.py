"""What is exported comes back the same, and the same rows give the same bytes.

Read as well, by hand, with datasets 5.2.0 (Parquet, imagefolder, WebDataset),
webdataset 1.0.2 and pycocotools 2.0.11: the same images, labels and names; and
what the first two wrote was read here.
"""

import pickle
import tarfile

import numpy as np
import pytest
from etils import epath
from odd_rows import NAMES, ROWS, SPACE, block_of, contents, make_rows, write

from synthjax.data.formats import export_rows
from synthjax.data.pipeline import codecs
from synthjax.data.real import real_images
from synthjax.labels import file_names, spaces
from synthjax.runtime import file_groups
from synthjax.runtime.errors import UserError


@pytest.fixture(params=["webdataset", "folder", "parquet"])
def format_name(request):
  if request.param == "parquet":
    pytest.importorskip("pyarrow")
  return request.param


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  """Returns a function: format -> a folder that holds the rows so."""
  made = {}

  def get(format_name):
    if format_name not in made:
      made[format_name] = tmp_path_factory.mktemp("exports") / format_name
      write(format_name, made[format_name])
    return made[format_name]

  return get


def test_exported_rows_come_back(format_name, exported):
  """Pixels, labels and ids, for names no file system would take as they are."""
  folder = exported(format_name)
  source = real_images.open_real(block_of(format_name, folder), SPACE)
  source = pickle.loads(pickle.dumps(source))
  assert len(source) == len(ROWS)
  found = {row["id"]: row for row in source}
  for i in (11, 3, 0):  # in any order
    assert source[i]["id"] == list(found)[i]
  for row in ROWS:
    back = found[row["id"]]
    assert back["label"] == row["label"]
    assert back["image"].dtype == np.uint8
    np.testing.assert_array_equal(back["image"], codecs.pixels(row))
  np.testing.assert_array_equal(
    source.labels, [row["label"] for row in found.values()]
  )
  if format_name != "folder":  # which has its own order
    assert list(found) == [row["id"] for row in ROWS]
  small = real_images.open_real(
    block_of(format_name, folder, image_size=3), SPACE
  )
  assert small[0]["image"].shape == (3, 3, 3)


def test_no_file_leaves_its_folder_or_meets_another(format_name, tmp_path):
  home = tmp_path / "home"
  written = {*write(format_name, home)}
  if format_name == "folder":  # whose images its list names
    [images] = file_groups.names(home, "train/metadata.jsonl")
    written |= {*images}
    assert len(written) == len(ROWS) + 2
  assert set(contents(tmp_path)) == {f"home/{name}" for name in written}
  folded = {name.casefold() for name in written}
  assert len(folded) == len(written)


def test_the_same_rows_give_the_same_bytes(format_name, exported, tmp_path):
  write(format_name, tmp_path)
  assert contents(tmp_path) == contents(exported(format_name))


def test_an_export_goes_on_where_it_was_stopped(
  format_name, exported, tmp_path
):
  """What stands under its name is whole and stays; the rest is added."""
  whole, torn = exported(format_name), tmp_path

  class Stops(list):
    def __getitem__(self, i):
      if i == 12:
        raise KeyboardInterrupt
      return super().__getitem__(i)

  with pytest.raises(KeyboardInterrupt):
    write(format_name, torn, Stops(ROWS))
  left = {path: path.stat().st_mtime_ns for path in torn.rglob("*.*")}
  assert 1 <= len([path for path in left if path.is_file()])
  assert set(contents(torn).items()) < set(contents(whole).items())
  write(format_name, torn)
  assert contents(torn) == contents(whole)
  files = [path for path in left if path.is_file()]
  assert all(path.stat().st_mtime_ns == left[path] for path in files)


def test_images_are_copied_as_they_are_stored(format_name, tmp_path):
  """Also a JPEG, whose bytes another encoding would change."""
  rows = make_rows(lambda image: codecs.encode(image, image_format="jpeg"))
  write(format_name, tmp_path, rows)
  if format_name == "folder":
    files = contents(tmp_path)
    images = {data for name, data in files.items() if name.endswith(".jpg")}
  elif format_name == "webdataset":
    images = set()
    for path in tmp_path.glob("*.tar"):
      with tarfile.open(path) as tar:
        images |= {
          tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")
        }
  else:
    import pyarrow.parquet as pq

    column = pq.read_table(tmp_path / "data")["image"].to_pylist()
    images = {value["bytes"] for value in column}
  assert images == {row["encoded"] for row in rows}


def test_images_are_made_anew_where_that_is_asked():
  source = export_rows.rows(
    ROWS, encoding={"image_format": "webp", "image_size": 4}
  )
  assert export_rows.ending_of(source[3]["encoded"]) == "webp"
  assert codecs.pixels(source[3]).shape == (4, 4, 3)
  kept = export_rows.rows(ROWS, encoding={})[3]
  assert kept == ROWS[3] | {"encoded": export_rows.mark(ROWS[3]["encoded"])}


def test_a_shuffled_order_depends_on_seed_and_ids_alone():
  ids = lambda source: [row["id"] for row in source]
  one = ids(export_rows.rows(ROWS, encoding={}, shuffle=0))
  assert sorted(one) == sorted(ids(ROWS)) and one != ids(ROWS)
  assert ids(export_rows.rows(ROWS[::-1], encoding={}, shuffle=0)) == one
  assert ids(export_rows.rows(ROWS, encoding={}, shuffle=1)) != one


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"label": len(NAMES)}, "has the label 9, but there are 9 classes"),
    ({"encoded": b"GIF89a"}, "neither PNG, JPEG nor WebP"),
  ],
)
def test_rows_that_fit_nothing_are_refused(
  format_name, change, words, tmp_path
):
  rows = [*ROWS[:3], ROWS[3] | change]
  with pytest.raises(UserError, match=words):
    write(format_name, tmp_path, rows)
  assert "metadata.jsonl" not in {path.name for path in tmp_path.rglob("*")}


@pytest.mark.parametrize("kind", ["webdataset", "folder"])
def test_two_images_of_one_id_are_refused(kind, tmp_path):
  with pytest.raises(UserError, match="Two images have the id 'Basic-1'"):
    write(kind, tmp_path, [ROWS[1], ROWS[0], ROWS[1]])


def test_classes_are_matched_by_name_and_not_by_number(format_name, exported):
  turned = spaces.LabelSpace(
    "turned",
    tuple(spaces.Class(i, name) for i, name in enumerate(reversed(NAMES))),
  )
  block = block_of(format_name, exported(format_name))
  source = real_images.open_real(block, turned)
  found = {row["id"]: row["label"] for row in source}
  assert found == {r["id"]: len(NAMES) - 1 - r["label"] for r in ROWS}


def test_unknown_and_missing_classes_are_all_listed(format_name, exported):
  other = spaces.LabelSpace(
    "other",
    tuple(
      spaces.Class(i, name)
      for i, name in enumerate((*NAMES[2:], "bird", "fish"))
    ),
  )
  with pytest.raises(UserError) as error:
    real_images.check_real(block_of(format_name, exported(format_name)), other)
  message = str(error.value)
  assert "fit its 9 classes" in message
  assert "bird" in message and "fish" in message
  assert message.count("no class is called so") == 2


def test_an_export_can_be_in_a_bucket(format_name, bucket):
  rows = ROWS[: len(NAMES)]
  written = write(format_name, bucket, rows)
  assert all((epath.Path(bucket) / name).exists() for name in written)
  source = real_images.open_real(block_of(format_name, bucket), SPACE)
  found = {row["id"]: row for row in source}
  assert found.keys() == {row["id"] for row in rows}
  for row in rows:
    back = found[row["id"]]["image"]
    np.testing.assert_array_equal(back, codecs.pixels(row))


@pytest.mark.faults
def test_a_damaged_image_is_named_when_it_is_read(format_name, tmp_path):
  bad = ROWS[1]["encoded"][:40]
  write(format_name, tmp_path, [ROWS[0], ROWS[1] | {"encoded": bad}])
  below = "train" if format_name == "folder" else "."
  two = {file_names.folder_names(NAMES)[i]: i for i in range(2)}
  fields = {"path": str(tmp_path / below)}
  fields["classes"] = two if format_name == "folder" else {"../x": 0, "a/b": 1}
  source = real_images.open_real({"kind": format_name, **fields}, space=None)
  by_label = {label: i for i, label in enumerate(source.labels.tolist())}
  assert source[by_label[0]]["id"] == ROWS[0]["id"]
  with pytest.raises(UserError, match="cannot be read"):
    source[by_label[1]]
