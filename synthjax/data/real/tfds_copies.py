"""Copies of data sets that TensorFlow Datasets has prepared.

They are read without TensorFlow, and never prepared here: that needs
TensorFlow, downloads gigabytes, and by default writes a format without random
access.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from synthjax.config.schema import Count
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Example, Files
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names

INSTALL = "`pip install 'synthjax[tfds]'`"  # with TensorFlow, which prepares


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
  """Opens a data set that TensorFlow Datasets has prepared.

  Args:
    name: such as "cifar100" or "oxford_iiit_pet:4.0.0".
    split: such as "test" or "train[:1000]".
    data_dir: where it is prepared; TFDS's own folder by default.
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
    UserError: from `open_copy`, and if a feature or a class is missing. A label
      that no class has is reported when its row is read.
  """
  import tensorflow_datasets

  if by_name and classes is None:
    classes = class_names.lookup(space)
  records = open_copy(name, split, data_dir)
  features = records.dataset_info.features
  if missing := [key for key in (image_key, label_key) if key not in features]:
    raise unknown_names(f"feature of {name}", missing, features)
  # TFDS's decoder depends on what else is installed, and knows no EXIF.
  skip = tensorflow_datasets.decode.SkipDecoding()
  image = tensorflow_datasets.features.Image
  encoded = {k: skip for k, f in features.items() if isinstance(f, image)}
  opened = _Records(
    records=dataclasses.replace(records, decoders=encoded),
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
        if opened.records[i][label_key] not in numbers
      ]
      opened = dataclasses.replace(opened, rows=rows)
  size = len(records) if opened.rows is None else len(opened.rows)
  files = Files.of_many_rows(records.dataset_info.splits[split].filepaths)
  return Labelled(size, opened.read, opened.label, files=files)


def is_prepared(name: str, data_dir: epath.PathLike | None = None) -> bool:
  """Returns whether TFDS has prepared a data set, in any format."""
  from tensorflow_datasets.core import read_only_builder

  try:
    read_only_builder.builder_from_files(name, data_dir=data_dir)
  except ValueError:  # not there, or of another config
    return False
  return True


def build_command(name: str, root: epath.PathLike) -> str:
  """Returns the command that prepares a data set with random access."""
  return (
    'python -c "import tensorflow_datasets as tfds; '
    f"tfds.builder('{name}', data_dir='{root}', file_format='array_record')"
    '.download_and_prepare()"'
  )


def open_copy(
  name: str,
  split: str,
  data_dir: epath.PathLike | None = None,
  decoders: Mapping[str, Any] | None = None,
) -> Any:
  """Opens the records of a prepared copy by position, without TensorFlow.

  Args:
    name: see `open_tfds`, as for the others.
    split: of it, or a part of one.
    data_dir: where it is prepared.
    decoders: of features that are not to be decoded.

  Raises:
    UserError: with the command that mends it, if there is no copy, or one
      without random access; if it has no such split, or lacks files.
  """
  # Not at the top, as importing it takes a second.
  from tensorflow_datasets.core import file_adapters, read_only_builder
  from tensorflow_datasets.core.utils import file_utils

  (root, *_) = file_utils.list_data_dirs(given_data_dir=data_dir)
  try:
    copy = read_only_builder.builder_from_files(name, data_dir=data_dir)
  except ValueError as error:  # not there, or of another config
    raise UserError(
      f"TFDS has prepared no {name} in {root}: `{build_command(name, root)}` "
      f"does, after {INSTALL}."
    ) from error
  formats = file_adapters.FileFormat.with_random_access()
  if not formats & copy.info.available_file_formats():
    raise UserError(
      f"{copy.data_dir} is prepared as {copy.info.file_format.value}, which "
      "has no random access: prepare another copy by "
      f"`{build_command(name, epath.Path(root) / 'array_record')}` (after "
      f"{INSTALL}), and give that data_dir."
    )
  try:
    records = copy.as_data_source(split, decoders=decoders)
    files = copy.info.splits[split].filepaths
  except ValueError as error:
    parts = ", ".join(copy.info.splits)
    raise UserError(
      f"{copy.data_dir} has no split {split!r}, but {parts}, and parts of them "
      f"such as {parts.split(',')[0]}[:1000]."
    ) from error
  if missing := [str(file) for file in files if not file.exists()]:
    raise UserError(
      f"{copy.data_dir} lacks {len(missing)} of {len(files)} files of its "
      f"{split!r}, such as {missing[0]}: copy them again, or delete the folder "
      f"and run `{build_command(name, root)}`, after {INSTALL}."
    )
  return records


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
  image_key: str
  label_key: str
  prefix: str  # of the ids
  image_size: int | None
  table: Sequence[int | None] | None = None  # TFDS's label -> ours
  rows: Sequence[int] | None = None  # positions among TFDS's; None is all

  def label(self, index: int) -> int:
    return self._label(self.records[self._row(index)])

  def read(self, index: int) -> Example:
    row = self._row(index)
    record = self.records[row]
    image_id = f"{self.prefix}-{row}"
    image = image_files.decode(
      record[self.image_key], self.image_size, name=f"The image {image_id}"
    )
    return {"image": image, "label": self._label(record), "id": image_id}

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
