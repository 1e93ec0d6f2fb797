"""The task `export`: what a run drew and kept, and scenes with boxes."""

import json
import pathlib
import pickle

import ml_collections
import numpy as np
import pytest
import tiny_world
from PIL import Image

from synthjax import artifacts, main
from synthjax.data import detection_sources, encoded, real, shards, spaces
from synthjax.data.exports import coco, coco_read
from synthjax.errors import UserError
from synthjax.tasks import export

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
SCENES = {
  "space": "emoji16",
  "train": {"kind": "scenes", "split": "validation", "count": 3, "seed": 1},
  "test": {"kind": "scenes", "split": "validation", "count": 2, "seed": 2},
}


def make_config(folder, **blocks):
  config = ml_collections.ConfigDict({"tasks": ("export",), "seed": 0})
  config.space = tiny_world.write_space(folder)
  config.generate = {}
  for name, block in blocks.items():
    config[name] = block
  return config


def write_selection(workdir, kept):
  """Completes `score` and `select` as far as `export` reads them."""
  images = artifacts.digest(workdir / "generate")
  ids = [row["id"] for row in shards.open_shards(workdir / "generate")]
  rows = [
    {"id": each, "strategy": "basic", "kept": each in kept(ids)} for each in ids
  ]
  spec = {"images": images}
  artifacts.begin(workdir / "score", spec)
  artifacts.finish(workdir / "score", spec, {})
  spec = {"scores": artifacts.digest(workdir / "score")}
  artifacts.begin(workdir / "select", spec)
  with artifacts.replace(workdir / "select", "selection.jsonl") as path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  artifacts.finish(workdir / "select", spec, {"selection.jsonl": len(rows)})


def ids_of(block, config):
  source = real.open_real(block, spaces.load_space(config.space))
  return {row["id"] for row in source}


@pytest.fixture
def drawn(tmp_path):
  tiny_world.write_images(tmp_path)
  return tmp_path


def blocks_of(workdir):
  pytest.importorskip("pyarrow")
  top = workdir / "export"
  return [
    dict(kind="webdataset", path=str(top / "webdataset")),
    dict(kind="folder", path=str(top / "png_folder/train")),
    dict(kind="parquet", path=str(top / "parquet")),
  ]


def test_every_format_has_the_images_that_were_drawn(drawn):
  config = make_config(drawn)
  main.run_tasks(config, str(drawn))
  want = {row["id"]: row for row in shards.open_shards(drawn / "generate")}
  space = spaces.load_space(config.space)
  for block in blocks_of(drawn):
    source = real.open_real(block, space)
    assert {row["id"] for row in source} == want.keys()
    for row in source:
      np.testing.assert_array_equal(row["image"], want[row["id"]]["image"])
      assert row["label"] == want[row["id"]]["label"]
  for name in export.IMAGES:
    artifacts.verify(drawn / "export" / name)
  assert artifacts.load(drawn / "export/webdataset")["files"][
    "train-00000-of-00001.tar"
  ]["rows"] == len(want)


def test_exported_files_tell_that_they_were_generated(drawn):
  config = make_config(drawn, export={"formats": ("png_folder",)})
  export.run(config, str(drawn))
  files = list((drawn / "export/png_folder").rglob("*.png"))
  assert files
  for path in files:
    with Image.open(path) as image:
      assert b"trainedAlgorithmicMedia" in image.info["xmp"]


def test_only_what_was_kept_is_exported_where_the_config_selects(drawn):
  write_selection(drawn, lambda ids: ids[::3])
  config = make_config(drawn, select={})
  export.check(config, str(drawn))
  export.run(config, str(drawn))
  kept = {
    row["id"] for row in list(shards.open_shards(drawn / "generate"))[::3]
  }
  for block in blocks_of(drawn):
    assert ids_of(block, config) == kept

  config.export = {"formats": ("webdataset",), "selection": False}
  with pytest.raises(artifacts.SpecMismatch, match="selection"):
    export.run(config, str(drawn))  # is another data set: not mixed


def test_a_selection_of_other_images_is_refused(drawn):
  write_selection(drawn, lambda ids: ids[:6])
  (drawn / "generate").rename(drawn / "before")
  tiny_world.write_images(drawn, salt=1)
  with pytest.raises(UserError, match="made with other images"):
    export.run(make_config(drawn, select={}), str(drawn))


