"""Readers of data sets of images and lists, as their archives unpack.

Each function takes the folder that an archive unpacks to; a split; the label of
each class by the name that the files have, by default from the label space; and
`image_size`, the side of squares that images are cropped and resized to. It
raises a UserError about missing files, and about names of no class. The id of a
row is the path of its image below the folder.

To add a data set, write a function here and name it in `real_images.SOURCES`.
Or write it in a module of your own and name that by `kind`; see
docs/extending.md.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from absl import logging
from etils import epath

from synthjax.config.schema import Count, Rule, Whole
from synthjax.data.formats import png_folder
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.real import lists
from synthjax.labels import class_names, spaces
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
  path = lists.find(path, (".", "data", "fgvc-aircraft-2013b/data"), (name,))
  rows = lists.pairs(path / name, "an image and a variant")
  files = [f"images/{image}.jpg" for image, _ in rows]
  variants = [variant for _, variant in rows]
  return _open(path, files, variants, classes, image_size, space)


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
  needed = ("species.txt", "images.txt", "test_images.txt")
  path = lists.find(path, (".", "birdsnap"), needed)
  species = {
    row["id"]: row["common"]
    for row in lists.table(path / needed[0], ("id", "common"))
  }
  rows = lists.table(path / needed[1], ("path", "species_id"))
  if odd := [row for row in rows if row["species_id"] not in species]:
    raise UserError(
      f"{path / needed[1]}: {needed[0]} does not list the species of {odd[0]}."
    )
  test_rows = lists.table(path / needed[2], ("path",))
  test_paths = {row["path"] for row in test_rows}
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


def cars(
  path: epath.PathLike,
  split: Literal["train", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens Stanford Cars (Krause et al. 2013).

  Args:
    path: where cars_train/, cars_test/ and devkit/ lie, and for the test
      cars_test_annos_withlabels.mat.
    split: of the authors.
    classes: name of each class in devkit/cars_meta.mat -> label.
    image_size: px.
    space: the label space.
  """
  path = epath.Path(path).expanduser()
  files = {
    "train": ("devkit/cars_train_annos.mat", "cars_train_annos.mat"),
    "test": (
      "cars_test_annos_withlabels.mat",
      "devkit/cars_test_annos_withlabels.mat",
    ),
  }[split]
  listed = next((n for n in files if (path / n).exists()), files[0])
  names = lists.mat(path / "devkit/cars_meta.mat", "class_names")
  fields = {"fname": str, "class": int}
  rows = lists.mat_rows(path / listed, "annotations", fields)
  if odd := [row for row in rows if not 1 <= row[1] <= len(names)]:
    raise UserError(
      f"{path / listed}: {odd[0]} has none of the {len(names)} classes: unpack "
      "the archive anew."
    )
  return _open(
    path,
    [f"cars_{split}/{file}" for file, _ in rows],
    [str(names[number - 1]) for _, number in rows],
    classes,
    image_size,
    space,
  )


