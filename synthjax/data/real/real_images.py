"""Real labelled images, with the labels of a label space.

A block of a config describes them: {"kind": "folder", "path": ...} takes
photographs however they lie there, see `photographs`. `SOURCES` has the kinds,
and the arguments of a kind's function are the other fields.
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from absl import logging
from etils import epath

from synthjax.config import schema
from synthjax.config.schema import Block, Choice, Count, Inside
from synthjax.data.formats import parquet, png_folder, webdataset
from synthjax.data.generated.shards import open_shards
from synthjax.data.pipeline import few_shot, image_files, inspection
from synthjax.data.pipeline.rows import Example, labels_of
from synthjax.data.real import (
  archives,
  cifar,
  coop_splits,
  photographs,
  publishers,
  tfds_copies,
)
from synthjax.data.real.paper_datasets import BENCHMARKS, SPACES, Splits
from synthjax.embedded import captions, world
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError, unknown_names

# --- blocks of real images ----------------------------------------------------


def open_real(
  block: Mapping[str, Any], space: Any, name: str = "images"
) -> Sequence[Example]:
  """Opens the images that a block of a config describes.

  A data set with an archive of its own needs one module, with a function
  `load(..., space)` that returns rows of image, label and id; its other
  arguments are the fields of the block. Name the module by its dotted path,
  kind="my_package.my_birds", or add the function to SOURCES.

  Args:
    block: `kind`, a key of SOURCES or a dotted path, "embedded" by default; and
      the fields of that source.
    space: the label space.
    name: of the block, for messages, such as "config.tune.test".

  Raises:
    UserError: about the fields, or what the source finds wrong.
  """
  source = schema.read(REAL, block, name)
  takes_space = "space" in inspect.signature(source).parameters
  return source(space=space) if takes_space else source()


def check_real(
  block: Mapping[str, Any],
  space: Any,
  name: str = "images",
  *,
  shots: Iterable[int | None] = (),
) -> None:
  """Raises what opening and reading would, before hours are spent.

  Args:
    block: see `open_real`, as for the others.
    space: the label space.
    name: of the block.
    shots: images that each class must have.

  Raises:
    UserError: as `open_real`, `inspection.inspect` and `few_shot.draw`.
  """
  source = open_real(block, space, name)
  inspection.inspect(source)
  for count in shots:
    few_shot.draw(
      labels_of(source),
      num_classes=len(space.classes),
      shots=count,
      seed=0,
      names=space.class_names,
    )


def splits_of(block: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Returns the real images of a task's block by name, and parts of the test.

  Raises:
    UserError: about parts that are no blocks.
  """
  parts = block.get("test_parts") or {}
  parts = schema.read(Mapping[str, Block], parts, "test_parts")
  splits = ("pool", "validation", "test")
  return {name: block[name] for name in splits if block.get(name)} | parts


