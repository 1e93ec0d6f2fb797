"""Real labelled images, with the labels of a label space.

A block of a config describes them: {"kind": "folder", "path": ...}. `SOURCES`
has the kinds, and the arguments of a kind's function are the other fields.
"""

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import tensorflow_datasets
from absl import logging
from etils import epath
from PIL import Image

from synthjax.config import schema
from synthjax.config.schema import Block, Choice, Count
from synthjax.data.formats import parquet, png_folder, webdataset
from synthjax.data.generated.shards import open_shards
from synthjax.data.pipeline import few_shot, image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Example, labels_of
from synthjax.data.real import archives
from synthjax.data.real.paper_datasets import BENCHMARKS, Splits
from synthjax.embedded import captions, world
from synthjax.labels import class_names, spaces
from synthjax.runtime.errors import UserError, unknown_names

# --- data sets of TensorFlow Datasets, opened without TensorFlow -------------


def open_tfds(
  name: str,
  split: str,
  data_dir: epath.PathLike | None = None,
  image_size: Count | None = None,
  image_key: str = "image",
  label_key: str = "label",
  by_name: bool = False,
  classes: Mapping[str, int] | None = None,
  left_out: Iterable[str] = (),
  *,
  space: Any = None,
) -> Labelled:
  """Opens a data set of TensorFlow Datasets.

  Args:
    name: such as "cifar100" or "oxford_iiit_pet:4.0.0".
    split: such as "test" or "train[:1000]".
    data_dir: where it is prepared; TFDS's own folder by default. A data set
      that is not there yet is downloaded and prepared as ArrayRecord files.
    image_size: crops and resizes the images to squares of this side.
    image_key: the feature that is the image.
    label_key: the feature that is the label.
    by_name: matches TFDS's labels with the label space by their names.
    classes: name of a label in TFDS -> label, in place of `by_name`. With
      neither, TFDS's numbers stay.
    left_out: names in TFDS of labels whose rows are left out. All labels are
      then read at once.
    space: the label space, for `by_name`.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str.

  Raises:
    UserError: if a feature or a class is missing. A label that no class has is
      reported when its row is read.
  """
  if by_name and classes is None:
    classes = class_names.lookup(space)
  records = tensorflow_datasets.data_source(
    name, split=split, data_dir=data_dir
  )
  features = records.dataset_info.features
  if missing := [key for key in (image_key, label_key) if key not in features]:
    raise unknown_names(f"feature of {name}", missing, features)
  # Masks stay encoded, and so do images where only the label is read.
  skip = tensorflow_datasets.decode.SkipDecoding()
  image = tensorflow_datasets.features.Image
  encoded = {k: skip for k, f in features.items() if isinstance(f, image)}
  others = {key: skip for key in encoded if key != image_key}
  opened = _Records(
    records=dataclasses.replace(records, decoders=others or None),
    undecoded=dataclasses.replace(records, decoders=encoded),
    image_key=image_key,
    label_key=label_key,
    prefix=f"{name}-{split}",
    image_size=image_size,
  )
  if classes is not None or left_out:
    names, left_out = features[label_key].names, set(left_out)
    if unknown := left_out - set(names):
      raise unknown_names(f"label of {name}", sorted(unknown), names)
    if classes is not None:
      table = label_table(names, left_out, classes, name)
      opened = dataclasses.replace(opened, table=table)
    if left_out:
      numbers = {names.index(label) for label in left_out}
      rows = [
        i
        for i in range(len(records))
        if opened.undecoded[i][label_key] not in numbers
      ]
      opened = dataclasses.replace(opened, rows=rows)
  size = len(records) if opened.rows is None else len(opened.rows)
  return Labelled(size, opened.read, opened.label)


def label_table(
  names: Sequence[str],
  left_out: set[str],
  classes: Mapping[str, int],
  where: str,
) -> list[int | None]:
  """Returns our label of each label of TFDS, None for those of no class."""
  labels_of = class_names.resolve(
    (name for name in names if name not in left_out), classes
  )
  table = [labels_of.get(name) for name in names]
  if set(classes.values()) - set(table):
    unknown = [
      name
      for name, label in zip(names, table, strict=True)
      if label is None and name not in left_out
    ]
    class_names.check(classes, unknown, table, where=where)
  return table