def cub(
  path: epath.PathLike,
  split: Literal["train", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens CUB-200-2011 (Wah et al. 2011).

  Args:
    path: of CUB_200_2011, where images.txt lies.
    split: of the authors.
    classes: name of each folder, such as "001.Black_footed_Albatross" -> label.
    image_size: px.
    space: the label space.
  """
  path = epath.Path(path).expanduser()
  chosen = {"train": "1", "test": "0"}[split]
  images = dict(lists.pairs(path / "images.txt", "a number and an image"))
  listed = path / "train_test_split.txt"
  is_train = dict(lists.pairs(listed, "a number, and 0 or 1"))
  if odd := [file for i, file in images.items() if i not in is_train]:
    raise UserError(f"{listed} lacks {odd[0]}: unpack the archive anew.")
  files = [file for i, file in images.items() if is_train[i] == chosen]
  names = [file.partition("/")[0] for file in files]
  files = [f"images/{file}" for file in files]
  return _open(path, files, names, classes, image_size, space)


def dtd(
  path: epath.PathLike,
  split: Literal["train", "validation", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  fold: Annotated[int, Rule(lambda x: 1 <= x <= 10, "1 to 10")] = 1,
  *,
  space: Any = None,
) -> Labelled:
  """Opens the Describable Textures (Cimpoi et al. 2014).

  Args:
    path: where images/ and labels/ lie.
    split: of the authors.
    classes: name of each texture -> label.
    image_size: px.
    fold: of the authors' ten.
    space: the label space.
  """
  name = f"{'val' if split == 'validation' else split}{fold}.txt"
  path = epath.Path(path).expanduser()
  rows = lists.lines(path / "labels" / name)
  names = [row.partition("/")[0] for row in rows]
  files = [f"images/{row}" for row in rows]
  return _open(path, files, names, classes, image_size, space)


def flowers(
  path: epath.PathLike,
  split: Literal["train", "validation", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens Oxford Flowers 102 (Nilsback and Zisserman 2008).

  Args:
    path: where jpg/, imagelabels.mat and setid.mat lie.
    split: of the authors, whose test is the largest.
    classes: name of each class -> label; the files have numbers, whose names
      are those of the label space "flowers".
    image_size: px.
    space: the label space.
  """
  path = epath.Path(path).expanduser()
  key = {"train": "trnid", "validation": "valid", "test": "tstid"}[split]
  names = spaces.load_space("flowers").class_names
  labels = lists.mat_numbers(path / "imagelabels.mat", "labels", len(names))
  numbers = lists.mat_numbers(path / "setid.mat", key, len(labels))
  return _open(
    path,
    [f"jpg/image_{number:05}.jpg" for number in numbers],
    [names[labels[number - 1] - 1] for number in numbers],
    classes,
    image_size,
    space,
  )


def food101(
  path: epath.PathLike,
  split: Literal["train", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens Food-101 (Bossard et al. 2014).

  Args:
    path: where images/ and meta/ lie.
    split: of the authors.
    classes: name of each folder -> label.
    image_size: px.
    space: the label space.
  """
  path = epath.Path(path).expanduser()
  rows = lists.lines(path / "meta" / f"{split}.txt")
  names = [row.partition("/")[0] for row in rows]
  files = [f"images/{row}.jpg" for row in rows]
  return _open(path, files, names, classes, image_size, space)


def imagenet(
  path: epath.PathLike,
  split: Literal["train", "validation"],
  image_size: Count | None = None,
  *,
  space: Any,
) -> Labelled:
  """Opens ImageNet-1K (Russakovsky et al. 2015).

  Args:
    path: where train/ and val/ lie, with a folder for each synset. The images
      of val/ may also lie in it, as ILSVRC2012_img_val.tar has them; their
      classes are then those of LOC_val_solution.csv, or of the development kit
      ILSVRC2012_devkit_t12, there or up to four folders above.
    split: of the authors.
    image_size: px.
    space: the label space, whose keys are the synsets.
  """
  path = epath.Path(path).expanduser()
  folder = path / ("val" if split == "validation" else "train")
  is_flat = folder.is_dir() and any(map(image_files.is_image, folder.iterdir()))
  if not is_flat:
    return png_folder.open_folder(folder, None, image_size, space=space)
  synset_of = _validation_synsets(path)
  files = sorted(synset_of)
  synsets = [synset_of[file] for file in files]
  return _open(folder, files, synsets, None, image_size, space)


def _validation_synsets(path: epath.Path) -> dict[str, str]:
  """Returns the synset of each image of ImageNet's validation split."""
  for folder in (path, *list(path.parents)[:4]):
    table = folder / "LOC_val_solution.csv"  # Kaggle's
    if table.exists():
      needed = ("ImageId", "PredictionString")
      rows = lists.table(table, needed, between=",")
      return {
        f"{row['ImageId']}.JPEG": row["PredictionString"].split()[0]
        for row in rows
      }
    kit = folder / "ILSVRC2012_devkit_t12" / "data"
    if kit.exists():
      fields = {"ILSVRC2012_ID": int, "WNID": str}
      rows = lists.mat_rows(kit / "meta.mat", "synsets", fields)
      synsets = {str(number): synset for number, synset in rows}
      truth = kit / "ILSVRC2012_validation_ground_truth.txt"
      numbers = lists.lines(truth)
      if odd := [number for number in numbers if number not in synsets]:
        raise UserError(f"{truth}: no synset has the number {odd[0]!r}.")
      return {
        f"ILSVRC2012_val_{i:08}.JPEG": synsets[number]
        for i, number in enumerate(numbers, start=1)
      }
  raise UserError(
    f"The images of {path / 'val'} are in one folder, which does not say their "
    "classes: put ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv of "
    f"ImageNet's publisher into {path}."
  )


def pets(
  path: epath.PathLike,
  split: Literal["train", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens Oxford-IIIT Pet (Parkhi et al. 2012).

  Args:
    path: where images/ and annotations/ lie.
    split: "train" is the authors' trainval.
    classes: name of each breed -> label.
    image_size: px.
    space: the label space.
  """
  path = epath.Path(path).expanduser()
  listed = "trainval" if split == "train" else split
  rows = lists.lines(path / "annotations" / f"{listed}.txt")
  images = [row.split()[0] for row in rows if not row.startswith("#")]
  names = [image.rpartition("_")[0] for image in images]
  files = [f"images/{image}.jpg" for image in images]
  return _open(path, files, names, classes, image_size, space)


def sun397(
  path: epath.PathLike,
  split: Literal["train", "test"],
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  partition: Annotated[int, Rule(lambda x: 1 <= x <= 10, "1 to 10")] = 1,
  *,
  space: Any = None,
) -> Labelled:
  """Opens SUN397 (Xiao et al. 2010).

  Args:
    path: where SUN397/ lies, and the lists of Partitions.zip, or Partitions/.
    split: of the authors.
    classes: name of each folder, such as "/a/abbey" -> label.
    image_size: px.
    partition: of the authors' ten.
    space: the label space.
  """
  name = f"{'Training' if split == 'train' else 'Testing'}_{partition:02}.txt"
  path = epath.Path(path).expanduser()
  rows = lists.lines(lists.find(path, (".", "Partitions"), (name,)) / name)
  names = [row.rpartition("/")[0] for row in rows]
  files = [f"SUN397{row}" for row in rows]
  return _open(path, files, names, classes, image_size, space)


def _open(
  path: epath.Path,
  files: Sequence[str],
  names: Sequence[str],
  classes: Mapping[str, int] | None,
  image_size: int | None,
  space: Any,
) -> Labelled:
  """Opens listed images by the names of their classes.

  Args:
    path: of the folder.
    files: paths of the images below it.
    names: of their classes.
    classes: name -> label; those of the space by default.
    image_size: px.
    space: the label space.
  """
  labels = class_names.match(
    dict.fromkeys(names),
    class_names.lookup(space) if classes is None else classes,
    where=str(path),
  )
  image_files.check_present(path, files, "unpack the archive anew")
  return image_files.open_files(
    path, files, [labels[name] for name in names], image_size
  )
