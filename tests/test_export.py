"""What is exported comes back the same, and the same rows give the same bytes.

Read as well, by hand, with datasets 5.2.0 (Parquet, imagefolder, WebDataset),
webdataset 1.0.2 and pycocotools 2.0.11: the same images, labels and names; and
what the first two wrote was read here.
"""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from etils import epath
from PIL import Image

from synthjax.data import encoded, real, sources, spaces
from synthjax.data.exports import (
  mark,
  parquet,
  parquet_read,
  parts,
  png_folder,
  safe_names,
  stored,
  webdataset,
)
from synthjax.errors import UserError

# Names that a file system may not take, or take for one another.
NAMES = ("../x", "a/b", "Katze", "katze", "größe", "con", "C", "C++", "..")
SPACE = spaces.LabelSpace(
  "odd", tuple(spaces.Class(i, name) for i, name in enumerate(NAMES))
)
IDS = ("../../etc/x", "Basic-1", "basic-1", "a/b.c", "ünï", "..", "", " ", "x")


def make_rows(encode=encoded.encode_png):
  """Makes two images of each class, of unequal sizes."""
  rng, rows = np.random.default_rng(0), []
  for copy in range(2):
    for label, image_id in enumerate(IDS):
      image = rng.integers(0, 256, (4 + label, 5, 3), dtype=np.uint8)
      rows.append(
        {
          "encoded": encode(image),
          "label": label,
          "prompt": f"a {NAMES[label]}\n\u2028",
          "seed": copy,
          "id": f"{image_id}{'+' * copy}",
        }
      )
  return rows


ROWS = make_rows()


def write(format_name, folder, rows=ROWS, names=NAMES, shard_size=7):
  if format_name == "folder":
    return png_folder.write(folder, rows, names, split="train", keys=names)
  module = {"webdataset": webdataset, "parquet": parquet}[format_name]
  return module.write(folder, rows, names, split="train", shard_size=shard_size)


def block_of(format_name, folder, **fields):
  below = "/train" if format_name == "folder" else ""
  return dict(kind=format_name, path=f"{folder}{below}") | fields


def contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


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


def test_what_is_exported_comes_back(format_name, exported):
  """Pixels, labels and ids, for names no file system would take as they are."""
  folder = exported(format_name)
  source = real.open_real(block_of(format_name, folder), SPACE)
  source = pickle.loads(pickle.dumps(source))
  assert len(source) == len(ROWS)
  found = {row["id"]: row for row in source}
  for i in (11, 3, 0):  # in any order
    assert source[i]["id"] == list(found)[i]
  for row in ROWS:
    back = found[row["id"]]
    assert back["label"] == row["label"]
    assert back["image"].dtype == np.uint8
    np.testing.assert_array_equal(back["image"], encoded.pixels(row))
  np.testing.assert_array_equal(
    source.labels, [row["label"] for row in found.values()]
  )
  if format_name != "folder":  # which has its own order
    assert list(found) == [row["id"] for row in ROWS]
  small = real.open_real(block_of(format_name, folder, image_size=3), SPACE)
  assert small[0]["image"].shape == (3, 3, 3)


def test_no_file_leaves_its_folder_or_meets_another(format_name, tmp_path):
  home = tmp_path / "home"
  written = write(format_name, home)
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
  rows = make_rows(lambda image: encoded.encode(image, image_format="jpeg"))
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
  source = stored.rows(ROWS, encoding={"image_format": "webp", "image_size": 4})
  assert stored.ending_of(source[3]["encoded"]) == "webp"
  assert encoded.pixels(source[3]).shape == (4, 4, 3)
  kept = stored.rows(ROWS, encoding={})[3]
  assert kept == ROWS[3] | {"encoded": mark.mark(ROWS[3]["encoded"])}


def test_a_shuffled_order_depends_on_seed_and_ids_alone():
  ids = lambda source: [row["id"] for row in source]
  one = ids(stored.rows(ROWS, encoding={}, shuffle=0))
  assert sorted(one) == sorted(ids(ROWS)) and one != ids(ROWS)
  assert ids(stored.rows(ROWS[::-1], encoding={}, shuffle=0)) == one
  assert ids(stored.rows(ROWS, encoding={}, shuffle=1)) != one


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
  source = real.open_real(block, turned)
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
    real.check_real(block_of(format_name, exported(format_name)), other)
  message = str(error.value)
  assert "fit its 9 classes" in message
  assert "bird" in message and "fish" in message
  assert message.count("no class is called so") == 2


