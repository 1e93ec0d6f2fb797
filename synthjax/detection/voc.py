"""PASCAL VOC (Everingham et al. 2010): images with boxes, as rows by position.

Images come as viewers show them, and the boxes with them: an image that EXIF
turns has the boxes of its stored pixels turned.

A row holds image uint8 [h, w, 3]; boxes float32 [k, 4], the edges x0, y0, x1,
y1 in pixels, which are VOC's (xmin - 1, ymin - 1, xmax, ymax); labels int32
[k]; difficult bool [k]; id str, the name of the file without its ending; and
size, (h, w).
"""

import functools
import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from synthjax.data.pipeline import image_files, orientation
from synthjax.data.pipeline.rows import Detection, Example, Files
from synthjax.data.real import lists, tfds_copies
from synthjax.detection import voc_files
from synthjax.detection.voc_files import Annotation
from synthjax.labels import class_names, spaces
from synthjax.runtime import atomic
from synthjax.runtime.errors import UserError

_IMAGES, _NOTES = "JPEGImages", "Annotations"
_TFDS_SPLITS = {"trainval": "train+validation", "val": "validation"}
_ADVICE = (
  "Unpack the archives anew over each other, or correct these files; VOC "
  "publishes no annotations for the test of 2012. Boxes count pixels from 1, "
  "both ends included; objects of another label space need its `classes`."
)


def open_voc(
  path: epath.PathLike,
  sets: Iterable[tuple[str, str]],
  classes: Mapping[str, int] | None = None,
  drop_empty: bool = False,
) -> Detection:
  """Opens VOC, or any data set of its layout, as its archives unpack.

  Args:
    path: of VOCdevkit, or of the folder that holds it.
    sets: pairs of year and split, such as ("2007", "test"), one after another.
    classes: name in the annotations -> label; those of VOC by default.
    drop_empty: leaves out images without an object, as training does.

  Raises:
    UserError: listing every list, annotation and image that is missing, and
      every mistake in an annotation. A damaged image shows when it is read.
  """
  root = epath.Path(path).expanduser()
  root = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
  annotated, problems = [], []
  for year, split in sets:
    folder, listed = root / f"VOC{year}", root / list_of(year, split)
    if not listed.exists():
      problems.append(f"{listed}: is not there")
      continue
    notes, images = folder / _NOTES, folder / _IMAGES
    annotated += _noted(root, notes, images, lists.lines(listed), problems)
  return _open_files(root, annotated, classes, problems, drop_empty)


def open_voc_folder(
  path: epath.PathLike,
  split: str | None = None,
  classes: Mapping[str, int] | None = None,
  *,
  complete: bool = True,
) -> Detection:
  """Opens a folder of annotations like VOC's, as annotators' programs write.

  Args:
    path: of the folder that holds Annotations and JPEGImages (or `images`); or
      the annotations and images themselves.
    split: the name of a list in ImageSets/Main; all annotations if None.
    classes: name in the annotations -> label; those of VOC by default.
    complete: if not, objects of no class are left out; see `class_names.check`.

  Raises:
    UserError: as `open_voc`.
  """
  path, problems = epath.Path(path).expanduser(), []
  inner = lambda *names: next(
    (path / name for name in names if (path / name).is_dir()), path
  )
  notes, images = inner(_NOTES), inner(_IMAGES, "images")
  if split is None:
    ids = sorted(n[:-4] for n in _names(notes) if n.endswith(".xml"))
    ids = [name for name in ids if not image_files.is_leftover(name)]
  else:
    ids = lists.lines(path / "ImageSets" / "Main" / f"{split}.txt")
  annotated = _noted(path, notes, images, ids, problems)
  return _open_files(path, annotated, classes, problems, False, complete)


def _noted(
  root: epath.Path,
  notes: epath.Path,
  images: epath.Path,
  ids: Iterable[str],
  problems: list[str],
) -> list[tuple[Any, Any, str, Annotation]]:
  """Returns annotation, path of the image below `root`, id, what is noted."""
  noted, files_there = _names(notes), _names(images)
  annotated, below = [], images.relative_to(root)
  for line in ids:
    name = _id(line, noted)
    note = notes / f"{name}.xml"
    try:
      if f"{name}.xml" not in noted:
        raise ValueError("is not there")
      annotation = voc_files.parse(note.read_bytes())
      files = _files_of(name, annotation, files_there)
      if len(files) != 1:
        instead = f", but {' and '.join(files)}" if files else ""
        problems.append(f"{images / f'{name}.jpg'}: is not there{instead}")
      place = below / (files[0] if files else name)
      annotated.append((note, str(place), name, annotation))
    except ValueError as error:
      problems += _lines(note, error)
  return annotated


