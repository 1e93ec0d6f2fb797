"""Where labelled images come from: rows by position, whatever stores them."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow_datasets
from etils import epath
from PIL import Image

from synthjax.data.formats import parquet, png_folder, webdataset
from synthjax.data.generated.shards import open_shards
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import ENDINGS, Labelled
from synthjax.data.pipeline.rows import Example
from synthjax.data.real import archives, coop_files
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names


def open_source(kind: str, **fields: Any) -> Sequence[Example]:
  """Opens the source of SOURCES that is called `kind`.

  Args:
    kind: such as "folder", "shards", "tfds" or "embedded".
    **fields: the arguments of its function.

  Raises:
    UserError: about an unknown kind, an unknown field, or a missing one.
  """
  if kind not in SOURCES:
    raise unknown_names("source", [kind], SOURCES)
  parameters = inspect.signature(SOURCES[kind]).parameters
  if unknown := [name for name in fields if name not in parameters]:
    raise unknown_names(f"field of the source {kind!r},", unknown, parameters)
  needed = [n for n, p in parameters.items() if p.default is inspect._empty]
  if missing := [name for name in needed if name not in fields]:
    raise UserError(f"The source {kind!r} needs {' and '.join(missing)}.")
  return SOURCES[kind](**fields)


def folder(
  path: epath.PathLike,
  classes: Mapping[str, int],
  image_size: int | None = None,
) -> Labelled:
  """Opens a folder that holds one folder of image files for each class.

  Args:
    path: local or gs://.
    classes: name of each class folder -> label. Labels are always given, as
      the order of folders changes with each class that is added.
    image_size: crops and resizes the images to squares of this side.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str, which is
    the path below `path`, or what metadata.jsonl says. Rows are sorted by
    folder and file name.

  Raises:
    UserError: listing every folder that is missing, empty, or in no class. A
      file that is no image shows when its row is read.
  """
  path = epath.Path(path).expanduser()
  if not path.is_dir():
    raise UserError(f"There is no folder {path} of class folders.")
  found = {each.name: each for each in path.iterdir() if each.is_dir()}
  problems = [
    f"{name}: there is no such folder" for name in classes - found.keys()
  ]
  problems += [
    f"{name}: no class is called so" for name in found.keys() - classes
  ]
  files, labels = [], []
  for name in sorted(found.keys() & classes.keys()):
    images = sorted(
      each.name for each in found[name].iterdir() if image_files.is_image(each)
    )
    files += [f"{name}/{image}" for image in images]
    labels += [classes[name]] * len(images)
    if not images:
      problems.append(f"{name}: holds no image ({', '.join(sorted(ENDINGS))})")
  if problems:
    listed = "\n  ".join(sorted(problems))
    raise UserError(
      f"{path} does not fit its {len(classes)} classes:\n  {listed}"
    )
  source = image_files.open_files(path, files, labels, image_size)
  if not (stored := png_folder.stored_ids(path)):
    return source
  ids = [stored.get(file, file) for file in files]
  read = functools.partial(_read_named, source.read, ids)
  return dataclasses.replace(source, read=read)


def _read_named(
  read: Callable[[int], Example], ids: Sequence[str], index: int
) -> Example:
  return read(index) | {"id": ids[index]}


def tfds(
  name: str,
  split: str,
  data_dir: epath.PathLike | None = None,
  image_size: int | None = None,
  image_key: str = "image",
  label_key: str = "label",
  classes: Mapping[str, int] | None = None,
  left_out: Iterable[str] = (),
) -> Labelled:
  """Opens a data set of TensorFlow Datasets, without TensorFlow.

  Args:
    name: such as "cifar100" or "oxford_iiit_pet:4.0.0".
    split: such as "test" or "train[:1000]".
    data_dir: where it is prepared; TFDS's own folder by default. What is not
      there yet is downloaded and prepared as ArrayRecord files.
    image_size: crops and resizes the images to squares of this side.
    image_key: the feature that is the image.
    label_key: the feature that is the label.
    classes: name of a label in TFDS -> label; None keeps TFDS's numbers.
    left_out: names in TFDS of labels whose rows are left out, which reads all
      labels at once.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str.

  Raises:
    UserError: if a feature or a class is not there. A label that `classes` does
      not name shows when its row is read.
  """
  records = tensorflow_datasets.data_source(
    name, split=split, data_dir=data_dir
  )
  features = records.dataset_info.features
  if missing := [key for key in (image_key, label_key) if key not in features]:
    raise unknown_names(f"feature of {name}", missing, features)
  # Masks, and where the label is all that is wanted the image, stay encoded.
  skip = tensorflow_datasets.decode.SkipDecoding()
  image = tensorflow_datasets.features.Image
  encoded = {k: skip for k, f in features.items() if isinstance(f, image)}
  bare = dataclasses.replace(records, decoders=encoded)
  others = {key: skip for key in encoded if key != image_key}
  records = dataclasses.replace(records, decoders=others or None)

  table, rows = None, None
  if classes is not None or left_out:
    names = features[label_key].names
    if unknown := set(left_out) - set(names):
      raise unknown_names(f"label of {name}", sorted(unknown), names)
    if classes is not None:
      table = _label_table(names, set(left_out), classes, name)
    if left_out:
      drop = {names.index(each) for each in left_out}
      rows = [i for i in range(len(bare)) if bare[i][label_key] not in drop]
  label = functools.partial(_tfds_label, bare, label_key, table, rows)
  prefix = f"{name}-{split}"
  read = functools.partial(
    _read_tfds, records, image_key, label_key, table, rows, prefix, image_size
  )
  return Labelled(len(records) if rows is None else len(rows), read, label)


def embedded(split: str, space: Any = None) -> Sequence[Example]:
  """Opens a split of the drawings that the package holds.

  Args:
    split: a key of `synthjax.embedded.world.SPLITS`, such as "test".
    space: the label space; None labels each drawing by its concept.

  Returns:
    A source of rows of image uint8 [32, 32, 3], label int, and what is drawn.
  """
  from synthjax.embedded.world import open_split

  return open_split(split, space=space)


SOURCES = {
  "aircraft": archives.aircraft,
  "birdsnap": archives.birdsnap,
  "caltech256": archives.caltech256,
  "coop": coop_files.coop,
  "embedded": embedded,
  "folder": folder,
  "parquet": parquet.open_parquet,
  "shards": open_shards,
  "tfds": tfds,
  "webdataset": webdataset.open_webdataset,
}


def _label_table(
  names: Sequence[str],
  left_out: set[str],
  classes: Mapping[str, int],
  where: str,
) -> list[int | None]:
  """Returns the label of each label of TFDS, None for those of no class."""
  labels_of = class_names.table(classes)
  table = [
    None if name in left_out else labels_of.get(class_names.canonical(name))
    for name in names
  ]
  if missing := class_names.missing_classes(classes, table):
    unknown = [
      name
      for name, label in zip(names, table, strict=True)
      if label is None and name not in left_out
    ]
    raise class_names.mismatch(where, classes, unknown, missing)
  return table


def _to_label(value: Any, table: Sequence[int | None] | None) -> int:
  if table is None:
    return int(value)
  if table[int(value)] is None:
    raise UserError(
      f"A row has the label {int(value)} of TFDS, which is none of the "
      "classes: leave it out (`left_out`), or choose another label space."
    )
  return table[int(value)]


def _tfds_label(
  records: Any,
  label_key: str,
  table: Sequence[int | None] | None,
  rows: Sequence[int] | None,
  index: int,
) -> int:
  row = index if rows is None else rows[index]
  return _to_label(records[row][label_key], table)


def _read_tfds(
  records: Any,
  image_key: str,
  label_key: str,
  table: Sequence[int | None] | None,
  rows: Sequence[int] | None,
  prefix: str,
  image_size: int | None,
  index: int,
) -> Example:
  row = index if rows is None else rows[index]
  example = records[row]
  image = example[image_key]
  if image.shape[-1] == 1:  # grey images keep their channel in TFDS
    image = image[..., 0]
  return {
    "image": image_files.to_pixels(Image.fromarray(image), image_size),
    "label": _to_label(example[label_key], table),
    "id": f"{prefix}-{row}",
  }
