"""Real labelled images, with the labels of a label space."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from synthjax.data.formats import png_folder
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.rows import Example, labels_of
from synthjax.data.real import sources
from synthjax.data.real.paper_datasets import BENCHMARKS, Splits
from synthjax.embedded import captions, world
from synthjax.labels import class_names, file_names, spaces
from synthjax.runtime.errors import (
  BLOCK,
  UserError,
  check_values,
  unknown_names,
)

# Sources whose files name the classes in their own way.
_NAMED = ("aircraft", "birdsnap", "caltech256", "coop")
# Those that say which class a row is of.
_EXPORTED = ("parquet", "webdataset")


def open_real(block: Mapping[str, Any], space: Any) -> Sequence[Example]:
  """Opens what a config's block of plain data describes.

  Args:
    block: `kind`, a key of `sources.SOURCES`, "embedded" where it is left out;
      and the fields of that source. A "folder" has the classes' keys or names
      for its folders unless it lists `classes`; "parquet" and "webdataset" name
      the class of each row likewise. "tfds" keeps TFDS's labels unless it lists
      `classes` or has by_name=True. Or kind="benchmark", and the fields of
      `benchmark_splits.resolve`.
    space: the label space.
  """
  return _open(block, space)


def check_real(block: Mapping[str, Any], space: Any) -> None:
  """Raises what opening would, before hours are spent; decodes no image.

  TFDS is left out, as it would download the data set.
  """
  if block.get("kind") == "benchmark":
    fields, _ = _resolve(block, space)
    if fields["kind"] == "tfds":
      return
  if block.get("kind", "embedded") != "tfds":
    _open(block, space)


def splits_of(block: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Returns the real images of a task's block by name, and parts of the test.

  Raises:
    UserError: about parts that are no blocks.
  """
  parts = dict(block.get("test_parts") or {})
  check_values("test_parts", parts, dict.fromkeys(parts, BLOCK))
  own = ("pool", "validation", "test")
  return {k: block[k] for k in own if block.get(k)} | parts


def check_pool(
  block: Mapping[str, Any], space: Any, shots: Iterable[int | None]
) -> None:
  """Checks that real images have so many of each class; decodes none.

  TFDS is left out, as it would download the data set.

  Raises:
    UserError: as `open_real` and `few_shot.draw`.
  """
  fields = dict(block)
  if fields.get("kind") == "benchmark":
    fields, _ = _resolve(block, space)
  if fields.get("kind") == "tfds":
    return
  labels = labels_of(open_real(block, space))
  for each in shots:
    few_shot.draw(labels, num_classes=len(space.classes), shots=each, seed=0)


def _resolve(
  block: Mapping[str, Any], space: Any
) -> tuple[dict[str, Any], Splits]:
  fields = {name: value for name, value in block.items() if name != "kind"}
  known = ("name", "split", "splits", "data_dir", "image_size")
  if unknown := [name for name in fields if name not in known]:
    raise unknown_names("field of the source 'benchmark',", unknown, known)
  if missing := [name for name in known[:2] if name not in fields]:
    raise UserError(f"A benchmark needs {' and '.join(missing)}.")
  return resolve(space=space, **fields)


def _open(block: Mapping[str, Any], space: Any) -> Sequence[Example]:
  fields = dict(block)
  kind = fields.pop("kind", "embedded")
  if kind == "benchmark":
    resolved, splits = _resolve(block, space)
    source = _open(resolved, space)
    check_size(len(source), fields["name"], fields["split"], splits)
    return source
  if kind == "embedded":
    if "split" not in fields or len(fields) > 1:
      raise UserError(
        f"Embedded images are asked for by {dict(block)}; allowed is split=, "
        f"one of {', '.join(world.SPLITS)}."
      )
    return world.open_split(fields["split"], space=space)
  if kind == "folder" and "path" in fields:
    folders = png_folder.class_folders(fields["path"], space)
    fields.setdefault("classes", folders)
  if kind in _EXPORTED:
    fields.setdefault("classes", file_names.lookup(space))
  if kind in _NAMED or (kind == "tfds" and fields.pop("by_name", False)):
    fields.setdefault("classes", class_names.lookup(space))
  return sources.open_source(kind, **fields)