def _open_files(
  root: epath.Path,
  annotated: Sequence[tuple[Any, Any, str, Annotation]],
  classes: Mapping[str, int] | None,
  problems: list[str],
  drop_empty: bool,
  complete: bool = True,
) -> Detection:
  """Opens the images of annotations, which lie below `root`."""
  rows = _rows(annotated, classes, problems, complete, where=str(root))
  class_names.raise_problems(
    problems, f"{root} cannot be opened as PASCAL VOC", _ADVICE
  )
  headers = image_files.read_headers([root / place for place, _ in rows])
  rows = [
    (place, orientation.as_shown(row, header))
    for (place, row), header in zip(rows, headers, strict=True)
  ]
  read = functools.partial(_read_file, root)
  return _source(rows, read, drop_empty, root, below=root)


def list_of(year: str, split: str) -> str:
  """Returns the path of the list of a split, below VOCdevkit."""
  return f"VOC{year}/ImageSets/Main/{split}.txt"


def open_voc_tfds(
  sets: Iterable[tuple[str, str]],
  data_dir: epath.PathLike | None = None,
  classes: Mapping[str, int] | None = None,
  drop_empty: bool = False,
) -> Detection:
  """Opens VOC through TensorFlow Datasets: its `voc/2007` and `voc/2012`.

  TFDS divides corners by the size of the image; here they are multiplied back,
  to the very same boxes as `open_voc` reads. All records are read once, for
  the sizes in the headers of their images.

  Args:
    sets: pairs of year and split, such as ("2012", "trainval").
    data_dir: where TFDS has prepared it.
    classes: name of a label in TFDS -> label; those of VOC by default.
    drop_empty: leaves out images without an object, as training does.

  Raises:
    UserError: from `tfds_copies.open_copy`, or listing every mistake in an
      annotation.
  """
  import tensorflow_datasets

  sources, annotated, problems = [], [], []
  skip = {"image": tensorflow_datasets.decode.SkipDecoding()}
  for year, split in sets:
    split = _TFDS_SPLITS.get(split, split)
    records = tfds_copies.open_copy(f"voc/{year}", split, data_dir, skip)
    names = records.dataset_info.features["objects"]["label"].names
    for position in range(len(records)):
      record = records[position]
      file = record["image/filename"]
      file = file.decode() if isinstance(file, bytes) else str(file)
      where = f"voc/{year} {split}, row {position} ({file})"
      try:
        annotation = voc_files.from_tfds(record, names)
        name = file.rsplit(".", 1)[0]
        annotated.append((where, (len(sources), position), name, annotation))
      except ValueError as error:
        problems += _lines(where, error)
    sources.append(records)
  rows = _rows(annotated, classes, problems)
  class_names.raise_problems(
    problems, "TFDS's PASCAL VOC cannot be opened", _ADVICE
  )
  read = functools.partial(_read_record, sources)
  return _source(rows, read, drop_empty, "TFDS's PASCAL VOC")


def _names(folder: epath.Path) -> set[str]:
  if not folder.is_dir():
    return set()
  return {entry.name for entry in folder.iterdir()}


def _id(line: str, noted: Collection[str]) -> str:
  """Returns the id of an image, which may have spaces.

  Lists of one class have 1, 0 or -1 behind it.
  """
  first = re.sub(r"\s+(-1|0|1)$", "", line)
  return line if f"{line}.xml" in noted else first


def _files_of(
  name: str, annotation: Annotation, images: Collection[str]
) -> list[str]:
  """Returns the file of an image; others of its name if it is not there.

  It is NAME.jpg, or what the annotation says.
  """
  for file in (f"{name}.jpg", annotation.file):
    if file in images:
      return [file]
  is_named_so = lambda file: file.rsplit(".", 1)[0] == name
  is_image = lambda file: image_files.is_image(epath.Path(file))
  return sorted(f for f in images if is_named_so(f) and is_image(f))


def _lines(where: Any, error: Exception) -> list[str]:
  return [f"{where}: {line}" for line in str(error).splitlines()]


def _source(
  rows: Sequence[tuple[Any, Example]],
  read: Callable[[Any, tuple[int, int]], np.ndarray],
  drop_empty: bool,
  where: Any,
  below: epath.Path | None = None,
) -> Detection:
  """Returns a source of rows.

  Args:
    rows: the place of an image, and its row but for the image.
    read: place and size -> image.
    drop_empty: leaves out rows without an object.
    where: of the images, for messages.
    below: the folder of files, if the places are their paths below it.
  """
  rows = [row for row in rows if not drop_empty or len(row[1]["labels"])]
  if not rows:
    raise UserError(
      f"{where} has no image left to read: give `sets` that have some, or keep "
      "those without objects (drop_empty=False)."
    )
  notes = [note for _, note in rows]
  return Detection(
    size=len(rows),
    read=functools.partial(_read, rows, read),
    annotate=functools.partial(_annotate, rows),
    sizes=np.array([note["size"] for note in notes], np.int32),
    max_objects=max(1, *(len(note["labels"]) for note in notes)),
    files=below and Files(below, [place for place, _ in rows], are_rows=True),
  )


