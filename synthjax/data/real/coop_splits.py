"""Files of CoOp (Zhou et al. 2022): splits and few-shot draws.

`split_zhou_DATASET.json` holds {"train": [[path, label, class name], ...],
"val": ..., "test": ...}. `split_fewshot/shot_16-seed_1.pkl` holds such records
of a draw, with paths of the machine that drew them. Their labels are in an
order of their own, so rows are labelled by class name, else by folder.

The draws are pickles, which `weights.torch_files.unpickle` reads without
running them: they may name the one class of their records, and nothing else.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from etils import epath

from synthjax.config.schema import Count
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.text_files import parse_json
from synthjax.weights.torch_files import unpickle
from synthjax.weights.torch_files.records import Module

RECORDS = {
  "dassl.data.datasets.base_dataset.Datum",
  "dassl.data.datasets.Datum",
  "datasets.utils.Datum",
}
_PICKLES = unpickle.Format(
  is_class=RECORDS.__contains__,
  is_name=RECORDS.__contains__,
  allowed="the records of a few-shot draw are",
  usual="which no few-shot draw of CoOp holds",
  advice="Take the file from CoOp, or give its .json.",
)


class Datum(NamedTuple):
  """One image of a split."""

  impath: str
  label: int  # in the numbering of the file
  classname: str


def coop(
  path: epath.PathLike,
  split_file: epath.PathLike,
  split: str,
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens one split of a file of CoOp, with rows in the order of the file.

  Args:
    path: of the folder of images, such as eurosat/2750, local or gs://.
    split_file: such as eurosat/split_zhou_EuroSAT.json, or a few-shot draw such
      as eurosat/split_fewshot/shot_16-seed_1.pkl.
    split: "train", "validation" or "test"; a draw has no "test".
    classes: name or folder of each class -> label; by default those of the
      space.
    image_size: crops and resizes the images to squares of this side.
    space: the label space.

  Raises:
    UserError: about a file that is not of this form, names of no class, labels
      that are of two classes, or images that are not there.
  """
  path, file = (epath.Path(p).expanduser() for p in (path, split_file))
  classes = class_names.lookup(space) if classes is None else classes
  records = read_split(file, split)
  labels = _labels(records, classes, where=str(file))
  files = _relocate([record.impath for record in records], path)
  image_files.check_present(
    path, files, f"unpack the data set there, as {file} lists them as {split!r}"
  )
  return image_files.open_files(path, files, labels, image_size)


def read_split(file: epath.PathLike, split: str) -> list[Datum]:
  """Reads the records of one split from a .json or .pkl file of CoOp."""
  file = epath.Path(file).expanduser()
  try:
    data = file.read_bytes()
    if file.suffix == ".pkl":
      splits = read_draw(io.BytesIO(data))
    else:
      splits = _read_json(parse_json(data))
  except (OSError, UserError, ValueError) as error:
    problem = str(error).rstrip(".")
    raise UserError(f"Cannot read the splits of {file}: {problem}.") from error
  names = {("validation" if s == "val" else s): s for s in splits}
  if split not in names:
    raise unknown_names(f"split in {file},", [split], names)
  return splits[names[split]]


def read_draw(file: BinaryIO) -> dict[str, list[Datum]]:
  """Reads {"train": [Datum, ...], ...} from the pickle of a few-shot draw.

  Raises:
    UserError: naming what else the pickle asks for, or if it is damaged.
  """
  splits, _ = unpickle.load(file, _PICKLES)
  lists = list(_typed(splits, dict).values())
  if len({id(records) for records in lists}) < len(lists):
    # As every split copies its list, few bytes could become gigabytes.
    raise UserError("it has one list for several splits")
  return {
    _typed(split, str): [_datum(record) for record in _typed(records, list)]
    for split, records in _typed(splits, dict).items()
  }


def _datum(record: Any) -> Datum:
  fields = {}
  for state in _typed(record, Module).state:
    fields = _typed(state, dict)
  if missing := {"_impath", "_label", "_classname"} - fields.keys():
    raise UserError(f"it has a record without {', '.join(sorted(missing))}")
  return Datum(
    _typed(fields["_impath"], str),
    _typed(fields["_label"], int),
    _typed(fields["_classname"], str),
  )


def _typed(value: Any, kind: type) -> Any:
  if type(value) is not kind:
    actual, needed = (
      "record" if cls is Module else cls.__name__ for cls in (type(value), kind)
    )
    raise UserError(f"it has a {actual} where a {needed} belongs")
  return value


def _read_json(splits: Any) -> dict[str, list[Datum]]:
  tables = splits.values() if isinstance(splits, dict) else [None]
  if not all(
    isinstance(rows, list) and all(_is_record(row) for row in rows)
    for rows in tables
  ):
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
  # The folder decides about a name of two classes, as two of ImageNet's are.
  folders = [
    impath.rsplit("/", 2)[-2] if "/" in impath else ""
    for impath, _, _ in records
  ]
  by_name = class_names.resolve((r.classname for r in records), classes)
  by_folder = class_names.resolve(folders, classes)
  labels, unknown, ours_of, theirs_of = [], {}, {}, {}
  for (_, theirs, name), folder in zip(records, folders, strict=True):
    ours = by_name[name]
    if ours is None:
      ours = by_folder[folder]
    if ours is None:
      unknown[name] = None
      continue
    labels.append(ours)
    ours_of.setdefault(theirs, {})[ours] = name
    theirs_of.setdefault(ours, {})[theirs] = name
  class_names.check(classes, unknown, theirs_of, where=where)
  mixed = [
    f"{kind} {number} has the names {', '.join(map(repr, names.values()))}"
    for kind, table in (("its label", ours_of), ("our label", theirs_of))
    for number, names in table.items()
    if len(names) > 1
  ]
  class_names.raise_problems(
    mixed,
    f"The labels of {where} are not one to a class",
    "It is damaged, or two of its names mean one class of the label space.",
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
          other.replace("\\", "/").removeprefix(prefix) for other in impaths
        ]
  return list(impaths)