def test_an_export_can_be_in_a_bucket(format_name, bucket):
  rows = ROWS[: len(NAMES)]
  written = write(format_name, bucket, rows)
  assert all((epath.Path(bucket) / name).exists() for name in written)
  source = real.open_real(block_of(format_name, bucket), SPACE)
  found = {row["id"]: row for row in source}
  assert found.keys() == {row["id"] for row in rows}
  for row in rows:
    back = found[row["id"]]["image"]
    np.testing.assert_array_equal(back, encoded.pixels(row))


# --- names ------------------------------------------------------------------


@pytest.mark.parametrize(
  "image_id", ["basic-3-12-s0-5", "rg16-0-0-s2-11", "a_b", "0" * 80]
)
def test_an_id_that_any_system_takes_is_its_own_key(image_id):
  assert safe_names.key_of(image_id) == image_id


@pytest.mark.parametrize("image_id", [*IDS, "-rf", "x" * 500, "a\0b", "\ud800"])
def test_a_key_is_one_word_without_a_dot(image_id):
  key = safe_names.key_of(image_id)
  assert len(key) <= 80 and set(key) <= set(
    "abcdefghijklmnopqrstuvwxyz0123456789_-"
  )
  assert not key.startswith("-")


def test_class_folders_keep_what_names_they_can():
  names = ["Siamese cat", "a.b", "größe", "日本"]
  assert safe_names.folder_names(names) == names
  odd = [
    *NAMES,
    "gr\u00f6\u00dfe",
    "gro\u0308\u00dfe",
    ".",
    "x" * 400,
    "nul.txt",
  ]
  odd = list(dict.fromkeys([*odd, "metadata.jsonl", "a\\b", "tail. ", "\t"]))
  made = safe_names.folder_names(odd, png_folder.RESERVED)
  assert len({name.casefold() for name in made}) == len(odd)
  for name in made:
    assert safe_names.is_inside(name) and "/" not in name and "\\" not in name
    assert not name.startswith(".") and not name.endswith((".", " "))
    assert len(name.encode()) < 255 and name.isprintable()
    assert name not in png_folder.RESERVED and name.casefold() != "con"


def test_names_that_two_classes_share_get_their_ids():
  space = spaces.LabelSpace(
    "birds and machines",
    (
      spaces.Class(0, "crane", key="n1"),
      spaces.Class(1, "crane", key="n2"),
      spaces.Class(2, "jay"),
    ),
  )
  assert safe_names.unique_names(space) == ["crane (0)", "crane (1)", "jay"]
  assert safe_names.lookup(space) == {
    "crane (0)": 0,
    "crane (1)": 1,
    "jay": 2,
    "n1": 0,
    "n2": 1,
  }


@pytest.mark.parametrize(
  ("name", "inside"),
  [
    ("a.png", True),
    ("a/b.png", True),
    ("a..b", True),
    ("../a", False),
    ("a/../b", False),
    ("/a", False),
    ("a\\..\\b", False),
    ("", False),
  ],
)
def test_a_path_that_leads_elsewhere_is_known(name, inside):
  assert safe_names.is_inside(name) is inside


# --- WebDataset -------------------------------------------------------------


def test_a_tar_file_has_what_webdataset_expects(tmp_path):
  written = write("webdataset", tmp_path, ROWS[2:3])
  assert written == {"train-00000-of-00001.tar": 1}
  with tarfile.open(tmp_path / "train-00000-of-00001.tar") as tar:
    members = tar.getmembers()
    read = {m.name: tar.extractfile(m).read() for m in members}
  assert list(read) == ["basic-1.cls", "basic-1.json", "basic-1.png"]
  for member in members:
    assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 420)
    assert not member.uname and not member.gname and member.isreg()
  assert read["basic-1.cls"] == b"2"
  assert read["basic-1.png"] == ROWS[2]["encoded"]
  assert json.loads(read["basic-1.json"]) == {
    "id": "basic-1",
    "label": 2,
    "class_name": "Katze",
    "prompt": "a Katze\n\u2028",
    "seed": 0,
  }


def make_tar(path, members, kind=tarfile.REGTYPE):
  with tarfile.open(path, "w") as tar:
    for name, content in members.items():
      member = tarfile.TarInfo(name)
      member.size, member.type = len(content), kind
      tar.addfile(member, io.BytesIO(content))
  return str(path)