def _rows(
  annotated: Sequence[tuple[Any, Any, str, Annotation]],
  classes: Mapping[str, int] | None,
  problems: list[str],
  complete: bool = True,
  *,
  where: str = "",
) -> list[tuple[Any, Example]]:
  """Returns the place of each image, and its row but for the image.

  Args:
    annotated: where the annotation stands, the place, the id, the annotation.
    classes: name in the annotations -> label; those of VOC by default.
    problems: gets a line for each name of no class.
    complete: if not, objects of no class are left out.
    where: names all of them, if not `complete`.
  """
  if classes is None:
    classes = class_names.lookup(spaces.load_space("voc"))
  names = (name for *_, annotation in annotated for name in annotation.names)
  labels_of, rows = class_names.resolve(names, classes), []
  if not complete and not problems:
    unknown = [name for name, label in labels_of.items() if label is None]
    labels = labels_of.values()
    class_names.check(classes, unknown, labels, where=where, complete=False)
  for note, place, image_id, annotation in annotated:
    unknown = sorted({n for n in annotation.names if labels_of[n] is None})
    if unknown and complete:
      problems += [
        f"{note}: has an object {class_names.no_class(name, classes)}"
        for name in unknown
      ]
      continue
    labels = [labels_of[name] for name in annotation.names]
    kept = [i for i, label in enumerate(labels) if label is not None]
    row = {
      "boxes": annotation.boxes[kept],
      "labels": np.array([labels[i] for i in kept], np.int32),
      "difficult": annotation.difficult[kept],
      "id": image_id,
      "size": annotation.size,
    }
    rows.append((place, row))
  return rows


# --- images -----------------------------------------------------------------


def _annotate(rows: Sequence[tuple[Any, Example]], index: int) -> Example:
  return dict(rows[index][1])


def _read(
  rows: Sequence[tuple[Any, Example]], read: Callable, index: int
) -> Example:
  place, note = rows[index]
  return note | {"image": read(place, note["size"])}


def _read_file(
  root: epath.Path, place: str, size: tuple[int, int]
) -> np.ndarray:
  return _of_size(image_files.read_pixels(root / place), root / place, size)


def _read_record(
  sources: Sequence[Any], place: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
  number, position = place
  where = f"Row {position} of {sources[number].dataset_info.full_name}"
  image = image_files.decode(sources[number][position]["image"], name=where)
  return _of_size(image, where, size)


def _of_size(
  pixels: np.ndarray, where: Any, size: tuple[int, int]
) -> np.ndarray:
  if pixels.shape[:2] != tuple(size):
    raise UserError(
      f"{where} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but its "
      f"annotation says {size[1]} x {size[0]}: its boxes belong to another "
      "image. Put both back from the archive."
    )
  return pixels


# --- writing ----------------------------------------------------------------


def write_voc(
  path: epath.PathLike,
  rows: Iterable[Example],
  classes: Sequence[str],
  *,
  year: str = "2007",
  split: str = "trainval",
  quality: int = 95,
) -> int:
  """Writes rows in the layout of VOC: VOCdevkit/VOC2007/JPEGImages, ...

  Each file appears when it is whole, and the list of the split, without which
  nothing is read, comes last.

  Args:
    path: of the folder that gets VOCdevkit.
    rows: as `open_voc` returns them; boxes are kept, images become JPEG.
    classes: name of each label, as annotations will hold it.
    year: of the folder.
    split: of the list.
    quality: of the JPEGs.

  Returns:
    The number of images.

  Raises:
    UserError: about an id that cannot name a file, an id that comes twice, or
      a label without a name.
  """
  folder = epath.Path(path).expanduser() / "VOCdevkit" / f"VOC{year}"
  ids: dict[str, None] = {}
  with atomic.replace_many(folder) as write_file:
    for row in rows:
      name = row["id"]
      if len(name.split()) != 1 or "/" in name or name in ids:
        raise UserError(
          f"{name!r} cannot be the name of an image's file: it must be one "
          "word without a slash, and of one image only. Give the rows other "
          "ids."
        )
      ids[name] = None
      if unknown := {int(i) for i in row["labels"]} - set(range(len(classes))):
        raise UserError(
          f"The image {name!r} has the labels {sorted(unknown)}, but there are "
          f"{len(classes)} classes, from 0. Give each label a name."
        )
      image = io.BytesIO()
      Image.fromarray(row["image"]).save(image, "JPEG", quality=quality)
      write_file(f"JPEGImages/{name}.jpg", image.getvalue())
      objects = [
        (classes[label], box, difficult)
        for label, box, difficult in zip(
          row["labels"], row["boxes"], row["difficult"], strict=True
        )
      ]
      size = row["image"].shape[:2]
      xml = voc_files.to_xml(f"{name}.jpg", size, objects, folder=f"VOC{year}")
      write_file(f"Annotations/{name}.xml", xml)
  with atomic.replace(folder, f"ImageSets/Main/{split}.txt") as file:
    file.write_text("".join(f"{name}\n" for name in ids))
  return len(ids)
