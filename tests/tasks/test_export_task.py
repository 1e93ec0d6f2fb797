"""The task `export`: what a run drew and kept, and scenes with boxes."""

import pathlib

import ml_collections
import numpy as np
import pytest
import tiny_world
from PIL import Image

from synthjax import main, verify
from synthjax.data.generated import shards, tables
from synthjax.data.real import real_images
from synthjax.labels import spaces
from synthjax.report import checked_files
from synthjax.report.sections import export as export_section
from synthjax.runtime import artifacts, specifications
from synthjax.runtime.errors import UserError
from synthjax.tasks import export

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


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
  columns = {"id": ids, "kept": [each in kept(ids) for each in ids]}
  spec = {"images": images}
  artifacts.begin(workdir / "score", spec)
  artifacts.finish(workdir / "score", spec, {})
  spec = {"scores": artifacts.digest(workdir / "score")}
  artifacts.begin(workdir / "select", spec)
  with artifacts.replace(workdir / "select", "selection.parquet") as path:
    tables.write(path, {"id": "string", "kept": "bool"}, [columns])
  artifacts.finish(workdir / "select", spec, {"selection.parquet": len(ids)})


def ids_of(block, config):
  source = real_images.open_real(block, spaces.load_space(config.space))
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
    source = real_images.open_real(block, space)
    assert {row["id"] for row in source} == want.keys()
    for row in source:
      np.testing.assert_array_equal(row["image"], want[row["id"]]["image"])
      assert row["label"] == want[row["id"]]["label"]
  for name in export.IMAGES:
    artifacts.verify(drawn / "export" / name)
  assert artifacts.load(drawn / "export/webdataset")["files"][
    "train-00000-of-00001.tar"
  ]["rows"] == len(want)


def test_exported_files_are_marked_as_generated(drawn):
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
  with pytest.raises(specifications.SpecMismatch, match="selection"):
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
  with pytest.raises(specifications.SpecMismatch, match="shard_size"):
    export.run(config, str(drawn))


def make_list_of_images(workdir):
  """Exports a list of images; returns the config, the folder, its images."""
  config = make_config(workdir, export={"formats": ("png_folder",)})
  export.run(config, str(workdir))
  folder = workdir / "export/png_folder"
  images = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.png"))
  return config, folder, images


def test_a_folder_of_images_is_listed_by_its_groups(drawn, capsys):
  _, folder, images = make_list_of_images(drawn)
  assert f"12 images in {len(images) + 2} files" in capsys.readouterr().err
  manifest = artifacts.load(folder)
  assert manifest["files"].keys() == {"README.md", "train/metadata.jsonl"}
  [entry] = manifest["groups"]["train/metadata.jsonl"]
  assert entry["rows"] == len(images) == 12
  assert not verify.check(folder)
  run = checked_files.open_run(drawn, ())
  [about] = export_section.gather(run, {})["exports"]
  sizes = [p.stat().st_size for p in folder.rglob("*.*") if p.is_file()]
  assert about["files"] == 14
  assert about["bytes"] == sum(sizes) - sum(
    (folder / name).stat().st_size for name in ("spec.json", "manifest.json")
  )


def test_an_export_that_lists_each_image_stays_complete(drawn):
  """Versions before December 2026 wrote such manifests."""
  config, folder, images = make_list_of_images(drawn)
  manifest = artifacts.load(folder)
  rows = {name: file["rows"] for name, file in manifest["files"].items()}
  (folder / "manifest.json").unlink()
  artifacts.finish(
    folder, manifest["spec"], rows | dict.fromkeys(images, 1), images=12
  )
  before = (folder / "manifest.json").read_bytes()
  assert "groups" not in artifacts.load(folder)
  export.run(config, str(drawn))
  assert (folder / "manifest.json").read_bytes() == before
  assert not verify.check(folder)
  (folder / images[3]).write_bytes(b"")
  [problem] = verify.check(folder)
  assert f"{images[3]}: it has 0 bytes instead of" in problem
  with pytest.raises(UserError, match=images[3]):
    export.run(config, str(drawn))


def test_a_stopped_export_of_images_ends_in_the_same_manifest(drawn):
  config, folder, images = make_list_of_images(drawn)
  manifest = folder / "manifest.json"
  before = manifest.read_bytes()
  manifest.unlink()
  (folder / "train/metadata.jsonl").unlink()
  for name in images[::2]:
    (folder / name).unlink()
  times = [(folder / name).stat().st_mtime_ns for name in images[1::2]]
  export.run(config, str(drawn))
  assert manifest.read_bytes() == before
  assert times == [(folder / n).stat().st_mtime_ns for n in images[1::2]]


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
    ({"split": "../x"}, "split='../x': needed letters"),
    ({"shuffle": "a", "quality": 0}, "quality=0: needed(.|\n)*shuffle='a': "),
    ({"selection": "yes"}, "selection='yes': needed True or False"),
    ({"image_format": "gif"}, "one of png, jpeg, webp"),
    ({"quality": 90}, "quality=90 is of jpeg and webp"),
    ({"formats": ("webdataset", 3)}, r"formats.*3.*: needed text"),
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
def test_a_command_line_with_bad_formats_gets_the_allowed_ones(
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