def test_tar_files_of_others_are_read(tmp_path):
  """A number or a name in .cls, a name in .json; folders and other members."""
  png = ROWS[0]["encoded"]
  path = make_tar(
    tmp_path / "x.tar",
    {
      "README": b"",
      "a/0.v2.jpg": b"another image",
      "a/1.cls": b"7\n",
      "a/1.PNG": png,
      "b/1.png": png,
      "b/1.cls": b"dog",
      "b/2.json": b'{"label": "Dog", "id": 5}',
      "b/2.png": png,
      "b/3.png": png,
      "b/3.json": b'{"label": 7}',
    },
  )
  source = webdataset.open_webdataset(path, {"cat": 7, "dog": 3})
  assert [(row["id"], row["label"]) for row in source] == [
    ("a/1", 7),
    ("b/1", 3),
    ("5", 3),
    ("b/3", 7),
  ]
  with pytest.raises(UserError, match="2 rows .* name a class"):
    webdataset.open_webdataset(path)
  with pytest.raises(UserError, match="'label 7': no class is called so"):
    webdataset.open_webdataset(path, {"dog": 3})


@pytest.mark.faults
@pytest.mark.parametrize("cut", ["image", "header", "boundary", "middle"])
def test_a_truncated_or_damaged_tar_is_named(tmp_path, cut):
  """Wherever it was cut: Python's tarfile passes over some of these."""
  write("webdataset", tmp_path)
  first, second = sorted(tmp_path.glob("*.tar"))[:2]
  with tarfile.open(first) as tar:
    members = tar.getmembers()
  data = first.read_bytes()
  last = members[-1]
  at = {
    "image": last.offset_data + 10,
    "header": last.offset + 100,
    "boundary": last.offset,
    "middle": members[4].offset,
  }[cut]
  torn = data[:at]
  if cut == "middle":  # one block of another file amid the rest
    torn += b"\x55" * 512 + data[at + 512 :]
  first.write_bytes(torn)
  second.write_bytes(b"")
  with pytest.raises(UserError) as error:
    webdataset.open_webdataset(tmp_path)
  message = str(error.value)
  assert f"{first.name}: damaged or cut short" in message
  assert f"{second.name}: damaged or cut short" in message


@pytest.mark.faults
def test_all_that_is_wrong_with_samples_is_listed(tmp_path):
  png = ROWS[0]["encoded"]
  make_tar(
    tmp_path / "a.tar",
    {
      "0.png": png,
      "1.png": png,
      "1.cls": b"\xff",
      "2.cls": b"1",
      "3.png": png,
      "3.json": b"[1]",
      "4.png": png,
      "4.jpg": png,
      "4.cls": b"1",
      "5.png": png,
      "5.json": b'{"label": 1.5}',
    },
  )
  make_tar(tmp_path / "b.tar", {"readme": b""})
  with pytest.raises(UserError) as error:
    webdataset.open_webdataset(tmp_path)
  message = str(error.value)
  for words in (
    "a.tar: 0 has no label",
    "a.tar: 1 ",
    "a.tar: 2 has no image",
    "a.tar: 3 has a .json that is no object",
    "a.tar: 4 has two images",
    "a.tar: 5 has the label 1.5",
    "b.tar: holds no image",
  ):
    assert words in message


@pytest.mark.faults
def test_links_of_a_tar_are_never_followed(tmp_path):
  path = tmp_path / "x.tar"
  with tarfile.open(path, "w") as tar:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
      member = tarfile.TarInfo(f"{kind.decode()}.png")
      member.type, member.linkname = kind, "/etc/passwd"
      tar.addfile(member)
  with pytest.raises(UserError, match="holds no image"):
    webdataset.open_webdataset(path)


@pytest.mark.faults
def test_a_damaged_image_is_named_when_it_is_read(format_name, tmp_path):
  bad = ROWS[1]["encoded"][:40]
  write(format_name, tmp_path, [ROWS[0], ROWS[1] | {"encoded": bad}])
  below = "train" if format_name == "folder" else "."
  two = {safe_names.folder_names(NAMES)[i]: i for i in range(2)}
  fields = {"path": str(tmp_path / below)}
  fields["classes"] = two if format_name == "folder" else {"../x": 0, "a/b": 1}
  source = sources.open_source(format_name, **fields)
  by_label = {label: i for i, label in enumerate(source.labels.tolist())}
  assert source[by_label[0]]["id"] == ROWS[0]["id"]
  with pytest.raises(UserError, match="cannot be read"):
    source[by_label[1]]


# --- files of a data set ----------------------------------------------------


