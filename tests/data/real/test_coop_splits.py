"""CoOp's split files and its few-shot pickles, which are never executed."""

import io
import json
import os
import pickle
import random
import sys
import types

import pytest
from PIL import Image

from synthjax.data.pipeline import few_shot
from synthjax.data.real import coop_splits, real_images
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError

SPACE = spaces.parse_space(
  {
    "name": "caltech3",
    "classes": [
      {"name": "airplane", "key": "airplanes"},
      {"name": "car side", "key": "car_side"},
      {"name": "leopard", "key": "Leopards"},
    ],
  },
  where="tiny",
)
# As CoOp numbers them: folders sorted with upper case first.
THEIRS = {"leopard": 0, "airplane": 1, "car_side": 2}
FOLDERS = {
  "leopard": "Leopards",
  "airplane": "airplanes",
  "car_side": "car_side",
}


def rows(first, last):
  return [
    [f"{FOLDERS[name]}/image_{i:04}.png", label, name]
    for i in range(first, last)
    for name, label in THEIRS.items()
  ]


@pytest.fixture
def folder(tmp_path):
  split = {"train": rows(0, 6), "val": rows(6, 8), "test": rows(8, 9)}
  (tmp_path / "split_zhou_Caltech3.json").write_text(json.dumps(split))
  for path, _, _ in sum(split.values(), []):
    file = tmp_path / "images" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2)).save(file)
  return tmp_path


def block_of(folder, split="train", file="split_zhou_Caltech3.json"):
  path, split_file = str(folder / "images"), str(folder / file)
  return dict(kind="coop", path=path, split_file=split_file, split=split)


def change(folder, edit):
  path = folder / "split_zhou_Caltech3.json"
  split = json.loads(path.read_text())
  edit(split)
  path.write_text(json.dumps(split))


def test_rows_keep_their_order_and_take_our_labels(folder):
  source = real_images.open_real(block_of(folder), SPACE)
  assert len(source) == 18
  assert [source[i]["id"] for i in range(3)] == [r[0] for r in rows(0, 1)]
  assert source.labels.tolist() == [2, 0, 1] * 6
  assert source[0]["image"].shape == (2, 2, 3)
  assert len(real_images.open_real(block_of(folder, "validation"), SPACE)) == 6
  assert len(real_images.open_real(block_of(folder, "test"), SPACE)) == 3


def test_names_that_fit_no_class_are_listed_at_once(folder):
  def edit(split):
    for row in split["train"]:
      if row[2] != "leopard":
        row[0], row[2] = row[0].replace("a", "o", 2), row[2] + "x"

  change(folder, edit)
  with pytest.raises(UserError) as error:
    real_images.open_real(block_of(folder), SPACE)
  message = str(error.value)
  assert (
    "'airplanex': no class is called so; the nearest is 'airplane" in message
  )
  assert "'car_sidex': no class" in message
  assert "'car side': this class is not there" in message


def test_the_folder_decides_about_a_name_of_two_classes(folder):
  """As are ImageNet's two missiles and its two sunglasses."""
  space = SPACE._replace(
    classes=tuple(c._replace(name="missile") for c in SPACE.classes)
  )

  def edit(split):
    for row in split["train"]:
      row[2] = "missile"

  change(folder, edit)
  source = real_images.open_real(block_of(folder), space)
  assert source.labels.tolist() == [2, 0, 1] * 6


def test_labels_that_mix_two_classes_are_refused(folder):
  change(folder, lambda split: split["train"][0].__setitem__(1, 1))
  with pytest.raises(UserError) as error:
    real_images.open_real(block_of(folder), SPACE)
  assert "its label 1 has the names 'leopard', 'airplane'" in str(error.value)


def test_images_that_are_not_there_are_counted(folder):
  (folder / "images/Leopards/image_0000.png").unlink()
  (folder / "images/Leopards/image_0001.png").unlink()
  with pytest.raises(
    UserError, match="2 of 18 images.*Leopards/image_0000.png"
  ):
    real_images.check_real(block_of(folder), SPACE)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("{", "Cannot read the splits"),
    ("[]", r"must hold a list of \[path, label, class name\]"),
    ('{"train": [["a.png", "0", "cat"]]}', "must hold a list"),
    ('{"train": [["a.png", true, "cat"]]}', "must hold a list"),
    (None, "Cannot read the splits"),
  ],
)
def test_another_file_is_refused(folder, text, words):
  path = folder / "split_zhou_Caltech3.json"
  path.unlink() if text is None else path.write_text(text)
  with pytest.raises(UserError, match=words):
    real_images.open_real(block_of(folder), SPACE)


def test_a_split_that_is_not_there_is_named(folder):
  change(folder, lambda split: split.pop("test"))
  with pytest.raises(UserError, match="Allowed: train, validation"):
    real_images.open_real(block_of(folder, "test"), SPACE)


# --- few-shot pickles -------------------------------------------------------


