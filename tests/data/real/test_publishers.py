"""Every data set from its publisher's archives, packed and unpacked."""

import io
import pickle
import tarfile
import zipfile

import data_set_layouts
import numpy as np
import pytest
from data_set_layouts import LAYOUTS

from synthjax.data.real import cifar, publishers, real_images
from synthjax.data.real.paper_datasets import BENCHMARKS
from synthjax.detection import sources
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

# Those of thousands of files.
LARGE = (
  "birdsnap",
  "caltech256",
  "cub",
  "imagenet",
  "imagenet_sketch",
  "sun397",
)
SETS = [
  pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [])
  for name in BENCHMARKS
]


def open_all(name, root):
  """Opens every split that the publisher's files have; sizes by splits."""
  sizes = {}
  for key, splits in BENCHMARKS[name].items():
    space = spaces.load_space(splits.space)
    for split in ("train", "validation", "test"):
      part = getattr(splits, split)
      if not part or not part.files or key == "held_out":
        continue  # the last needs 50,000 rows
      block, _ = real_images.resolve(name, split, space, key, root)
      source = real_images.open_real(block, space)
      assert set(source.labels) == set(range(len(space.classes))), (key, split)
      sizes[key, split] = len(source)
      if name != "caltech256":  # whose images are empty here
        row = source[0]
        assert row["image"].dtype == np.uint8 and row["image"].ndim == 3
        assert row["label"] == source.labels[0]
  return sizes


def test_every_data_set_has_a_layout():
  assert {*LAYOUTS} == {*publishers.published()} == {*BENCHMARKS, "voc"}


@pytest.mark.parametrize("name", SETS)
def test_a_data_set_is_read_packed_and_unpacked(name, tmp_path, capsys):
  known = publishers.published()[name]
  folder = tmp_path / known.folders[0]
  data_set_layouts.write(name, folder)
  packed = [archive for archive in known.files if archive.gives]
  sizes = open_all(name, tmp_path)
  assert sizes
  assert capsys.readouterr().err.count("Unpacking") == len(packed)
  for archive in packed:
    (folder / archive.file.name).unlink()
  assert open_all(name, tmp_path) == sizes


def test_voc_is_read_packed_and_unpacked(tmp_path):
  space = spaces.load_space("voc")
  data_set_layouts.write("voc", tmp_path)  # at the top, for once
  for place in (tmp_path, tmp_path, tmp_path / "VOCdevkit"):
    block = dict(kind="voc", data_dir=str(place))
    train = dict(sets=(("2007", "trainval"), ("2012", "trainval")))
    source = sources.open_detection(block | train, space, drop_empty=True)
    assert [len(row["labels"]) for row in source] == [1] * 40
    test = block | dict(sets=(("2007", "test"),))
    assert len(sources.open_detection(test, space)) == 20
    for archive in tmp_path.glob("*.tar"):
      archive.unlink()


def test_a_set_that_is_not_there_names_the_command(tmp_path):
  space = spaces.load_space("pets")
  block = dict(kind="benchmark", name="pets", split="test")
  block["data_dir"] = str(tmp_path)
  with pytest.raises(UserError) as error:
    real_images.check_real(block, space)
  for words in (
    "oxford_pets lacks images, annotations, also packed.",
    f"`python -m synthjax.datasets fetch pets --data_dir={tmp_path}`",
    f"tfds.builder('oxford_iiit_pet', data_dir='{tmp_path}', file_format='arr",
    "after `pip install 'synthjax[tfds]'`",
  ):
    assert words in str(error.value)
  voc = dict(kind="voc", data_dir=str(tmp_path), sets=(("2007", "test"),))
  with pytest.raises(UserError, match="synthjax.datasets fetch voc"):
    sources.open_detection(voc, spaces.load_space("voc"))


