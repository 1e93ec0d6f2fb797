"""Tar files: as WebDataset expects them, those of others, and bad ones."""

import io
import json
import tarfile

import pytest
from odd_rows import ROWS, write

from synthjax.data.formats import webdataset
from synthjax.runtime.errors import UserError


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


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path):
  sample = {"0.png": ROWS[0]["encoded"], "0.cls": b"\xef\xbb\xbf1\n"}
  make_tar(tmp_path / "a.tar", sample)
  assert webdataset.open_webdataset(tmp_path).labels.tolist() == [1]


@pytest.mark.faults
def test_all_problems_of_samples_are_listed(tmp_path):
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
    "a.tar: 3 has a bad .json: found a list, needed an object",
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
