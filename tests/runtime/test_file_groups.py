"""Files that a list names, in groups: whatever happens to one is told."""

import hashlib
import itertools
import json
import os
import subprocess

import pytest
from etils import epath

from synthjax import verify
from synthjax.runtime import artifacts, file_groups
from synthjax.runtime.errors import UserError

LIST, COUNT = "train/list.jsonl", 10
NAMES = [f"train/{'ab'[i % 2]}/{i}.png" for i in range(COUNT)]
CONTENTS = [f"image {i} {'+' * i}".encode() for i in range(COUNT)]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
  monkeypatch.setattr(file_groups, "SIZE", 4)


def complete(folder, contents=CONTENTS):
  """Makes a complete artifact of ten files, their list and one more."""
  folder = epath.Path(folder)
  assert not artifacts.begin(folder, {})
  rows = [{"file_name": name.removeprefix("train/")} for name in NAMES]
  files = dict(zip(NAMES, contents, strict=True))
  files[LIST] = "".join(json.dumps(row) + "\n" for row in rows).encode()
  files["README.md"] = b"about"
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
  written = {LIST: COUNT, "README.md": 1}
  return artifacts.finish(folder, {}, written, lists=[LIST], images=COUNT)


def test_a_manifest_has_an_entry_for_each_group(tmp_path):
  manifest = complete(tmp_path)
  assert manifest["files"].keys() == {LIST, "README.md"}
  entries = manifest["groups"][LIST]
  assert [entry["rows"] for entry in entries] == [4, 4, 2]
  for number, entry in enumerate(entries):
    span = slice(4 * number, 4 * number + 4)
    assert entry["bytes"] == sum(map(len, CONTENTS[span]))
    hashes = [hashlib.sha256(c).hexdigest() for c in CONTENTS[span]]
    assert entry["marks"] == "".join(each[:4] for each in hashes)
    printed = subprocess.run(
      ["sha256sum", *NAMES[span]],
      cwd=tmp_path,
      stdout=subprocess.PIPE,
      check=True,
    ).stdout
    assert entry["sha256"] == hashlib.sha256(printed).hexdigest()
  sizes = [len(c) for c in CONTENTS] + [5, (tmp_path / LIST).stat().st_size]
  assert artifacts.totals(artifacts.load(tmp_path)) == (12, sum(sizes))
  assert artifacts.begin(tmp_path, {}) and not verify.check(tmp_path)


def test_a_digest_is_of_the_listed_files_too(tmp_path):
  complete(tmp_path / "one")
  complete(tmp_path / "same")
  complete(tmp_path / "other", [*CONTENTS[:-1], b"other"])
  one, same, other = map(
    artifacts.digest, (tmp_path / n for n in ("one", "same", "other"))
  )
  assert one == same != other


WAYS = {
  "missing": lambda path: path.unlink(),
  "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
  "emptied": lambda path: path.write_bytes(b""),
  "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"#"),
}


@pytest.mark.faults
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damaged", [[0], [5], [9], [1, 2, 9]])
def test_the_damaged_files_are_named_and_no_others(tmp_path, way, damaged):
  complete(tmp_path)
  for i in damaged:
    WAYS[way](tmp_path / NAMES[i])
  what = "it is missing" if way == "missing" else "its content has changed"
  want = {NAMES[i]: what for i in damaged}
  assert artifacts.damage(tmp_path) == want
  problems = verify.check(tmp_path)
  assert problems == [f"{tmp_path / name}: {what}" for name in want]
  if way == "changed":  # which sizes alone do not tell, as for other files
    return
  with pytest.raises(UserError) as error:
    artifacts.begin(tmp_path, {})
  assert all(f"{name}: {what}" in str(error.value) for name in want)
  assert str(error.value).count(".png: ") == len(damaged)


@pytest.mark.faults
def test_a_missing_file_does_not_hide_a_changed_one_of_its_group(tmp_path):
  complete(tmp_path)
  WAYS["missing"](tmp_path / NAMES[4])
  WAYS["changed"](tmp_path / NAMES[6])
  assert artifacts.damage(tmp_path).keys() == {NAMES[4], NAMES[6]}


@pytest.mark.faults
def test_a_change_of_the_same_first_digits_is_told_by_its_group(tmp_path):
  complete(tmp_path)
  mark = hashlib.sha256(CONTENTS[5]).hexdigest()[:4]
  others = (f"{i:0{len(CONTENTS[5])}}".encode() for i in itertools.count())
  other = next(
    c for c in others if hashlib.sha256(c).hexdigest().startswith(mark)
  )
  (tmp_path / NAMES[5]).write_bytes(other)
  [(name, what)] = artifacts.damage(tmp_path).items()
  assert name == f"{LIST}, rows 5 to 8" and "one of the files" in what


@pytest.mark.faults
def test_a_file_that_no_list_has_is_named(tmp_path):
  complete(tmp_path)
  for name in ("11.png", os.fsdecode(b"\xff.png")):
    (tmp_path / "train/a" / name).write_bytes(b"more")
  problems = verify.check(tmp_path)
  assert len(problems) == 2
  assert f"{tmp_path}/train/a/11.png: its task has not written it" in problems


@pytest.mark.faults
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_list_is_told_and_not_believed(tmp_path, way):
  complete(tmp_path)
  WAYS[way](tmp_path / LIST)
  [problem] = verify.check(tmp_path)
  assert problem.startswith(f"{tmp_path / LIST}: it")
  assert problem.endswith("and what it lists was not checked")


@pytest.mark.faults
@pytest.mark.parametrize("change", ["[]", '{"name": 1}', "[" * 9])
def test_a_list_of_the_same_size_that_lists_nothing_is_told(tmp_path, change):
  complete(tmp_path)
  content = (tmp_path / LIST).read_bytes()
  line = content.index(b"\n")
  (tmp_path / LIST).write_bytes(change.encode().ljust(line) + content[line:])
  with pytest.raises(UserError, match=r"list.jsonl: it is not the list"):
    artifacts.begin(tmp_path, {})


def test_a_folder_without_a_listed_file_cannot_be_completed(tmp_path):
  complete(tmp_path)
  (tmp_path / NAMES[3]).unlink()
  with pytest.raises(UserError, match="cannot be completed without.*3.png"):
    artifacts.finish(tmp_path, {}, {LIST: COUNT}, lists=[LIST])


def test_files_in_a_bucket_are_checked(bucket):
  complete(bucket)
  assert artifacts.begin(bucket, {}) and not artifacts.damage(bucket)
  (epath.Path(bucket) / NAMES[2]).write_bytes(b"!")
  (epath.Path(bucket) / NAMES[8]).unlink()
  assert artifacts.damage(bucket).keys() == {NAMES[2], NAMES[8]}