@pytest.fixture
def datum(monkeypatch):
  """Makes a stand-in for Dassl's class, under the name that pickles have."""
  name = "dassl.data.datasets.base_dataset"
  module = types.ModuleType(name)

  class Datum:
    def __init__(self, impath, label, classname):
      self._impath, self._label, self._domain = impath, label, 0
      self._classname = classname

  Datum.__module__, Datum.__qualname__ = name, "Datum"
  module.Datum = Datum
  for parent in ("dassl", "dassl.data", "dassl.data.datasets"):
    monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
  monkeypatch.setitem(sys.modules, name, module)
  return Datum


def draw_as_dassl(items, shots):
  """Draws by label from Python's global random numbers; all, if too few."""
  tracker = {}
  for item in items:
    tracker.setdefault(item[1], []).append(item)
  drawn = [
    random.sample(each, shots) if len(each) >= shots else each
    for each in tracker.values()
  ]
  return sum(drawn, [])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_draw_is_read_wherever_it_was_made(folder, datum, protocol):
  root = "/home/someone/data/caltech/images"
  draw = {
    "train": [datum(f"{root}/{p}", y, c) for p, y, c in rows(0, 2)],
    "val": [datum(f"{root}/{p}", y, c) for p, y, c in rows(6, 7)],
  }
  path = folder / "split_fewshot" / "shot_2-seed_1.pkl"
  path.parent.mkdir()
  path.write_bytes(pickle.dumps(draw, protocol=protocol))
  block = block_of(folder, file="split_fewshot/shot_2-seed_1.pkl")
  source = real_images.open_real(block, SPACE)
  assert [source[i]["id"] for i in range(6)] == [r[0] for r in rows(0, 2)]
  assert source.labels.tolist() == [2, 0, 1] * 2
  assert len(real_images.open_real(block | {"split": "validation"}, SPACE)) == 3
  with pytest.raises(UserError, match="Allowed: train, validation"):
    real_images.open_real(block | {"split": "test"}, SPACE)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("shots", [1, 2, 5])  # 5: too few for validation
def test_our_draw_is_the_one_of_the_pickle(folder, datum, shots, seed):
  """Drawn as CoOp does, from one stream: training first, then validation."""
  random.seed(seed)
  drawn = [
    draw_as_dassl(rows(0, 6), shots),
    draw_as_dassl(rows(6, 8), min(shots, 4)),
  ]
  data = {
    s: [datum(f"/x/{p}", y, c) for p, y, c in each]
    for s, each in zip(("train", "val"), drawn, strict=True)
  }
  stored = coop_splits.read_draw(io.BytesIO(pickle.dumps(data, protocol=5)))

  pools = [
    real_images.open_real(block_of(folder, s), SPACE)
    for s in ("train", "validation")
  ]
  ours = few_shot.draw_splits(
    "coop",
    *(pool.labels for pool in pools),
    num_classes=3,
    shots=shots,
    seed=seed,
  )
  for pool, picked, split in zip(pools, ours, ("train", "val"), strict=True):
    ids = [pool[int(row)]["id"] for row in picked]
    assert ids == [each.impath.removeprefix("/x/") for each in stored[split]]


class Evil:
  def __reduce__(self):
    return os.system, ("touch /tmp/synthjax_was_here",)


def dump(value) -> bytes:
  return pickle.dumps(value, protocol=5)


@pytest.mark.faults
@pytest.mark.parametrize(
  ("data", "words"),
  [
    (
      dump({"train": [Evil()]}),
      "asks for (posix|nt).system.*nothing.*executed",
    ),
    (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
    (dump({"train": [types.SimpleNamespace]}), "asks for types.SimpleNamesp"),
    (dump({"train": [{"_impath": "x"}]}), "a dict where a record belongs"),
    (dump([1]), "a list where a dict belongs"),
    (dump({1: []}), "a int where a str belongs"),
    (dump({"train": 1.5}), "a float where a list belongs"),
    (b"\x80\x04]\x94.extra", "a list where a dict belongs"),
    (b"", "cut short or damaged"),
    (dump({"train": ["a" * 50]})[:20], "cut short or damaged"),
    (b"not a pickle", "damaged|operation"),
    (b"\x80\x04h\x07.", "damaged"),
    (b"\x80\x02U\x01aQ.", "uses the operation BINPERSID"),
    (b"\x80\x02cdatasets.utils\nDatum\nK\x01\x85\x81.", "makes an object"),
  ],
)
def test_another_pickle_is_refused_and_not_run(tmp_path, data, words):
  path = tmp_path / "shot_1-seed_1.pkl"
  path.write_bytes(data)
  with pytest.raises(UserError, match=words):
    coop_splits.read_split(path, "train")
  assert not os.path.exists("/tmp/synthjax_was_here")


def test_a_record_is_made_of_texts_and_a_number(datum):
  for fields in ((1, 0, "cat"), ("a", "0", "cat"), ("a", 0, None)):
    with pytest.raises(UserError, match="where a (str|int) belongs"):
      coop_splits.read_draw(io.BytesIO(dump({"train": [datum(*fields)]})))
  bare = datum("a", 0, "cat")
  del bare._label
  with pytest.raises(UserError, match="without _label"):
    coop_splits.read_draw(io.BytesIO(dump({"train": [bare]})))
