"""Splits and few-shot draws from the files of CoOp (Zhou et al. 2022).

`split_zhou_DATASET.json` holds {"train": [[path, label, class name], ...],
"val": ..., "test": ...}. `split_fewshot/shot_16-seed_1.pkl` holds such records
of a draw, with paths of the machine that drew them. Their labels are in an
order of their own, so rows are labelled by class name, and else by folder.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from synthjax.data import class_names, datum_pickle, image_files
from synthjax.data.datum_pickle import Datum
from synthjax.data.image_files import Labelled
from synthjax.errors import UserError, unknown_names


def coop(
  path: epath.PathLike,
  split_file: epath.PathLike,
  split: str,
  classes: Mapping[str, int],
  image_size: int | None = None,
) -> Labelled:
  """Opens one split of a file of CoOp.

  Args:
    path: of the folder of images, such as eurosat/2750, local or gs://.
    split_file: such as eurosat/split_zhou_EuroSAT.json, or a few-shot draw such
      as eurosat/split_fewshot/shot_16-seed_1.pkl.
    split: "train", "validation" or "test"; a draw has no "test".
    classes: name or folder of each class -> label.
    image_size: crops and resizes the images to squares of this side.

  Returns:
    A source of rows in the order of the file, as draws by its protocol need.

  Raises:
    UserError: about a file that is not of this form, names of no class, labels
      that are of two classes, or images that are not there.
  """
  path, file = (epath.Path(p).expanduser() for p in (path, split_file))
  records = read_split(file, split)
  labels = _labels(records, classes, where=str(file))
  files = _relocate([each.impath for each in records], path)
  if gone := image_files.absent(path, files):
    some = ", ".join(sorted(gone)[:5])
    raise UserError(
      f"{len(gone)} of {len(files)} images that {file} lists as {split!r} are "
      f"not in {path}, such as {some}: unpack the data set there."
    )
  return image_files.open_files(path, files, labels, image_size)


def read_split(file: epath.PathLike, split: str) -> list[Datum]:
  """Reads the records of one split from a .json or .pkl file of CoOp."""
  file = epath.Path(file).expanduser()
  try:
    data = file.read_bytes()
    if file.suffix == ".pkl":
      splits = datum_pickle.read(io.BytesIO(data))
    else:
      splits = _read_json(json.loads(data))
  except (OSError, UserError, ValueError) as error:
    raise UserError(f"Cannot read the splits of {file}: {error}.") from error
  names = {("validation" if s == "val" else s): s for s in splits}
  if split not in names:
    raise unknown_names(f"split in {file},", [split], names)
  return splits[names[split]]


def _read_json(splits: Any) -> dict[str, list[Datum]]:
  rows = splits.values() if isinstance(splits, dict) else [None]
  fine = all(
    isinstance(each, list) and all(_is_record(row) for row in each)
    for each in rows
  )
  if not fine:
    raise UserError(
      "it must hold a list of [path, label, class name] for each split"
    )
  return {
    split: [Datum(*row) for row in rows] for split, rows in splits.items()
  }


def _is_record(row: Any) -> bool:
  types = [type(value) for value in row] if isinstance(row, list) else []
  return types == [str, int, str]


def _labels(
  records: Sequence[Datum], classes: Mapping[str, int], *, where: str
) -> list[int]:
  """Returns our label of each record."""
  labels_of, labels = class_names.table(classes), []
  unknown, ours_of, theirs_of = {}, {}, {}
  for impath, theirs, name in records:
    # A name of two classes, as are two of ImageNet's, is told by the folder.
    folder = impath.rsplit("/", 2)[-2] if "/" in impath else ""
    ours = labels_of.get(class_names.canonical(name))
    if ours is None and folder:
      ours = labels_of.get(class_names.canonical(folder))
    if ours is None:
      unknown[name] = None
      continue
    labels.append(ours)
    ours_of.setdefault(theirs, {})[ours] = name
    theirs_of.setdefault(ours, {})[theirs] = name
  missing = class_names.missing_classes(classes, theirs_of)
  if unknown or missing:
    raise class_names.mismatch(where, classes, unknown, missing)
  torn = [
    f"{kind} {number} has the names {', '.join(map(repr, names.values()))}"
    for kind, table in (("its label", ours_of), ("our label", theirs_of))
    for number, names in table.items()
    if len(names) > 1
  ]
  if torn:
    listed = "\n  ".join(torn[: class_names.MAX_LISTED])
    raise UserError(
      f"The labels of {where} are not one to a class:\n  {listed}\nIt is "
      "damaged, or two of its names mean one class of the label space."
    )
  return labels


def _relocate(impaths: Sequence[str], path: epath.Path) -> list[str]:
  """Returns paths below `path`, without what leads there on other machines."""
  for impath in impaths[:20]:  # as the first may be missing
    parts = impath.replace("\\", "/").split("/")
    for start in range(len(parts)):
      if (path / "/".join(parts[start:])).exists():
        prefix = "/".join([*parts[:start], ""])
        return [
          each.replace("\\", "/").removeprefix(prefix) for each in impaths
        ]
  return list(impaths)