def test_files_are_numbered_and_none_may_be_missing(tmp_path):
  assert list(parts.plan(5, 2, split="train", ending=".tar")) == [
    ("train-00000-of-00003.tar", range(2)),
    ("train-00001-of-00003.tar", range(2, 4)),
    ("train-00002-of-00003.tar", range(4, 5)),
  ]
  for name, _ in parts.plan(5, 2, split="train", ending=".tar"):
    (tmp_path / name).touch()
  (tmp_path / ".tmp-x.tar").touch()
  assert len(parts.find(tmp_path, ".tar")) == 3
  (tmp_path / "train-00001-of-00003.tar").unlink()
  with pytest.raises(
    UserError, match="lacks 1 of 3 files, such as train-00001"
  ):
    parts.find(tmp_path, ".tar")
  (tmp_path / "test-00000-of-00001.tar").touch()
  assert len(parts.find(tmp_path, ".tar", split="test")) == 1
  with pytest.raises(UserError, match="splits test, train"):
    parts.find(tmp_path, ".tar")
  (tmp_path / "test-00000-of-00002.tar").touch()
  with pytest.raises(UserError, match="mixes files of 1 and 2"):
    parts.find(tmp_path, ".tar", split="test")
  with pytest.raises(UserError, match="no .tar file of the split 'val'"):
    parts.find(tmp_path, ".tar", split="val")
  with pytest.raises(UserError, match="There is no folder"):
    parts.find(tmp_path / "gone", ".tar")


# --- Parquet ----------------------------------------------------------------


def test_the_schema_tells_hugging_face_of_images_and_classes(tmp_path):
  pq = pytest.importorskip("pyarrow.parquet")
  written = write("parquet", tmp_path, ROWS * 3, shard_size=50)
  assert list(written) == [
    "data/train-00000-of-00002.parquet",
    "data/train-00001-of-00002.parquet",
  ]
  file = pq.ParquetFile(tmp_path / "data/train-00000-of-00002.parquet")
  sizes = [file.metadata.row_group(i).num_rows for i in range(2)]
  assert sizes == [32, 18]
  about = json.loads(file.schema_arrow.metadata[b"huggingface"])
  features = about["info"]["features"]
  assert features["image"] == {"_type": "Image"}
  assert features["label"] == {"_type": "ClassLabel", "names": list(NAMES)}
  assert set(features) == set(file.schema_arrow.names)
  row = file.read().slice(40, 1).to_pylist()[0]
  want = ROWS[40 % len(ROWS)]
  assert row["image"]["bytes"] == want["encoded"]
  assert {k: row[k] for k in ("label", "id", "prompt", "seed")} == {
    k: want[k] for k in ("label", "id", "prompt", "seed")
  }
  source = real.open_real(block_of("parquet", tmp_path), SPACE)
  for i in (53, 49, 50, 31, 32, 0):  # both sides of groups and files
    assert source[i]["id"] == ROWS[i % len(ROWS)]["id"]


def test_parquet_files_of_others_are_read(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  png, path = ROWS[0]["encoded"], tmp_path / "x.parquet"
  pq.write_table(pa.table({"img": [png, png], "fine": ["Dog", "cat"]}), path)
  source = parquet_read.open_parquet(
    path, {"cat": 7, "dog": 3}, image_key="img", label_key="fine"
  )
  assert [(row["id"], row["label"]) for row in source] == [
    ("x.parquet-0", 3),
    ("x.parquet-1", 7),
  ]
  np.testing.assert_array_equal(source[1]["image"], encoded.decode_image(png))
  pq.write_table(pa.table({"image": [png], "label": [4]}), path)
  assert parquet_read.open_parquet(path)[0]["label"] == 4
  with pytest.raises(UserError, match="'label 4': no class is called so"):
    parquet_read.open_parquet(path, {"cat": 7})


@pytest.mark.faults
def test_all_that_is_wrong_with_parquet_files_is_listed(tmp_path):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  write("parquet", tmp_path)
  first, second, third = sorted((tmp_path / "data").glob("*.parquet"))
  first.write_bytes(first.read_bytes()[:-20])
  pq.write_table(pa.table({"image": [b"x"], "class": [1]}), second)
  pq.write_table(pa.table({"image": [b"x"], "label": [None]}), third)
  with pytest.raises(UserError) as error:
    real.open_real(block_of("parquet", tmp_path), SPACE)
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
      np.testing.assert_array_equal(image, encoded.pixels(want))
    assert row["class_name"] == NAMES[want["label"]]
    assert {n: row[n] for n in ("label", "prompt", "seed", "id")} == {
      n: want[n] for n in ("label", "prompt", "seed", "id")
    }


@pytest.mark.faults
def test_a_damaged_list_is_named(tmp_path):
  write("folder", tmp_path)
  (tmp_path / "train/metadata.jsonl").write_text('{"id": 1}\n')
  with pytest.raises(UserError, match="line 1, is damaged"):
    real.open_real(block_of("folder", tmp_path), SPACE)
