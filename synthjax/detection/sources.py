"""Images with boxes, by the block of a config that describes them."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from etils import epath

from synthjax.config import schema
from synthjax.config.schema import Choice, Count, Rule, Whole
from synthjax.data.formats import coco
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.rows import Detection
from synthjax.data.real import photographs, publishers, tfds_copies
from synthjax.detection import scenes, voc
from synthjax.embedded import captions
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError

Folder = Annotated[epath.PathLike, Rule(bool, "the path of a folder")]
Sets = Annotated[
  tuple[tuple[str | int, str], ...], Rule(len, "pairs of year and split")
]


def _voc(
  space: Any, drop_empty: bool, *, sets: Sets, data_dir: Folder | None = None
) -> Detection:
  """Opens the archives or folders of VOC, or else a copy that TFDS has."""
  classes, root = class_names.lookup(space), publishers.data_folder(data_dir)
  lists = [voc.list_of(year, split) for year, split in sets]
  packed = [archive.gives for archive in publishers.published()["voc"].files]
  folders = publishers.place("voc", root, lists, packed)
  folder = next((folders[file] for file in lists if file in folders), None)
  if folder:  # of all; open_voc reports a list that it lacks
    return voc.open_voc(folder, sets, classes, drop_empty)
  if all(tfds_copies.is_prepared(f"voc/{y}", data_dir) for y, _ in sets):
    return voc.open_voc_tfds(sets, data_dir, classes, drop_empty)
  raise publishers.absent(
    "PASCAL VOC", "voc", lists, data_dir, tfds=f"voc/{sets[0][0]}"
  )


def _voc_tfds(
  space: Any, drop_empty: bool, *, sets: Sets, data_dir: Folder | None = None
) -> Detection:
  classes = class_names.lookup(space)
  return voc.open_voc_tfds(sets, data_dir, classes, drop_empty)


def _scenes(
  space: Any, drop_empty: bool, *, split: str, count: Count, seed: Whole = 0
) -> Detection:
  del drop_empty  # every scene has an object
  return scenes.open_scenes(split, count, seed=seed, space=space)


def _coco(
  space: Any, drop_empty: bool, *, path: Folder, split: str
) -> Detection:
  classes = class_names.lookup(space)
  return coco.open_coco(path, split, classes, drop_empty)


def _folder(
  space: Any,
  drop_empty: bool,
  *,
  path: Folder,
  split: photographs.Split | None = None,
  shares: photographs.Shares | None = None,
) -> Detection:
  """Opens the images with boxes that lie at a path; see `photographs.look`."""
  classes = class_names.lookup(space)
  found, is_split = photographs.look(path, split, classes)
  if found.layout == "coco":
    source = coco.open_instances(found.path, classes, complete=False)
  elif found.layout == "voc":
    source = voc.open_voc_folder(
      found.path, found.split, classes, complete=False
    )
  else:
    raise UserError(
      f"{path} holds {photographs.LAYOUTS[found.layout]}, without boxes. A "
      f"detector needs {photographs.LAYOUTS['coco']}; or "
      f"{photographs.LAYOUTS['voc']}."
    )
  notes = [source.annotate(i)["labels"] for i in range(len(source))]
  rows = np.arange(len(source))
  if (
    shares and split and not is_split
  ):  # before any are left out, alike for all splits
    first = [
      labels[0] if len(labels) else len(space.classes) for labels in notes
    ]
    rows = few_shot.divide(first, shares)[split]
  boxes = np.concatenate([notes[i] for i in rows] or [notes[0][:0]])
  counts = np.bincount(boxes, minlength=len(space.classes))
  photographs.say(path, split, counts, space.class_names, unit="boxes")
  if drop_empty:
    rows = [i for i in rows if len(notes[i])]
  if not len(rows):
    raise UserError(f"{path} has no image with a box of a class.")
  return source.take(rows)


# Label space, whether to leave out images without objects, fields -> images.
SOURCES = {
  "voc": _voc,  # `sets` of VOCdevkit, which lies in `data_dir`
  "voc_tfds": _voc_tfds,  # the same, as TensorFlow Datasets has prepared it
  "scenes": _scenes,  # of embedded drawings
  "folder": _folder,  # a user's, of COCO or VOC
  "coco": _coco,  # as `data.formats.coco.write` leaves them
}
# The schema of a block; it becomes (space, drop_empty) -> Detection.
SOURCE = Choice("kind", SOURCES, filled=("space", "drop_empty"))


def open_detection(
  block: Mapping[str, Any],
  space: Any,
  *,
  drop_empty: bool = False,
  name: str = "source",
) -> Detection:
  """Opens the images that a block describes; decodes none.

  Args:
    block: of a config: `kind`, a key of SOURCES, and the fields of that kind.
    space: the label space.
    drop_empty: leaves out images without an object, as training does.
    name: of the block, for messages.

  Raises:
    UserError: about unknown or missing fields, and from the functions that
      open the images.
  """
  return schema.read(SOURCE, block, name)(space, drop_empty)


def identify(block: Mapping[str, Any]) -> dict[str, Any]:
  """Returns plain data that differs for different images.

  Scenes are described by a hash of the drawings as well, other images by the
  block alone.
  """
  if block.get("kind") != "scenes":
    return dict(block)
  return dict(block) | {"images": captions.digest()}
