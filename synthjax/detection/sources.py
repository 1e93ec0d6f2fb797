"""Images with boxes, by what a config says of them."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath

from synthjax.data.formats import coco
from synthjax.data.pipeline.rows import Detection
from synthjax.detection import scenes, voc
from synthjax.embedded import captions
from synthjax.labels import class_names, file_names
from synthjax.runtime.errors import UserError, unknown_names


def _voc(
  space: Any,
  drop_empty: bool,
  *,
  sets: Iterable[tuple[str, str]],
  data_dir: epath.PathLike,
) -> Detection:
  classes = class_names.lookup(space)
  return voc.open_voc(data_dir, sets, classes, drop_empty)


def _voc_tfds(
  space: Any,
  drop_empty: bool,
  *,
  sets: Iterable[tuple[str, str]],
  data_dir: epath.PathLike | None = None,
) -> Detection:
  classes = class_names.lookup(space)
  return voc.open_voc_tfds(sets, data_dir, classes, drop_empty)


def _scenes(
  space: Any, drop_empty: bool, *, split: str, count: int, seed: int = 0
) -> Detection:
  del drop_empty  # every scene has an object
  return scenes.open_scenes(split, count, seed=seed, space=space)


def _coco(
  space: Any, drop_empty: bool, *, path: epath.PathLike, split: str
) -> Detection:
  # A category is written by its class's name, which case tells apart as well.
  classes = file_names.lookup(space)
  return coco.open_coco(path, split, classes, drop_empty)


SOURCES: dict[str, Callable[..., Detection]] = {
  "voc": _voc,
  "voc_tfds": _voc_tfds,
  "scenes": _scenes,
  "coco": _coco,
}


def open_detection(
  block: Mapping[str, Any], space: Any, *, drop_empty: bool = False
) -> Detection:
  """Opens what a config's block of plain data describes; decodes no image.

  Args:
    block: `kind`, a key of SOURCES, and its fields: "voc" has `sets`, pairs of
      year and split, and `data_dir`, the folder of VOCdevkit; "voc_tfds" the
      same of TensorFlow Datasets; "scenes" a split, a count and a seed; "coco"
      a path and a split, see `exports.coco_read`.
    space: the label space.
    drop_empty: leaves out images without an object, as training does.

  Raises:
    UserError: about unknown or missing fields, and as `voc.open_voc` and
      `scenes.open_scenes`.
  """
  fields = dict(block)
  kind = fields.pop("kind", None)
  if kind not in SOURCES:
    raise unknown_names("source of images with boxes,", [kind], SOURCES)
  known = {
    name: parameter
    for name, parameter in inspect.signature(SOURCES[kind]).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
  }
  if unknown := [name for name in fields if name not in known]:
    raise unknown_names(f"field of the source {kind!r},", unknown, known)
  needed = [n for n, p in known.items() if p.default is inspect.Parameter.empty]
  if missing := [name for name in needed if fields.get(name) in (None, "")]:
    raise UserError(f"The source {kind!r} needs {' and '.join(missing)}.")
  return SOURCES[kind](space, drop_empty, **fields)


def can_open(block: Mapping[str, Any]) -> bool:
  """Tells whether opening is a matter of files that are there.

  TFDS is not: it would download the data set.
  """
  return block.get("kind") != "voc_tfds"


def identify(block: Mapping[str, Any]) -> dict[str, Any]:
  """Returns plain data that tells one set of images from another.

  The drawings of scenes are hashed; of others the description must do.
  """
  if block.get("kind") != "scenes":
    return dict(block)
  return dict(block) | {"images": captions.digest()}