def identify(block: Mapping[str, Any]) -> dict[str, Any]:
  """Returns plain data that tells one set of real images from another.

  Only the embedded set is hashed; of others the description must do, as to
  read them all at every start would take too long.
  """
  if block.get("kind", "embedded") != "embedded":
    return dict(block)
  return dict(block) | {"images": captions.digest()}


# --- finds a split of a data set of the paper, and compares its size ---------

_PATHS = ("path", "split_file")  # fields that are below the user's folder


def resolve(
  name: str,
  split: str,
  space: Any,
  splits: str | None = None,
  data_dir: epath.PathLike | None = None,
  image_size: int | None = None,
) -> tuple[dict[str, Any], Splits]:
  """Finds how to open a split of a data set of the paper.

  Args:
    name: a key of BENCHMARKS.
    split: "train", "validation" or "test".
    space: the label space that rows are to be labelled with.
    splits: a key of BENCHMARKS[name], the paper's by default.
    data_dir: where CoOp's folders lie, or where TFDS prepares data sets (its
      own folder by default).
    image_size: crops and resizes the images to squares of this side.

  Returns:
    A block for `real.open_real`, and the splits.

  Raises:
    UserError: about a name, a split that is not there, a label space with
      another number of classes, or a data_dir that is needed.
  """
  if name not in BENCHMARKS:
    raise unknown_names("data set of the paper,", [name], BENCHMARKS)
  splits = splits or next(iter(BENCHMARKS[name]))
  if splits not in BENCHMARKS[name]:
    raise unknown_names(f"splits of {name},", [splits], BENCHMARKS[name])
  found = BENCHMARKS[name][splits]
  parts = {s: getattr(found, s) for s in ("train", "validation", "test")}
  if not parts.get(split):
    there = [each for each, part in parts.items() if part]
    raise unknown_names(f"split of {name} ({splits}),", [split], there)
  classes = len(spaces.load_space(found.space).classes)
  if len(space.classes) != classes:
    raise UserError(
      f"{name} ({splits}) has {classes} classes, but the label space "
      f"{space.name!r} has {len(space.classes)}: choose {found.space!r}."
    )
  block = dict(parts[split].block)
  if image_size is not None:
    block["image_size"] = image_size
  if block["kind"] == "tfds":
    return block | ({"data_dir": data_dir} if data_dir else {}), found
  if data_dir is None:
    below = ", ".join(block[key] for key in _PATHS if key in block)
    raise UserError(
      f"{name} ({splits}) is read from the files of its authors: give the "
      f"data_dir that holds {below}. Other splits: "
      f"{', '.join(each for each in BENCHMARKS[name] if each != splits)}."
    )
  root = epath.Path(data_dir).expanduser()
  paths = {key: str(root / block[key]) for key in _PATHS if key in block}
  return block | paths, found


def check_size(found: int, name: str, split: str, splits: Splits) -> None:
  """Compares the rows of a split with those it should have.

  Raises:
    UserError: if they differ; of Birdsnap, whose images are fetched one by one
      from addresses that die, a warning.
  """
  size = getattr(splits, split).size
  if size in (None, found):
    return
  told = (
    f"The split {split!r} of {name} has {found} rows, where {size} are expected"
  )
  if splits.may_lack and found < size:
    logging.warning("%s. %s.", told, splits.note)
    return
  note = f" {splits.note}." if splits.note else ""
  raise UserError(
    f"{told}.{note} The copy may be incomplete, changed, or of another "
    "version; to use it as it is, open it by its own kind (tfds, folder, ...)."
  )