def test_a_format_can_be_added_and_a_finished_one_is_left_alone(drawn):
  config = make_config(drawn, export={"formats": ("webdataset",)})
  export.run(config, str(drawn))
  manifest = drawn / "export/webdataset/manifest.json"
  before = manifest.stat().st_mtime_ns
  config.export = {"formats": ("webdataset", "png_folder")}
  export.run(config, str(drawn))
  assert manifest.stat().st_mtime_ns == before
  assert (drawn / "export/png_folder/manifest.json").exists()
  config.export = {"formats": ("webdataset",), "shard_size": 5}
  with pytest.raises(artifacts.SpecMismatch, match="shard_size"):
    export.run(config, str(drawn))


def test_images_are_made_anew_by_the_fields_of_generate(drawn):
  block = {
    "formats": "png_folder",
    "image_format": "jpeg",
    "quality": 90,
    "image_size": 16,
  }
  export.run(make_config(drawn, export=block), str(drawn))
  files = list((drawn / "export/png_folder").rglob("*.jpg"))
  assert len(files) == 12
  with Image.open(files[0]) as image:
    assert (image.format, image.size) == ("JPEG", (16, 16))


def test_images_of_another_label_space_are_refused(drawn):
  (drawn / "generate/label.labels.txt").write_text("cat\ndog\nfox\n")
  config = make_config(drawn, export={"formats": ("webdataset",)})
  with pytest.raises(UserError, match="3 classes, 'cat', .* 'bird species'"):
    export.run(config, str(drawn))


@pytest.mark.parametrize(
  ("block", "words"),
  [
    ({"format": "coco"}, "did you mean 'formats'"),
    ({"formats": ("webdatasets",)}, "did you mean 'webdataset'"),
    ({"formats": ()}, "formats is empty"),
    ({"formats": ("coco",)}, "coco and voc need boxes"),
    ({"shard_size": 0}, "shard_size=0"),
    ({"split": "../x"}, "split='../x' must be letters"),
    ({"shuffle": "a", "quality": 0}, "shuffle='a': needed.*quality=0: needed"),
    ({"selection": "yes"}, "selection='yes': needed True or False"),
    ({"image_format": "gif"}, "one of png, jpeg, webp"),
    ({"selection": True}, "'select' has not been completed"),
  ],
)
def test_check_refuses_bad_fields(drawn, block, words):
  with pytest.raises(UserError, match=words):
    export.check(make_config(drawn, export=block), str(drawn))


@pytest.mark.parametrize(
  "formats",
  [
    "webdataset,png_folder",
    "('webdataset', 'png_folder')",
    '["webdataset", "png_folder"]',
  ],
)
def test_a_command_line_names_the_formats(drawn, command_line, formats):
  """Of a workdir that is finished, which all else is left alone in."""
  config = command_line(
    f"--config={CONFIGS}/own_labels.py:labels={tiny_world.write_space(drawn)}",
    "--config.tasks=('export',)",
    f"--config.export.formats={formats}",
    "--config.export.shuffle=7",
    "--config.export.selection=false",
  )
  main.run_tasks(config, str(drawn))
  made = {path.name for path in (drawn / "export").iterdir()}
  assert made == {"webdataset", "png_folder"}
  spec = artifacts.load(drawn / "export/webdataset")["spec"]
  assert spec["shuffle"] == 7 and spec["shard_size"] == 1000


@pytest.mark.parametrize(
  ("config", "formats", "words"),
  [
    (
      "own_labels.py",
      "()",
      "give some of webdataset, png_folder, parquet",
    ),
    ("own_labels.py", "png_foldr", "did you mean 'png_folder'"),
    ("own_labels.py", "coco", "need boxes"),
    ("detect_voc.py", "voc", "need boxes"),
  ],
)
def test_a_command_line_is_told_which_formats_there_are(
  drawn, command_line, config, formats, words
):
  config = command_line(
    f"--config={CONFIGS / config}", f"--config.export.formats={formats}"
  )
  with pytest.raises(UserError, match=words):
    export.check(config, str(drawn))


def test_embedded_detection_exports_its_scenes(drawn, command_line):
  config = command_line(
    f"--config={CONFIGS}/detect_voc.py:runlocal",
    "--config.export.formats=coco,voc",
  )
  export.check(config, str(drawn))


def test_check_asks_for_the_images_themselves(tmp_path):
  with pytest.raises(UserError, match="'generate' has not been completed"):
    export.check(make_config(tmp_path), str(tmp_path))