@pytest.mark.parametrize("name", ["EuroSAT.zip", "cut.tar.gz"])
@pytest.mark.faults
def test_a_damaged_archive_is_named_and_unpacked_again(
  name, tmp_path, monkeypatch
):
  """Also where part of it was unpacked before the damage."""
  folder, space = tmp_path / "eurosat", spaces.load_space("eurosat")
  data_set_layouts.write("eurosat", folder)
  archive = folder / "EuroSAT.zip"
  whole = archive.read_bytes()
  if name == "cut.tar.gz":
    with zipfile.ZipFile(archive) as packed:
      packed.extractall(folder / "EuroSAT.tar.gz")
    archive.unlink()
    archive = folder / "EuroSAT.tar.gz"
    data_set_layouts.tar(archive, "w:gz")
    whole = archive.read_bytes()
    known = publishers.published()["eurosat"]
    files = tuple(
      a._replace(file=a.file._replace(name="EuroSAT.tar.gz")) if a.gives else a
      for a in known.files
    )
    changed = {"eurosat": known._replace(files=files)}
    monkeypatch.setattr(publishers, "published", lambda: changed)
  archive.write_bytes(whole[: len(whole) // 2])
  for _ in range(2):
    with pytest.raises(UserError, match=f"{archive} cannot be unpacked"):
      real_images.resolve("eurosat", "test", space, None, tmp_path)
  archive.write_bytes(whole)
  block, _ = real_images.resolve("eurosat", "test", space, None, tmp_path)
  assert len(real_images.open_real(block, space)) == 10
  assert not list(folder.glob("**/*unpacking*"))


@pytest.mark.parametrize("compression", ["", "gz"])
@pytest.mark.faults
def test_an_archive_is_refused_wherever_it_was_cut(tmp_path, compression):
  """Python's tarfile takes a cut in or before a header for the end."""
  path, rng = tmp_path / "x.tar", np.random.default_rng(0)
  with tarfile.open(path, f"w:{compression}") as archive:
    for number in range(3):
      info = tarfile.TarInfo(f"{number}.bin")
      info.size = 600
      archive.addfile(info, io.BytesIO(rng.bytes(600)))
  whole = path.read_bytes()
  end = len(whole) - 80 if compression else 3 * 3 * 512  # of what it holds
  unpack = lambda: publishers.unpack(
    path,
    tmp_path / "into",
    is_there=lambda: (tmp_path / "into" / "2.bin").exists(),
    again="x",
  )
  for size in range(1, end, 64):
    path.write_bytes(whole[:size])
    with pytest.raises(UserError, match="x.tar cannot be unpacked"):
      unpack()
  path.write_bytes(whole)
  unpack()
  assert (tmp_path / "into" / "2.bin").stat().st_size == 600


def test_a_member_outside_of_the_archive_is_refused(tmp_path):
  path = tmp_path / "x.tar"
  with tarfile.open(path, "w") as archive:
    archive.addfile(tarfile.TarInfo("../outside.txt"))
  with pytest.raises(UserError, match="x.tar cannot be unpacked.*outside"):
    publishers.unpack(
      path, tmp_path / "into", is_there=lambda: False, again="x"
    )
  assert not (tmp_path / "outside.txt").exists()


def test_what_another_process_has_unpacked_meanwhile_is_left(tmp_path, capsys):
  path, there = tmp_path / "x.tar", iter([False, True])
  with tarfile.open(path, "w") as archive:
    archive.addfile(tarfile.TarInfo("a.txt"))
  publishers.unpack(
    path, tmp_path / "into", is_there=lambda: next(there), again="x"
  )
  assert not (tmp_path / "into").exists()
  assert [file.name for file in tmp_path.iterdir()] == ["x.tar"]
  assert "Unpacking" not in capsys.readouterr().err


def test_cifar_has_red_green_and_blue_where_they_belong(tmp_path):
  data_set_layouts.write("cifar100", tmp_path)  # at the top
  space = spaces.load_space("cifar100")
  block, _ = real_images.resolve("cifar100", "test", space, None, tmp_path)
  source = real_images.open_real(block, space)
  assert source[7]["image"].shape == (32, 32, 3)
  assert source[7]["image"][5, 6].tolist() == [7, 1, 2]
  assert source[7]["id"] == "cifar-100-python/test/7"
  large = real_images.open_real(block | {"image_size": 64}, space)
  assert large[7]["image"].shape == (64, 64, 3)


def test_a_pickle_of_cifar_that_asks_for_more_is_refused(tmp_path):
  data_set_layouts.write("cifar10", tmp_path)
  folder, space = tmp_path / "cifar-10-batches-py", spaces.load_space("cifar10")
  real_images.resolve("cifar10", "test", space, None, tmp_path)
  (folder / "test_batch").write_bytes(pickle.dumps({"data": print}))
  with pytest.raises(UserError, match="test_batch is no file of CIFAR.*print"):
    cifar.open_cifar(folder, "test", space=space)
  data = np.zeros((3, 3072), np.uint8)
  for labels, words in (
    (["a", "b", "c"], "test_batch holds no labels"),
    ([0, -1, 2], "has the label -1, but 10 names"),
    ([1, 2, 0], ""),
  ):
    content = pickle.dumps({b"data": data, b"labels": labels})
    (folder / "test_batch").write_bytes(content)
    cifar._read_split.cache_clear()
    if words:
      with pytest.raises(UserError, match=words):
        cifar.open_cifar(folder, "test", space=space)
  assert cifar.open_cifar(folder, "test", space=space).labels.tolist() == [
    *(1, 2, 0)
  ]


def test_the_binary_version_of_cifar_has_the_same_rows(tmp_path):
  folder = tmp_path / "cifar-100-binary"
  folder.mkdir()
  space = spaces.load_space("cifar100")
  names = (c.name.replace(" ", "_") for c in space.classes)
  (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n")
  rows = data_set_layouts.pixels([3, 9])
  labels = np.array([[7, 3], [8, 9]], np.uint8)  # coarse, fine
  np.concatenate([labels, rows], 1).tofile(folder / "test.bin")
  source = cifar.open_cifar(folder, "test", space=space)
  assert [row["label"] for row in source] == [3, 9]
  assert source[1]["image"][31, 31].tolist() == [9, 1, 2]
  with pytest.raises(UserError, match="lacks train.bin: unpack"):
    cifar.open_cifar(folder, "train", space=space)