@dataclasses.dataclass(frozen=True)
class _Records:
  """Rows of TFDS by position; Grain's workers pickle it."""

  records: Any
  undecoded: Any  # the same ones, whose images stay encoded
  image_key: str
  label_key: str
  prefix: str  # of the ids
  image_size: int | None
  table: Sequence[int | None] | None = None  # TFDS's label -> ours
  rows: Sequence[int] | None = None  # positions among TFDS's; None is all

  def label(self, index: int) -> int:
    return self._label(self.undecoded[self._row(index)])

  def read(self, index: int) -> Example:
    row = self._row(index)
    record = self.records[row]
    image = record[self.image_key]
    if image.shape[-1] == 1:  # grey images keep their channel in TFDS
      image = image[..., 0]
    return {
      "image": image_files.to_pixels(Image.fromarray(image), self.image_size),
      "label": self._label(record),
      "id": f"{self.prefix}-{row}",
    }

  def _row(self, index: int) -> int:
    return index if self.rows is None else self.rows[index]

  def _label(self, record: Mapping[str, Any]) -> int:
    label = int(record[self.label_key])
    if self.table is None:
      return label
    if self.table[label] is None:
      raise UserError(
        f"A row has the label {label} of TFDS, which is none of the classes: "
        "leave it out (`left_out`), or choose another label space."
      )
    return self.table[label]


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
  return _open(_read(block, name), space)


def check_real(
  block: Mapping[str, Any], space: Any, name: str = "images"
) -> None:
  """Raises what opening would, before hours are spent; decodes no image.

  A data set of TFDS is not opened, as that would download it.
  """
  source = _read(block, name)
  if not _is_tfds(source, space):
    _open(source, space)


def check_pool(
  block: Mapping[str, Any],
  space: Any,
  shots: Iterable[int | None],
  name: str = "images",
) -> None:
  """Checks that each class has as many real images as shots are asked for.

  No image is decoded, and a data set of TFDS is not opened.

  Raises:
    UserError: as `open_real` and `few_shot.draw`.
  """
  source = _read(block, name)
  if _is_tfds(source, space):
    return
  labels = labels_of(open_real(block, space, name))
  for count in shots:
    few_shot.draw(labels, num_classes=len(space.classes), shots=count, seed=0)


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
  """Returns plain data that identifies a set of real images.

  Only the embedded set is hashed. Other sets go by their block, as reading all
  of them at every start would take too long.
  """
  if block.get("kind", "embedded") != "embedded":
    return dict(block)
  return dict(block) | {"images": captions.digest()}


# --- a split of a data set of the paper --------------------------------------

_PATHS = ("path", "split_file")  # fields that are below the user's folder


def benchmark(
  name: str,
  split: Literal["train", "validation", "test"],
  splits: str | None = None,
  data_dir: epath.PathLike | None = None,
  image_size: Count | None = None,
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
    space: the label space.
  """
  block, chosen = resolve(name, split, space, splits, data_dir, image_size)
  source = open_real(block, space)
  _check_size(len(source), name, split, chosen)
  return source


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
    A block for `open_real`, and the splits.

  Raises:
    UserError: about a name, a split that is not there, a label space with
      another number of classes, or a data_dir that is needed.
  """
  if name not in BENCHMARKS:
    raise unknown_names("data set of the paper,", [name], BENCHMARKS)
  splits = splits or next(iter(BENCHMARKS[name]))
  if splits not in BENCHMARKS[name]:
    raise unknown_names(f"splits of {name},", [splits], BENCHMARKS[name])
  chosen = BENCHMARKS[name][splits]
  part = getattr(chosen, split, None)
  if not part:
    known = [s for s in ("train", "validation", "test") if getattr(chosen, s)]
    raise unknown_names(f"split of {name} ({splits}),", [split], known)
  num_classes = len(spaces.load_space(chosen.space).classes)
  if len(space.classes) != num_classes:
    raise UserError(
      f"{name} ({splits}) has {num_classes} classes, but the label space "
      f"{space.name!r} has {len(space.classes)}: choose {chosen.space!r}."
    )
  block = dict(part.block)
  if image_size is not None:
    block["image_size"] = image_size
  if block["kind"] == "tfds":
    return block | ({"data_dir": data_dir} if data_dir else {}), chosen
  if data_dir is None:
    below = ", ".join(block[key] for key in _PATHS if key in block)
    raise UserError(
      f"{name} ({splits}) is read from the files of its authors: give the "
      f"data_dir that holds {below}. Other splits: "
      f"{', '.join(other for other in BENCHMARKS[name] if other != splits)}."
    )
  root = epath.Path(data_dir).expanduser()
  paths = {key: str(root / block[key]) for key in _PATHS if key in block}
  return block | paths, chosen


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
  "coop": archives.coop,
  "embedded": world.open_split,
  "folder": png_folder.open_folder,
  "parquet": parquet.open_parquet,
  "shards": open_shards,
  "tfds": open_tfds,
  "webdataset": webdataset.open_webdataset,
}
REAL = Choice("kind", SOURCES, default="embedded", filled=("space",))


def _read(block: Mapping[str, Any], name: str) -> Any:
  return schema.read(REAL, block, name)


def _open(source: Any, space: Any) -> Sequence[Example]:
  takes_space = "space" in inspect.signature(source).parameters
  return source(space=space) if takes_space else source()


def _is_tfds(source: Any, space: Any) -> bool:
  if source.func is benchmark:
    block, _ = resolve(space=space, **source.keywords)
    return block["kind"] == "tfds"
  return source.func is open_tfds