# --- scenes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  """Exports 3 + 2 scenes as COCO and VOC; returns workdir and config."""
  workdir = tmp_path_factory.mktemp("scenes")
  config = ml_collections.ConfigDict(
    {"tasks": ("export",), "seed": 0, "space": "emoji16", "detect": SCENES}
  )
  export.check(config, str(workdir))
  export.run(config, str(workdir))
  return workdir, config


def assert_same_objects(found, want):
  for name in ("boxes", "labels", "difficult"):
    assert found[name].dtype == want[name].dtype
    np.testing.assert_array_equal(found[name], want[name])
  assert (found["id"], tuple(found["size"])) == (want["id"], want["size"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_come_back_from_coco_and_voc(scenes, split):
  """From COCO every pixel; VOC's are JPEG, of the quality 95."""
  workdir, _ = scenes
  space, top = spaces.load_space("emoji16"), workdir / "export"
  want = detection_sources.open_detection(SCENES[split], space)
  found = detection_sources.open_detection(
    dict(kind="coco", path=str(top / "coco"), split=split), space
  )
  found = pickle.loads(pickle.dumps(found))
  voc = detection_sources.open_detection(
    dict(kind="voc", data_dir=str(top / "voc"), sets=(("2007", split),)), space
  )
  assert len(found) == len(voc) == len(want) == SCENES[split]["count"]
  np.testing.assert_array_equal(found.sizes, want.sizes)
  for i in range(len(want)):
    row = want[i]
    for other in (found, voc):
      assert_same_objects(other[i], row)
      assert_same_objects(other.annotate(i), row)
    np.testing.assert_array_equal(found[i]["image"], row["image"])
    error = np.abs(voc[i]["image"].astype(int) - row["image"])
    assert error.mean() < 4


def test_the_manifests_of_scenes_hold_every_file(scenes):
  workdir, config = scenes
  for name in export.SCENES:
    folder = workdir / "export" / name
    artifacts.verify(folder)
    files = {
      str(path.relative_to(folder))
      for path in folder.rglob("*.*")
      if path.name not in ("manifest.json", "spec.json") and path.is_file()
    }
    assert files == artifacts.load(folder)["files"].keys()
    assert artifacts.load(folder)["summary"]["images"] == {
      "train": 3,
      "test": 2,
    }
  before = artifacts.digest(workdir / "export/coco")
  export.run(config, str(workdir))
  assert artifacts.digest(workdir / "export/coco") == before


def test_an_interrupted_export_of_scenes_ends_in_the_same_bytes(
  scenes, tmp_path
):
  workdir, config = scenes
  folder = workdir / "export/coco"
  spec = artifacts.load(folder)["spec"]
  artifacts.begin(tmp_path / "export/coco", spec)
  source = detection_sources.open_detection(
    SCENES["train"], spaces.load_space("emoji16")
  )
  # As if stopped within the split: the images are there, the list is not.
  names = spec["classes"]
  coco.write(tmp_path / "export/coco", source, names, split="train")
  (tmp_path / "export/coco/annotations/instances_train.json").unlink()
  with config.unlocked():
    config.export = {"formats": ("coco",)}
  export.run(config, str(tmp_path))
  assert artifacts.digest(tmp_path / "export/coco") == artifacts.digest(folder)


# --- COCO -------------------------------------------------------------------


def write_coco(folder, **changes):
  """Writes two images of 8 x 6 px and what COCO says of them."""
  content = {
    "images": [
      {"id": 9, "file_name": "a.png", "height": 6, "width": 8},
      {"id": 4, "file_name": "b.png", "height": 6, "width": 8},
    ],
    "annotations": [
      {"id": 1, "image_id": 4, "category_id": 18, "bbox": [1, 2, 3, 4.5]},
      {
        "id": 2,
        "image_id": 4,
        "category_id": 1,
        "bbox": [0, 0, 8, 6],
        "iscrowd": 1,
      },
      {"id": 3, "image_id": 4, "category_id": 1, "bbox": [2, 2, 0, 3]},
    ],
    "categories": [
      {"id": 1, "name": "person"},
      {"id": 18, "name": "Dog"},
      {"id": 90, "name": "toothbrush"},
    ],
  } | changes
  (folder / "val2017").mkdir()
  (folder / "annotations").mkdir()
  for name in ("a", "b"):
    Image.new("RGB", (8, 6)).save(folder / "val2017" / f"{name}.png")
  path = folder / "annotations/instances_val2017.json"
  path.write_text(json.dumps(content))
  return path


def test_cocos_own_layout_is_read(tmp_path):
  """A box that passes the border is clipped; one without an area left out."""
  write_coco(tmp_path)
  source = coco_read.open_coco(tmp_path, "val2017", {"dog": 0, "person": 5})
  first, second = source
  assert (first["id"], second["id"]) == ("a", "b")
  assert first["boxes"].shape == (0, 4) and source.max_objects == 2
  assert second["boxes"].tolist() == [[1, 2, 4, 6], [0, 0, 8, 6]]
  assert second["labels"].tolist() == [0, 5]
  assert second["difficult"].tolist() == [False, True]
  assert second["image"].shape == (6, 8, 3)
  kept = coco_read.open_coco(
    tmp_path, "val2017", {"dog": 0, "person": 5}, drop_empty=True
  )
  assert [row["id"] for row in kept] == ["b"]


@pytest.mark.faults
def test_all_that_is_wrong_with_coco_is_listed(tmp_path):
  note = {"image_id": 4, "category_id": 18}
  write_coco(
    tmp_path,
    images=[
      {"id": 4, "file_name": "b.png", "height": 6, "width": 8},
      {"id": 4, "file_name": "a.png", "height": 6, "width": 8},
      {"id": 5, "file_name": "../c.png", "height": 6, "width": 8},
      {"id": 6, "file_name": "d.png", "height": 0, "width": 8},
      {"id": 7, "file_name": "gone.png", "height": 6, "width": 8},
      {"id": 8, "file_name": "e.png"},
      "no image",
    ],
    annotations=[
      note | {"id": 1, "bbox": [0, 0, 10, 3]},
      note | {"id": 2, "bbox": [0, 0, -1, 3]},
      note | {"id": 3, "bbox": [0, 0, 1]},
      note | {"id": 4, "bbox": [0, 0, 1, 1], "image_id": 99},
      note | {"id": 5, "bbox": [0, 0, 1, 1], "category_id": 7},
      note | {"id": 6, "bbox": [0, 0, float("nan"), 1]},
      note | {"id": 7, "bbox": [0, 0, 1, 1]},
      note,
    ],
  )
  with pytest.raises(UserError) as error:
    coco_read.open_coco(tmp_path, "val2017", {"person": 0})
  message = str(error.value)
  for words in (
    "image 4 (a): is there twice",
    "image 5 (../c): has the file_name '../c.png', which leads elsewhere",
    "image 6 (d): has 8 x 0 pixels",
    "gone.png: is not there",
    "images[5]: lacks height, width",
    "images[6]: lacks id",
    "annotation 1: has the bbox [0, 0, 10, 3], outside of 8 x 6 pixels",
    "annotation 2: has the bbox [0, 0, -1, 3], which is no rectangle",
    "annotation 3: has the bbox [0, 0, 1], which is not four numbers",
    "annotation 4: is of the image 99",
    "annotation 5: is of the category 7",
    "annotation 6: has the bbox [0, 0, nan, 1]",
    "annotations[7]: lacks bbox",
    "category 'Dog': no class is called so",
  ):
    assert words in message, message


@pytest.mark.faults
@pytest.mark.parametrize(
  ("text", "words"),
  [("{", "is damaged"), ("[]", "lacks the lists images, annotations")],
)
def test_a_damaged_file_of_coco_is_named(tmp_path, text, words):
  write_coco(tmp_path).write_text(text)
  with pytest.raises(UserError, match=words):
    coco_read.open_coco(tmp_path, "val2017", {"person": 0})
  with pytest.raises(UserError, match="instances_train2017.json is not there"):
    coco_read.open_coco(tmp_path, "train2017", {"person": 0})


@pytest.mark.faults
def test_an_image_of_another_size_shows_when_it_is_read(tmp_path):
  write_coco(tmp_path)
  source = coco_read.open_coco(tmp_path, "val2017", {"dog": 0, "person": 5})
  path = tmp_path / "val2017/a.png"
  path.write_bytes(encoded.encode_png(np.zeros((5, 5, 3), np.uint8)))
  with pytest.raises(UserError, match="has 5 x 5 pixels"):
    source[0]
  path.write_bytes(b"no image")
  with pytest.raises(UserError, match="cannot be read as an image"):
    source[0]
