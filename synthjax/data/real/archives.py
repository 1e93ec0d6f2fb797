"""Data sets that TFDS lacks, as their public archives unpack."""

from collections.abc import Mapping, Sequence

from absl import logging
from etils import epath

from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError, unknown_names


def aircraft(
  path: epath.PathLike,
  split: str,
  classes: Mapping[str, int],
  image_size: int | None = None,
) -> Labelled:
  """Opens FGVC-Aircraft by variant (Maji et al. 2013).

  Args:
    path: of fgvc-aircraft-2013b, its folder `data`, or CoOp's copy of that:
      where images/ and images_variant_SPLIT.txt lie.
    split: "train", "validation", "trainval" or "test".
    classes: name of each variant -> label.
    image_size: crops and resizes the images to squares of this side. They keep
      the line of 20 pixels that names the photographer.

  Raises:
    UserError: if a list or an image is missing, or a variant is of no class.
  """
  _check_split(split, ("train", "validation", "trainval", "test"))
  name = f"images_variant_{'val' if split == 'validation' else split}.txt"
  path = _find(path, (".", "data", "fgvc-aircraft-2013b/data"), (name,))
  rows = [line.split(" ", 1) for line in _lines(path / name)]
  if odd := [row for row in rows if len(row) != 2]:
    raise UserError(f"{path / name}: {odd[0]} is not an image and a variant.")
  labels = class_names.match(
    dict.fromkeys(variant for _, variant in rows), classes, where=str(path)
  )
  files = [f"images/{image}.jpg" for image, _ in rows]
  if gone := image_files.absent(path, files):
    raise _missing(path, gone, len(files), "unpack the archive anew")
  return image_files.open_files(
    path, files, [labels[variant] for _, variant in rows], image_size
  )


def birdsnap(
  path: epath.PathLike,
  split: str,
  classes: Mapping[str, int],
  image_size: int | None = None,
) -> Labelled:
  """Opens what could be downloaded of Birdsnap (Berg et al. 2014).

  The archive lists the addresses of images, many of which are gone: rows
  without a file are left out, and a warning tells how many.

  Args:
    path: where species.txt, images.txt and test_images.txt lie, with the images
      in images/ or download/images/.
    split: "train", which is all but the test images, or "test".
    classes: common name of each species -> label.
    image_size: crops and resizes the images to squares of this side.

  Raises:
    UserError: if a list is missing or has other fields, no image is there, or
      a species is of no class.
  """
  _check_split(split, ("train", "test"))
  lists = ("species.txt", "images.txt", "test_images.txt")
  path = _find(path, (".", "birdsnap"), lists)
  species = {
    row["id"]: row["common"]
    for row in _table(path / lists[0], ("id", "common"))
  }
  rows = _table(path / lists[1], ("path", "species_id"))
  tested = {row["path"] for row in _table(path / lists[2], ("path",))}
  labels = class_names.match(species.values(), classes, where=str(path))
  rows = [row for row in rows if (row["path"] in tested) == (split == "test")]
  folders = [path / "images", path / "download" / "images"]
  images = next((each for each in folders if each.is_dir()), folders[0])
  gone = image_files.absent(images, [row["path"] for row in rows])
  if len(gone) == len(rows):
    raise UserError(
      f"None of the {len(rows)} images of Birdsnap's split {split!r} is in "
      f"{images}, where {rows[0]['path'] if rows else 'nothing'} is expected: "
      "download them with the script of the archive."
    )
  if gone:
    logging.warning(
      "Birdsnap: %d of %d images of the split %r are not in %s, as many of "
      "their addresses are dead; accuracies are of the others.",
      *(len(gone), len(rows), split, images),
    )
  rows = [row for row in rows if row["path"] not in gone]
  return image_files.open_files(
    images,
    [row["path"] for row in rows],
    [labels[species[row["species_id"]]] for row in rows],
    image_size,
  )


def caltech256(
  path: epath.PathLike,
  split: str,
  classes: Mapping[str, int],
  image_size: int | None = None,
  train_per_class: int = 60,
) -> Labelled:
  """Opens Caltech256 (Griffin et al. 2007), which has no official split.

  Args:
    path: of 256_ObjectCategories, or of the folder that holds it.
    split: "train", the first images of each class by name; "test", those after;
      or "all".
    classes: name of each class folder, such as "001.ak47" -> label.
    image_size: crops and resizes the images to squares of this side.
    train_per_class: how many are first.

  Raises:
    UserError: if the folders are not those of the classes, or one holds no
      image beyond the first.
  """
  _check_split(split, ("train", "test", "all"))
  path = epath.Path(path).expanduser()
  inside = path / "256_ObjectCategories"
  path = inside if inside.is_dir() else path
  if not path.is_dir():
    raise UserError(f"There is no folder {path}.")
  folders = sorted(each.name for each in path.iterdir() if each.is_dir())
  labels_of = class_names.match(folders, classes, where=str(path))
  wanted = {
    "train": slice(train_per_class),
    "test": slice(train_per_class, None),
    "all": slice(None),
  }[split]
  files, labels, few = [], [], {}
  for folder in folders:
    # Two folders of the archive hold a folder and a script beside the images.
    images = sorted(
      e.name for e in (path / folder).iterdir() if image_files.is_image(e)
    )
    if len(images) <= train_per_class:
      few[folder] = len(images)
    files += [f"{folder}/{image}" for image in images[wanted]]
    labels += [labels_of[folder]] * len(images[wanted])
  if few:
    listed = ", ".join(f"{folder} has {n}" for folder, n in few.items())
    raise UserError(
      f"{path}: more than {train_per_class} images of each class are needed, "
      f"but {listed}. Unpack the archive anew, or lower train_per_class."
    )
  return image_files.open_files(path, files, labels, image_size)


def _check_split(split: str, allowed: Sequence[str]) -> None:
  if split not in allowed:
    raise unknown_names("split of this data set", [split], allowed)


def _find(
  path: epath.PathLike, below: Sequence[str], needed: Sequence[str]
) -> epath.Path:
  """Returns the first of the folders that holds all files."""
  path = epath.Path(path).expanduser()
  for folder in (path / each for each in below):
    if all((folder / name).exists() for name in needed):
      return folder
  raise UserError(
    f"{path} does not hold {', '.join(needed)}, nor does {' or '.join(below)} "
    "in it: give the folder that the archive unpacks to."
  )


def _lines(path: epath.Path) -> list[str]:
  return [
    line.strip() for line in path.read_text().splitlines() if line.strip()
  ]


def _table(path: epath.Path, needed: Sequence[str]) -> list[dict[str, str]]:
  """Reads a table of tabs whose first line names its columns."""
  header, *lines = [line.split("\t") for line in _lines(path)] or [[]]
  if missing := [name for name in needed if name not in header]:
    raise UserError(
      f"{path} has the columns {header}, without {' and '.join(missing)}."
    )
  return [dict(zip(header, line, strict=False)) for line in lines]


def _missing(
  path: epath.Path, gone: set[str], total: int, cure: str
) -> UserError:
  some = ", ".join(sorted(gone)[:5])
  return UserError(
    f"{len(gone)} of {total} images are not in {path}, such as {some}: {cure}."
  )
