"""Writes generated images in formats that other tools read.

Each format is a folder of the workdir's `export`, with a manifest of its own:
more formats may be added later, and each folder can be given away by itself.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.config.schema import Count, Flag, Rule, Whole
from synthjax.data.formats import (
  coco,
  export_rows,
  parquet,
  png_folder,
  webdataset,
)
from synthjax.data.generated import drawn_images, filters, scores
from synthjax.data.pipeline import codecs
from synthjax.data.pipeline.rows import Source
from synthjax.detection import sources, voc
from synthjax.labels import class_names, file_names, spaces
from synthjax.runtime import artifacts, engine
from synthjax.runtime.engine import Work
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.progress import counter, say

IMAGES = ("webdataset", "png_folder", "parquet")  # of `generate`
SCENES = ("coco", "voc")  # of the scenes that config.detect composes
YEAR = "2007"  # of VOC's folder
VOC_SPLITS = {"validation": "val"}  # as VOC calls it
_SPLITS = ("train", "validation", "test")
PROCESSES = "shared"  # each writes the numbered files that no other one has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export(codecs.Encoding):
  """config.export; images keep their bytes without a field of `Encoding`."""

  # Of IMAGES and SCENES, as a tuple or "webdataset,parquet". By default all
  # that the config has images for.
  formats: str | tuple[str, ...] | None = None
  # Whether only images that `select` kept are exported. By default they are if
  # the config has a block `select`.
  selection: Flag | None = None
  # Name of the images' split.
  split: Annotated[
    str, Rule(file_names.is_word, "letters, digits and _ alone")
  ] = "train"
  shard_size: Count = 1000  # images of a file of webdataset and parquet
  # Seed of the order in these files; by default they are ordered by class.
  shuffle: Whole | None = None

  def names(self, config: ConfigDict) -> tuple[str, ...]:
    """Returns the formats; raises a UserError about unknown ones, or none."""
    if self.formats is None:
      return _available(config)
    texts = (self.formats,) if isinstance(self.formats, str) else self.formats
    names = [name.strip() for text in texts for name in text.split(",")]
    names = tuple(dict.fromkeys(filter(None, names)))
    if unknown := [n for n in names if n not in (*IMAGES, *SCENES)]:
      raise unknown_names("format", unknown, (*IMAGES, *SCENES))
    if not names:
      available = _available(config)
      raise UserError(
        f"config.export.formats is empty: give some of {', '.join(available)}, "
        f"for instance by --config.export.formats={available[0]}"
      )
    return names

  def selects(self, config: ConfigDict) -> bool:
    """Returns whether only the selected images are exported."""
    if self.selection is None:
      return config.get("select") is not None
    return self.selection


FIELDS = Export


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that there are images of each format, or will be."""
  fields, names = _read(config)
  with_scenes = bool({*SCENES} & {*names})
  if with_scenes and not _scenes(config):
    raise UserError(
      f"config.export.formats: {' and '.join(SCENES)} need boxes, of a block "
      'config.detect with kind="scenes"; drawn images have labels alone.'
    )
  _space(config, of_scenes=with_scenes)
  if {*IMAGES} & {*names}:
    tasks = ("generate", "select")[: 1 + fields.selects(config)]
    artifacts.check_complete(workdir, tasks, planned=config.tasks)


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves a folder for each format."""
  engine.do_here(prepare(config, workdir))


def prepare(config: ConfigDict, workdir: str) -> Iterator[Work]:
  """Yields each format that is not there; numbered files are its parts."""
  fields, names = _read(config)
  for name in names:
    if name in SCENES:
      yield from _export_scenes(name, config, epath.Path(workdir))
    else:
      yield from _export_images(name, fields, config, epath.Path(workdir))


def _read(config: ConfigDict) -> tuple[Export, tuple[str, ...]]:
  """Returns the block, which may be left out, and the names of the formats."""
  fields = schema.read(Export, config.get("export"), "config.export")
  return fields, fields.names(config)


def _available(config: ConfigDict) -> tuple[str, ...]:
  """Returns the formats that the config has images for."""
  scenes = SCENES if _scenes(config) else ()
  return (IMAGES if "generate" in config or not scenes else ()) + scenes


def _scenes(config: ConfigDict) -> dict[str, dict[str, Any]]:
  """Returns the splits of config.detect that are composed."""
  block = config.get("detect") or {}
  return {
    split: dict(block[split])
    for split in _SPLITS
    if block.get(split) and block[split].get("kind") == "scenes"
  }


def _space(config: ConfigDict, *, of_scenes: bool = False) -> spaces.LabelSpace:
  name = (config.get("detect") or {}).get("space") if of_scenes else None
  return spaces.load_space(name or config.space)


# --- labelled images --------------------------------------------------------


def _export_images(
  name: str, fields: Export, config: ConfigDict, workdir: epath.Path
) -> Iterator[Work]:
  space, selects = _space(config), fields.selects(config)
  folder, images = workdir / "export" / name, workdir / "generate"
  names = space.class_names
  spec = {
    "format": name,
    "split": fields.split,
    "classes": names,
    "images": artifacts.digest(images, repairable=True),
    "selection": _digest_selection(workdir) if selects else None,
    "encoding": fields.options(),
    "mark": export_rows.SOURCE_TYPE,
  }
  if name == "png_folder":
    write = partial(png_folder.write, keys=space.keys)
    spec["keys"], lists = space.keys, png_folder.lists(fields.split)
  else:
    module = webdataset if name == "webdataset" else parquet
    write = partial(module.write, shard_size=fields.shard_size)
    lists = ()
    spec |= {"shard_size": fields.shard_size, "shuffle": fields.shuffle}
  if artifacts.begin(folder, spec):
    return
  _check_names(images, space)
  source = drawn_images.open_run(workdir, kept=selects, decode=False)
  rows = export_rows.rows(
    source, encoding=fields.options(), shuffle=spec.get("shuffle")
  )
  counted = _counted(f"export: {name}", rows)
  write = partial(write, folder, counted, names, split=fields.split)

  def finish(**which):
    written = write(**which)
    artifacts.finish(folder, spec, written, lists=lists, images=len(rows))
    count = len(written) + sum(written[list_file] for list_file in lists)
    say(f"export: {name}: {len(rows):,} images in {count:,} files")

  if name == "png_folder":  # which is one list
    yield engine.without_parts(folder, finish)
    return
  files = module.files(len(rows), fields.shard_size, split=fields.split)
  do = lambda parts: write(parts=parts)
  yield Work(folder, files, do, partial(finish, parts=()))


def _counted(label: str, rows: Source) -> Source:
  """Returns the same rows; reading them is shown as progress."""
  count_on = counter(label, len(rows))

  def read(index):
    count_on()
    return rows[index]

  return Source(len(rows), read)


def _digest_selection(workdir: epath.Path) -> str:
  """Returns the digest of a selection, which must be of these images."""
  scores.check_inputs(workdir / "score")
  filters.check_selection(workdir / "select", workdir / "score")
  return artifacts.digest(workdir / "select", repairable=True)


def _check_names(folder: epath.Path, space: spaces.LabelSpace) -> None:
  """Checks that the images were drawn for these classes."""
  path = folder / "label.labels.txt"
  if not path.exists():
    return
  artifacts.check_file(path)
  drawn = path.read_bytes().decode().removesuffix("\n").split("\n")
  names, label_of = space.class_names, class_names.lookup(space)
  if [label_of.get(name) for name in drawn] != [*range(len(names))]:
    raise UserError(
      f"The images of {folder} are of {len(drawn)} classes, {drawn[0]!r}, ..., "
      f"and config.space has {len(names)}, {names[0]!r}, ...: give the label "
      "space that they were drawn for."
    )


# --- scenes with boxes ------------------------------------------------------


def _export_scenes(
  name: str, config: ConfigDict, workdir: epath.Path
) -> Iterator[Work]:
  scenes, space = _scenes(config), _space(config, of_scenes=True)
  folder = workdir / "export" / name
  spec = {
    "format": name,
    "classes": space.keys,
    "images": {
      split: sources.identify(block) for split, block in scenes.items()
    },
  }
  if artifacts.begin(folder, spec):
    return
  write = coco.write if name == "coco" else _write_voc

  def finish():
    written, counts = {}, {}
    for split, block in scenes.items():
      source = sources.open_detection(block, space)
      written |= write(folder, source, space.keys, split=split)
      counts[split] = len(source)
    artifacts.finish(folder, spec, written, images=counts)
    say(f"export: {name}: {sum(counts.values()):,} scenes")

  yield engine.without_parts(folder, finish)


def _write_voc(
  folder: epath.Path, source: Any, names: Sequence[str], *, split: str
) -> dict[str, int]:
  """Writes a split as VOC, whose images are JPEG."""
  split = VOC_SPLITS.get(split, split)
  count = voc.write_voc(folder, source, names, year=YEAR, split=split)
  top = f"VOCdevkit/VOC{YEAR}"
  list_file = f"{top}/ImageSets/Main/{split}.txt"
  ids = (folder / list_file).read_text().split()
  files = [f"{top}/JPEGImages/{i}.jpg" for i in ids]
  files += [f"{top}/Annotations/{i}.xml" for i in ids]
  return dict.fromkeys(files, 1) | {list_file: count}
