"""The command of the data sets, against a local publisher."""

import hashlib

import data_set_layouts
import pytest

from synthjax import datasets
from synthjax.data.real import publishers

pytest_plugins = ("release_server",)  # fixtures


def run(*args, code=None):
  if code is None:
    return datasets.main(args)
  with pytest.raises(SystemExit) as ended:
    datasets.main(args)
  assert ended.value.code == code


@pytest.fixture
def small(publisher, server, monkeypatch):
  """Publishes a small copy of Pets, with hashes; returns its folder."""
  known, folder = publishers.published()["pets"], publisher.parent / "pets"
  data_set_layouts.write("pets", folder)
  hashed = lambda name: hashlib.md5((folder / name).read_bytes()).hexdigest()
  files = tuple(
    a._replace(file=a.file._replace(sha256=None, md5=hashed(a.file.name)))
    for a in known.files
  )
  changed = publishers.published() | {"pets": known._replace(files=files)}
  monkeypatch.setattr(publishers, "published", lambda: changed)
  monkeypatch.setenv("SYNTHJAX_MIRROR", server.url)
  return folder


def test_a_set_is_fetched_unpacked_found_and_counted(
  small, server, tmp_path, capsys
):
  data = ["--data_dir", str(tmp_path / "data")]
  run("list", "pets", *data)
  out = capsys.readouterr().out
  assert "CC-BY-SA-4.0" in out and out.count(", missing\n") == 3
  run("fetch", "pets", *data)
  out = capsys.readouterr().out
  assert out.count("as published, SHA-256") == 3
  folder = tmp_path / "data" / "oxford_pets"
  assert len([*(folder / "images").iterdir()]) == 3 * 37
  asked = len(server.asked)
  run("fetch", "pets", *data)
  assert (
    len(server.asked) == asked and "already there" in capsys.readouterr().out
  )
  run("where", "pets", *data)
  assert str(folder) in capsys.readouterr().out
  # It is small, which is what `check` finds wrong.
  run("check", "pets", *data, code=2)
  out, err = capsys.readouterr()
  row = "pets official train 37, 3,680 expected 37 of 37 WRONG"
  assert row in " ".join(out.split())
  assert "pets (coop, validation): 37, 736 expected images" in err


def test_a_whole_set_is_right_and_missing_files_are_named(
  small, tmp_path, monkeypatch, capsys
):
  folder = tmp_path / "oxford_pets"
  data_set_layouts.write("pets", folder)
  from synthjax.data.real.paper_datasets import BENCHMARKS

  official = BENCHMARKS["pets"]["official"]
  sized = official._replace(
    train=official.train._replace(size=37), test=official.test._replace(size=37)
  )
  monkeypatch.setitem(BENCHMARKS, "pets", {"official": sized})
  run("check", "pets", f"--data_dir={tmp_path}")
  out = capsys.readouterr().out
  assert out.count("right") == 2 and "37 of 37" in out
  (folder / "images" / "pug_2.jpg").unlink()
  run("check", "pets", f"--data_dir={tmp_path}", code=2)
  assert "images/pug_2.jpg" in capsys.readouterr().err


def test_another_file_than_published_is_not_taken(small, tmp_path, capsys):
  (small / "images.tar.gz").write_bytes(b"changed")
  run("fetch", "pets", f"--data_dir={tmp_path}", code=2)
  err = capsys.readouterr().err
  assert "images.tar.gz from" in err and "expected MD5" in err
  assert not (tmp_path / "oxford_pets" / "images").exists()
  assert (tmp_path / "oxford_pets" / "annotations").is_dir()  # the others


def test_what_must_be_got_by_hand_is_said(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(datasets.published, "fetch", lambda *args: None)
  run("fetch", "cars", f"--data_dir={tmp_path}", code=2)
  err = capsys.readouterr().err
  assert "cars_train.tgz, cars_test.tgz, car_devkit.tgz" in err
  assert "must be got by hand" in err and str(tmp_path / "stanford_cars") in err


def test_voc_is_counted(tmp_path, capsys):
  data_set_layouts.write("voc", tmp_path)
  run("check", "voc", f"--data_dir={tmp_path}", code=2)
  out = " ".join(capsys.readouterr().out.split())
  assert "voc 2007 test 20, 4,952 expected 20 of 20 WRONG" in out


@pytest.mark.parametrize(
  ("args", "words"),
  [
    (["fetch", "petz"], "'petz'; did you mean 'pets'?"),
    (["chek", "pets"], "did you mean 'check'?"),
    (["fetch"], "`fetch` needs a name"),
    (["check", "pets", "--data_dir=/no"], "datasets fetch pets"),
  ],
)
def test_a_misspelt_argument_ends_in_one_message(args, words, capsys):
  run(*args, code=2)
  assert words in capsys.readouterr().err
