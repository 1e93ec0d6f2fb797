"""Data sets of TensorFlow Datasets, opened without TensorFlow."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow_datasets
from etils import epath
from PIL import Image

from synthjax.config.schema import Count
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Example
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names


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
  labels_of = class_names.table(classes)
  table = [
    None if name in left_out else labels_of.get(class_names.canonical(name))
    for name in names
  ]
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
