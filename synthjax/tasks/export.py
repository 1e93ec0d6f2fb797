"""Writes generated images in formats that other tools read.

Each format is a folder of the workdir's `export`, with a manifest of its own:
more formats may be added later, and each folder can be given away by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.data.formats import (
  coco,
  export_rows,
  parquet,
  png_folder,
  webdataset,
)
from synthjax.data.generated import clip_filter, drawn_images, scores
from synthjax.data.pipeline import codecs
from synthjax.data.pipeline.rows import Source
from synthjax.detection import sources, voc
from synthjax.labels import file_names, spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import (
  COUNT,
  FLAG,
  TEXT,
  WHOLE,
  Kind,
  UserError,
  unknown_names,
)
from synthjax.runtime.progress import counter, say

IMAGES = ("webdataset", "png_folder", "parquet")  # of `generate`
SCENES = ("coco", "voc")  # of the scenes that config.detect composes
ENCODING = codecs.VALUES
KNOWN = {
  # Of IMAGES and SCENES; all that the config has images for.
  "formats": Kind(
    lambda x: isinstance(x, str | tuple | list), "names of formats"
  ),
  # Only the images that `select` kept; if config.select is there.
  "selection": FLAG,
  "split": TEXT,  # what the images are called; "train"
  "shard_size": COUNT,  # images of a file of webdataset and parquet; 1,000
  "shuffle": WHOLE,  # a seed for the order in these files; as drawn
  **ENCODING,  # makes the images anew, see data.encoded; as stored
}
YEAR = "2007"  # of VOC's folder
VOC_SPLITS = {"validation": "val"}  # as VOC calls it
_SPLITS = ("train", "validation", "test")


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that there are images of each format, or will be."""
  block, workdir = _read(config), epath.Path(workdir)
  codecs.check_encoding(**_encoding(block))
  problems = []
  if not file_names.is_word(block["split"]):
    problems.append(f"split={block['split']!r} must be letters, digits and _")
  if not block["formats"]:
    known = _available(config)
    problems.append(
      f"formats is empty: give some of {', '.join(known)}, for instance by "
      f"--config.export.formats={known[0]}"
    )
  if set(SCENES) & set(block["formats"]) and not _scenes(config):
    problems.append(
      f"{' and '.join(SCENES)} need boxes: a block config.detect with "
      'kind="scenes"; drawn images have labels alone'
    )
  if problems:
    raise UserError(f"config.export: {'; '.join(problems)}.")
  if "parquet" in block["formats"]:
    parquet.check_installed()
  _space(config, of_scenes=bool(set(SCENES) & set(block["formats"])))
  if set(IMAGES) & set(block["formats"]):
    for task in ("generate", "select")[: 1 + block["selection"]]:
      if task not in config.tasks:
        artifacts.load(workdir / task)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves a folder for each format."""
  block, workdir = _read(config), epath.Path(workdir)
  for name in block["formats"]:
    folder = workdir / "export" / name
    if name in SCENES:
      _export_scenes(name, config, folder)
    else:
      _export_images(name, block, _space(config), workdir, folder)


# --- labelled images --------------------------------------------------------


def _export_images(
  name: str,
  block: dict[str, Any],
  space: spaces.LabelSpace,
  workdir: epath.Path,
  folder: epath.Path,
) -> None:
  names = file_names.unique_names(space)
  keys = [each.key or each.name for each in space.classes]
  spec = {
    "format": name,
    "split": block["split"],
    "classes": names,
    "images": artifacts.digest(workdir / "generate"),
    "selection": _selected(workdir) if block["selection"] else None,
    "encoding": _encoding(block),
    "mark": export_rows.SOURCE_TYPE,
  }
  if name == "png_folder":
    write = partial(png_folder.write, keys=keys)
    spec["keys"] = keys
  else:
    module = webdataset if name == "webdataset" else parquet
    write = partial(module.write, shard_size=block["shard_size"])
    spec |= {n: block[n] for n in ("shard_size", "shuffle")}
  if artifacts.begin(folder, spec):
    return
  _check_names(workdir / "generate", names)
  source = drawn_images.open_generated(
    workdir / "generate",
    selection=workdir / "select" / clip_filter.FILE
    if block["selection"]
    else None,
    decode=False,
  )
  rows = export_rows.rows(
    source, encoding=_encoding(block), shuffle=spec.get("shuffle")
  )
  shown = _counted(f"export: {name}", rows)
  written = write(folder, shown, names, split=block["split"])
  artifacts.finish(folder, spec, written, images=len(rows))
  say(f"export: {name}: {len(rows):,} images in {len(written):,} files")


def _counted(label: str, rows: Source) -> Source:
  """Returns the same rows, which tell of each that is read."""
  count_on = counter(label, len(rows))

  def read(index):
    count_on()
    return rows[index]

  return Source(len(rows), read)


def _selected(workdir: epath.Path) -> str:
  """Returns the digest of a selection, which must be of these images."""
  scores.check_inputs(workdir / "score")
  artifacts.verify(workdir / "select")
  used = artifacts.load(workdir / "select")["spec"].get("scores")
  if used != artifacts.digest(workdir / "score"):
    raise UserError(
      f"{workdir / 'select'} was made by other scores than those in "
      f"{workdir / 'score'}. Delete it yourself and run `select` again, or put "
      "the scores back."
    )
  return artifacts.digest(workdir / "select")


def _check_names(folder: epath.Path, names: Sequence[str]) -> None:
  """Checks that the images were drawn for these classes."""
  path = folder / "label.labels.txt"
  if not path.exists():
    return
  drawn = path.read_bytes().decode().removesuffix("\n").split("\n")
  if drawn != list(names):
    raise UserError(
      f"The images of {folder} are of {len(drawn)} classes, {drawn[0]!r}, ..., "
      f"and config.space has {len(names)}, {names[0]!r}, ...: give the label "
      "space that they were drawn for."
    )


# --- scenes with boxes ------------------------------------------------------


def _export_scenes(name: str, config: ConfigDict, folder: epath.Path) -> None:
  scenes, space = _scenes(config), _space(config, of_scenes=True)
  names = [each.key or each.name for each in space.classes]
  spec = {
    "format": name,
    "classes": names,
    "images": {
      split: sources.identify(fields) for split, fields in scenes.items()
    },
  }
  if artifacts.begin(folder, spec):
    return
  written, counts = {}, {}
  for split, fields in scenes.items():
    source = sources.open_detection(fields, space)
    written |= DETECTION[name](folder, source, names, split=split)
    counts[split] = len(source)
  artifacts.finish(folder, spec, written, images=counts)
  say(f"export: {name}: {sum(counts.values()):,} scenes")


def _write_voc(
  folder: epath.Path, source: Any, names: Sequence[str], *, split: str
) -> dict[str, int]:
  """Writes a split as VOC, whose images are JPEG."""
  split = VOC_SPLITS.get(split, split)
  count = voc.write_voc(folder, source, names, year=YEAR, split=split)
  top = f"VOCdevkit/VOC{YEAR}"
  listed = f"{top}/ImageSets/Main/{split}.txt"
  ids = (folder / listed).read_text().split()
  files = [f"{top}/JPEGImages/{i}.jpg" for i in ids]
  files += [f"{top}/Annotations/{i}.xml" for i in ids]
  return dict.fromkeys(files, 1) | {listed: count}


DETECTION: dict[str, Callable[..., dict[str, int]]] = {
  "coco": coco.write,
  "voc": _write_voc,
}


# --- reading the config -----------------------------------------------------


def _read(config: ConfigDict) -> dict[str, Any]:
  """Returns the block, which may be left out, with its defaults."""
  block = config.get("export") or {}
  validate(block, KNOWN, name="export")
  read = {
    "formats": _available(config),
    "selection": config.get("select") is not None,
    "split": "train",
    "shard_size": 1000,
    "shuffle": None,
  } | {name: value for name, value in block.items() if value is not None}
  if isinstance(read["formats"], str):
    read["formats"] = (read["formats"],)
  # A command line may have "webdataset,parquet" for the tuple.
  listed = [n.strip() for each in read["formats"] for n in str(each).split(",")]
  read["formats"] = tuple(dict.fromkeys(filter(None, listed)))
  if unknown := [n for n in read["formats"] if n not in (*IMAGES, *SCENES)]:
    raise unknown_names("format", unknown, (*IMAGES, *SCENES))
  return read


def _available(config: ConfigDict) -> tuple[str, ...]:
  """Returns the formats that the config has images for."""
  scenes = SCENES if _scenes(config) else ()
  return (IMAGES if "generate" in config or not scenes else ()) + scenes


def _encoding(block: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments of `encoded.encode` that a config gives."""
  return {n: block[n] for n in ENCODING if block.get(n) is not None}


def _scenes(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Returns the splits of config.detect that are composed."""
  block = config.get("detect") or {}
  return {
    split: dict(block[split])
    for split in _SPLITS
    if block.get(split) and block[split].get("kind") == "scenes"
  }


def _space(config: ConfigDict, *, of_scenes: bool = False) -> Any:
  own = (config.get("detect") or {}).get("space") if of_scenes else None
  return spaces.load_space(own or config.space)
