"""Data sets that TFDS lacks, as their public archives unpack.

Each function takes the folder that an archive unpacks to; a split; the label of
each class by the name that the files have, by default from the label space; and
`image_size`, the side of squares that images are cropped and resized to. It
raises a UserError about missing files, and about names of no class.

Another data set needs no file but a module of its own, which `kind` names: see
`real_images.open_real`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from absl import logging
from etils import epath

from synthjax.config.schema import Count, Whole
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError


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
  folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
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
  files, labels, few = [], [], {}
  for folder in folders:
    # Two folders of the archive hold a folder and a script beside the images.
    images = image_files.list_images(path / folder)
    if len(images) <= train_per_class:
      few[folder] = len(images)
    files += [f"{folder}/{image}" for image in images[of_split]]
    labels += [labels_of[folder]] * len(images[of_split])
  if few:
    listed = ", ".join(f"{folder} has {n}" for folder, n in few.items())
    raise UserError(
      f"{path}: more than {train_per_class} images of each class are needed, "
      f"but {listed}. Unpack the archive anew, or lower train_per_class."
    )
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