def identify(block: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a block of real images; that of the embedded set with its hash.

  The files of other sets are identified beside it, by `identify_files`.
  """
  if block.get("kind", "embedded") != "embedded":
    return dict(block)
  return dict(block) | {"images": captions.digest()}


def identify_files(
  blocks: Mapping[str, Mapping[str, Any]], space: Any
) -> dict[str, Any]:
  """Returns the part of a specification that identifies images in files.

  Args:
    blocks: of real images, by split; that of the embedded set adds nothing.
    space: the label space.
  """

  def opened(block):
    try:
      return open_real(block, space)
    except UserError:  # the task that reads these images reports it
      return None

  return inspection.identify(
    {
      name: opened(block)
      for name, block in blocks.items()
      if block.get("kind", "embedded") != "embedded"
    }
  )


# --- a split of a data set of the paper --------------------------------------


def benchmark(
  name: str,
  split: Literal["train", "validation", "test"],
  splits: str | None = None,
  data_dir: epath.PathLike | None = None,
  image_size: Count | None = None,
  held_out: Inside | None = None,
  *,
  space: Any,
) -> Sequence[Example]:
  """Opens a split of a data set of the paper, and checks its size.

  Args:
    name: see `resolve`, as for the others.
    split: of the data set.
    splits: a key of BENCHMARKS[name].
    data_dir: of the files.
    image_size: px.
    held_out: share of the training images of each class that is "validation",
      and no longer "train", where the splits have none; see
      `few_shot.hold_out`.
    space: the label space.
  """
  opened = split if held_out is None or split == "test" else "train"
  block, chosen = resolve(name, opened, space, splits, data_dir, image_size)
  source = open_real(block, space)
  _check_size(len(source), name, opened, chosen)
  if held_out is None or split == "test":
    return source
  rows = few_shot.hold_out(labels_of(source), share=held_out)[split]
  return image_files.subset(source, rows)


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
    name: a key of BENCHMARKS, or of SPACES.
    split: "train", "validation" or "test".
    space: the label space that rows are to be labelled with.
    splits: a key of BENCHMARKS[name], the paper's by default.
    data_dir: see `publishers.data_folder`; or where TFDS prepares data sets
      (its own folder by default).
    image_size: crops and resizes the images to squares of this side.

  Returns:
    A block for `open_real`, and the splits. Archives that it needs and that
    lie packed are unpacked.

  Raises:
    UserError: about a name, a split that is not there, a label space with
      another number of classes, or files that are missing.
  """
  name, usual = SPACES.get(name, (name, None))
  if name not in BENCHMARKS:
    raise unknown_names("data set of the paper,", [name], BENCHMARKS)
  splits = splits or usual or next(iter(BENCHMARKS[name]))
  if splits not in BENCHMARKS[name]:
    raise unknown_names(f"splits of {name},", [splits], BENCHMARKS[name])
  chosen = BENCHMARKS[name][splits]
  part = getattr(chosen, split, None)
  if not part:
    existing = [
      s for s in ("train", "validation", "test") if getattr(chosen, s)
    ]
    raise unknown_names(f"split of {name} ({splits}),", [split], existing)
  num_classes = len(spaces.load_space(chosen.space).classes)
  if len(space.classes) != num_classes:
    raise UserError(
      f"{name} ({splits}) has {num_classes} classes, but the label space "
      f"{space.name!r} has {len(space.classes)}: choose {chosen.space!r}."
    )
  more = {} if image_size is None else {"image_size": image_size}
  missing = part.needs
  if part.files:
    root = publishers.data_folder(data_dir)
    folders = publishers.place(name, root, part.needs, part.helps)
    missing = [entry for entry in part.needs if entry not in folders]
    if not missing:
      block, file = dict(part.files), part.files.get("split_file")
      block["path"] = str(folders[part.needs[0]] / block["path"])
      if file:
        block["split_file"] = str(folders[file] / file)
      return block | more, chosen
  if part.tfds and (
    not part.files or tfds_copies.is_prepared(part.tfds["name"], data_dir)
  ):
    more |= {"data_dir": data_dir} if data_dir else {}
    return part.tfds | more, chosen
  raise publishers.absent(
    f"{name} ({splits}, {split!r})",
    name,
    missing,
    data_dir,
    tfds=part.tfds and part.tfds["name"],
  )


def _check_size(rows: int, name: str, split: str, splits: Splits) -> None:
  """Compares the rows of a split with those it should have.

  Birdsnap's images are fetched one by one from addresses that die: it may lack
  some, with a warning.
  """
  size = getattr(splits, split).size
  if size in (None, rows):
    return
  problem = (
    f"The split {split!r} of {name} has {rows} rows, where {size} are expected"
  )
  if splits.may_lack and rows < size:
    logging.warning("%s. %s.", problem, splits.note)
    return
  note = f" {splits.note}." if splits.note else ""
  raise UserError(
    f"{problem}.{note} The copy may be incomplete, changed, or of another "
    "version; to use it as it is, open it by its own kind (tfds, folder, ...)."
  )


# --- kinds of sources ---------------------------------------------------------

# kind -> function; its arguments are the fields of a block. An argument `space`
# gets the label space.
SOURCES = {
  "aircraft": archives.aircraft,
  "benchmark": benchmark,
  "birdsnap": archives.birdsnap,
  "caltech256": archives.caltech256,
  "cars": archives.cars,
  "class_folders": png_folder.open_folder,
  "cifar": cifar.open_cifar,
  "coop": coop_splits.coop,
  "cub": archives.cub,
  "dtd": archives.dtd,
  "embedded": world.open_split,
  "flowers": archives.flowers,
  "folder": photographs.open_photographs,
  "food101": archives.food101,
  "imagenet": archives.imagenet,
  "parquet": parquet.open_parquet,
  "pets": archives.pets,
  "shards": open_shards,
  "sun397": archives.sun397,
  "tfds": tfds_copies.open_tfds,
  "webdataset": webdataset.open_webdataset,
}
_FILLED = ("space", "complete")  # all classes are there, but in "folder"
REAL = Choice("kind", SOURCES, default="embedded", filled=_FILLED)
