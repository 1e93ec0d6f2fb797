"""Where labelled images come from: rows by position, whatever stores them."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from synthjax.data.shards import Example, Source, open_shards
from synthjax.errors import UserError, unknown_names

_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def open_source(kind: str, **fields: Any) -> Sequence[Example]:
  """Opens the source of SOURCES that is called `kind`.

  Args:
    kind: "folder", "shards", "tfds" or "embedded".
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
) -> Source:
  """Opens a folder that holds one folder of image files for each class.

  Args:
    path: local or gs://.
    classes: name of each class folder -> label. Labels are always given, as
      the order of folders changes with each class that is added.
    image_size: crops and resizes the images to squares of this side.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str, which is
    the path below `path`. Rows are sorted by folder and file name.

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
      each.name
      for each in found[name].iterdir()
      if each.suffix.lower() in _ENDINGS
    )
    files += [f"{name}/{image}" for image in images]
    labels += [classes[name]] * len(images)
    if not images:
      problems.append(f"{name}: holds no image ({', '.join(sorted(_ENDINGS))})")
  if problems:
    listed = "\n  ".join(sorted(problems))
    raise UserError(
      f"{path} does not fit its {len(classes)} classes:\n  {listed}"
    )
  read = functools.partial(_read_file, path, tuple(files), labels, image_size)
  return Source(len(files), read)


def tfds(
  name: str,
  split: str,
  data_dir: epath.PathLike | None = None,
  image_size: int | None = None,
  image_key: str = "image",
  label_key: str = "label",
) -> Source:
  """Opens a data set of TensorFlow Datasets, without TensorFlow.

  Args:
    name: such as "cifar100" or "oxford_iiit_pet:4.0.0".
    split: such as "test" or "train[:1000]".
    data_dir: where it is prepared; TFDS's own folder by default. What is not
      there yet is downloaded and prepared as ArrayRecord files.
    image_size: crops and resizes the images to squares of this side.
    image_key: the feature that is the image.
    label_key: the feature that is the label.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str.
  """
  import tensorflow_datasets

  records = tensorflow_datasets.data_source(
    name, split=split, data_dir=data_dir
  )
  features = set(records.dataset_info.features)
  if missing := [key for key in (image_key, label_key) if key not in features]:
    raise unknown_names(f"feature of {name}", missing, features)
  keys = image_key, label_key, f"{name}-{split}"
  read = functools.partial(_read_tfds, records, keys, image_size)
  return Source(len(records), read)


def embedded(split: str, space: Any = None) -> Sequence[Example]:
  """Opens a split of the drawings that the package holds.

  Args:
    split: a key of `synthjax.data.embedded.SPLITS`, such as "test".
    space: the label space; None labels each drawing by its concept.

  Returns:
    A source of rows of image uint8 [32, 32, 3], label int, and what is drawn.
  """
  from synthjax.data.embedded import open_split

  return open_split(split, space=space)


SOURCES = {
  "embedded": embedded,
  "folder": folder,
  "shards": open_shards,
  "tfds": tfds,
}


def to_rgb(image: Image.Image) -> Image.Image:
  """Returns an image of any mode as RGB, over white where it is transparent."""
  if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
  if image.mode.startswith("I;16"):  # 16 bits: convert() would clip, not scale
    scaled = np.asarray(image) >> 8
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
  return image.convert("RGB")


def to_square(image: Image.Image, size: int) -> Image.Image:
  """Resizes the shorter side to `size` and crops the middle of the longer."""
  width, height = image.size
  side = min(width, height)
  left, top = (width - side) // 2, (height - side) // 2
  box = (left, top, left + side, top + side)
  return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _finish(image: Image.Image, image_size: int | None) -> np.ndarray:
  image = to_rgb(image)
  if image_size is not None and image.size != (image_size, image_size):
    image = to_square(image, image_size)
  return np.asarray(image)


def _read_file(
  path: epath.Path,
  files: Sequence[str],
  labels: Sequence[int],
  image_size: int | None,
  index: int,
) -> Example:
  file = path / files[index]
  try:
    with file.open("rb") as opened, Image.open(opened) as image:
      pixels = _finish(image, image_size)
  except (UnidentifiedImageError, OSError, SyntaxError) as error:
    raise UserError(
      f"{file} cannot be read as an image ({error}): mend it or move it away."
    ) from error
  return {"image": pixels, "label": labels[index], "id": files[index]}


def _read_tfds(
  records: Any,
  keys: tuple[str, str, str],
  image_size: int | None,
  index: int,
) -> Example:
  image_key, label_key, prefix = keys
  example = records[index]
  image = example[image_key]
  if image.shape[-1] == 1:  # grey images keep their channel in TFDS
    image = image[..., 0]
  return {
    "image": _finish(Image.fromarray(image), image_size),
    "label": int(example[label_key]),
    "id": f"{prefix}-{index}",
  }
