"""Data sets that TFDS lacks, as their public archives unpack.

Each function takes the folder that an archive unpacks to; a split; the label of
each class by the name that the files have, by default from the label space; and
`image_size`, the side of squares that images are cropped and resized to. It
raises a UserError about missing files, and about names of no class.

To add a data set, write a function here and name it in `real_images.SOURCES`.
Or write it in a module of your own and name that by `kind`; see
docs/extending.md.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Literal, NamedTuple

from absl import logging
from etils import epath

from synthjax.config.schema import Count, Whole
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.text_files import parse_json, read_text
from synthjax.weights.torch_files import unpickle
from synthjax.weights.torch_files.records import Module


def aircraft(
  path: epath.PathLike,
  split: Literal["train", "validation", "trainval", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens FGVC-Aircraft by variant (Maji et al. 2013).

  Args:
    path: of fgvc-aircraft-2013b, its folder `data`, or CoOp's copy of that:
      where images/ and images_variant_SPLIT.txt lie.
    split: of the authors; "trainval" is "train" and "validation".
    classes: name of each variant -> label.
    image_size: px. Images keep the line of 20 pixels that names the
      photographer.
    space: the label space.
  """
  name = f"images_variant_{'val' if split == 'validation' else split}.txt"
  path = _find(path, (".", "data", "fgvc-aircraft-2013b/data"), (name,))
  rows = [line.split(" ", 1) for line in _lines(path / name)]
  if odd := [row for row in rows if len(row) != 2]:
    raise UserError(f"{path / name}: {odd[0]} is not an image and a variant.")
  labels = class_names.match(
    dict.fromkeys(variant for _, variant in rows),
    class_names.lookup(space) if classes is None else classes,
    where=str(path),
  )
  files = [f"images/{image}.jpg" for image, _ in rows]
  image_files.check_present(path, files, "unpack the archive anew")
  return image_files.open_files(
    path, files, [labels[variant] for _, variant in rows], image_size
  )


def birdsnap(
  path: epath.PathLike,
  split: Literal["train", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens what could be downloaded of Birdsnap (Berg et al. 2014).

  The archive lists the addresses of images, many of which are dead: rows
  without a file are left out, and a warning counts them.

  Args:
    path: where species.txt, images.txt and test_images.txt lie, with the images
      in images/ or download/images/.
    split: "train" is all but the test images.
    classes: common name of each species -> label.
    image_size: px.
    space: the label space.
  """
  lists = ("species.txt", "images.txt", "test_images.txt")
  path = _find(path, (".", "birdsnap"), lists)
  species = {
    row["id"]: row["common"]
    for row in _table(path / lists[0], ("id", "common"))
  }
  rows = _table(path / lists[1], ("path", "species_id"))
  if odd := [row for row in rows if row["species_id"] not in species]:
    raise UserError(
      f"{path / lists[1]}: {lists[0]} does not list the species of {odd[0]}."
    )
  test_paths = {row["path"] for row in _table(path / lists[2], ("path",))}
  labels = class_names.match(
    species.values(),
    class_names.lookup(space) if classes is None else classes,
    where=str(path),
  )
  is_test = split == "test"
  rows = [row for row in rows if (row["path"] in test_paths) == is_test]
  folders = [path / "images", path / "download" / "images"]
  images = next((folder for folder in folders if folder.is_dir()), folders[0])
  missing = image_files.absent(images, [row["path"] for row in rows])
  if len(missing) == len(rows):
    raise UserError(
      f"None of the {len(rows)} images of Birdsnap's split {split!r} is in "
      f"{images}, where {rows[0]['path'] if rows else 'nothing'} is expected: "
      "download them with the script of the archive."
    )
  if missing:
    logging.warning(
      "Birdsnap: %d of %d images of the split %r are not in %s, as many of "
      "their addresses are dead; accuracies are of the others.",
      *(len(missing), len(rows), split, images),
    )
  rows = [row for row in rows if row["path"] not in missing]
  return image_files.open_files(
    images,
    [row["path"] for row in rows],
    [labels[species[row["species_id"]]] for row in rows],
    image_size,
  )


def caltech256(
  path: epath.PathLike,
  split: Literal["train", "test", "all"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  train_per_class: Whole = 60,
  *,
  space: Any = None,
) -> Labelled:
  """Opens Caltech256 (Griffin et al. 2007), which has no official split.

  Args:
    path: of 256_ObjectCategories, or of the folder that holds it.
    split: "train", the first images of each class by name; "test", those after;
      or "all".
    classes: name of each class folder, such as "001.ak47" -> label.
    image_size: px.
    train_per_class: number of the first images; each class needs more.
    space: the label space.
  """
  path = epath.Path(path).expanduser()
  inside = path / "256_ObjectCategories"
  path = inside if inside.is_dir() else path
  if not path.is_dir():
    raise UserError(f"There is no folder {path}.")
  folders = sorted(
    entry.name
    for entry in path.iterdir()
    if entry.is_dir() and not image_files.is_leftover(entry.name)
  )
  labels_of = class_names.match(
    folders,
    class_names.lookup(space) if classes is None else classes,
    where=str(path),
  )
  of_split = {
    "train": slice(train_per_class),
    "test": slice(train_per_class, None),
    "all": slice(None),
  }[split]
  files, labels, few, left_out = [], [], {}, []
  for folder in folders:
    # Two folders of the archive hold a folder and a script beside the images.
    images = image_files.list_images(path, folder, left_out)
    if len(images) <= train_per_class:
      few[folder] = len(images)
    files += images[of_split]
    labels += [labels_of[folder]] * len(images[of_split])
  if few:
    listed = ", ".join(f"{folder} has {n}" for folder, n in few.items())
    raise UserError(
      f"{path}: more than {train_per_class} images of each class are needed, "
      f"but {listed}. Unpack the archive anew, or lower train_per_class."
    )
  image_files.warn_left_out(path, tuple(left_out))
  return image_files.open_files(path, files, labels, image_size)


def _find(
  path: epath.PathLike, below: Sequence[str], needed: Sequence[str]
) -> epath.Path:
  """Returns the first of the folders that holds all files."""
  path = epath.Path(path).expanduser()
  for folder in (path / name for name in below):
    if all((folder / name).exists() for name in needed):
      return folder
  raise UserError(
    f"{path} does not hold {', '.join(needed)}, nor does {' or '.join(below)} "
    "in it: give the folder that the archive unpacks to."
  )


def _lines(path: epath.Path) -> list[str]:
  return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _table(path: epath.Path, needed: Sequence[str]) -> list[dict[str, str]]:
  """Reads a table of tabs whose first line names its columns."""
  header, *lines = [line.split("\t") for line in _lines(path)] or [[]]
  if missing := [name for name in needed if name not in header]:
    raise UserError(
      f"{path} has the columns {header}, without {' and '.join(missing)}."
    )
  rows = [dict(zip(header, line, strict=False)) for line in lines]
  for row in rows:
    if missing := [name for name in needed if not row.get(name)]:
      raise UserError(f"{path} has a row without {', '.join(missing)}: {row}.")
  return rows


# --- files of CoOp (Zhou et al. 2022): splits and few-shot draws -------------
# `split_zhou_DATASET.json` holds {"train": [[path, label, class name], ...],
# "val": ..., "test": ...}. `split_fewshot/shot_16-seed_1.pkl` holds such
# records of a draw, with paths of the machine that drew them. Their labels are
# in an order of their own, so rows are labelled by class name, else by folder.
#
# The draws are pickles, which `weights.torch_files.unpickle` reads without
# running them: they may name the one class of their records, and nothing else.

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
