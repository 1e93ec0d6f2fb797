"""A user's photographs, in whatever way they lie in a folder.

`look` tells by the names of files which of LAYOUTS it is; `open_photographs`
opens it for classifiers, and `detection.sources` for detectors. Photographs may
lack classes, and there may be others among them: what is not used is counted.
"""

import functools
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from synthjax.config.schema import Count, Rule
from synthjax.data.formats import (
  coco,
  image_list,
  parquet,
  png_folder,
  webdataset,
)
from synthjax.data.pipeline import few_shot, image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.labels import class_names
from synthjax.runtime import hub
from synthjax.runtime.errors import UserError

Split = Literal["train", "validation", "test"]
Shares = Annotated[
  Mapping[str, float],
  Rule(
    lambda x: {*x} <= {"validation", "test"} and 0 < sum(x.values()) < 1,
    "shares of validation and test, together below 1",
  ),
]
# How folders and files call the splits; a year may follow, as in "val2017".
_SPLITS = {
  "train": ("train", "training"),
  "validation": ("validation", "valid", "val", "dev"),
  "test": ("test", "testing"),
}
# What can be opened, as an error lists it.
LAYOUTS = {
  "folders": "folders of images, each named like a class of the label space",
  "list": "a table .csv or .tsv: columns `path` and `label`, maybe `split`",
  "coco": "a .json file of COCO, with images that have boxes",
  "voc": "folders Annotations and JPEGImages of VOC, or .xml beside the images",
  "parquet": ".parquet or .arrow files of Hugging Face's `datasets`",
  "webdataset": ".tar files of WebDataset",
}
_KINDS = {
  **dict.fromkeys(image_list.ENDINGS, "list"),
  ".json": "coco",
  ".parquet": "parquet",
  parquet.ARROW: "parquet",
  ".tar": "webdataset",
}
_SHOWN = 8  # names that a message lists
_UNEVEN = 3  # times the images of the smallest class, from which it is said


class Found(NamedTuple):
  """What lies at a path."""

  layout: str  # a key of LAYOUTS
  path: epath.Path  # of the folder or the file that has it
  split: str | None  # as the files call it, if they hold several


def look(
  path: epath.PathLike, split: str | None, classes: Mapping[str, int]
) -> tuple[Found, bool]:
  """Tells what lies at a path, by the names of files and folders.

  Args:
    path: local or gs://, or a data set of the hub, hf://datasets/ORG/NAME.
    split: of the images: folders, files or rows called so are chosen, if any
      are called like splits.
    classes: name -> label, as the folder of a class may be called "test".

  Returns:
    What lies there, and whether it is called like the split.

  Raises:
    UserError: saying what lies there, if it is no layout that can be opened, or
      only other splits.
  """
  path = os.fspath(path)
  if path.startswith(hub.SCHEME):
    inner = hub.parse(path).inner
    path = hub.snapshot(path, lambda names: names) / inner
  path = epath.Path(path).expanduser()
  parts = _parts(path, classes)
  named = {s: name for name in reversed(parts) if (s := _split_of(name))}
  # Where nothing is set apart for it, the split is a share of the others.
  is_split, others = split in named, named.keys() - {"train"}
  if not is_split and (len(parts) > 1 or (split and others)):
    held = f"{path} holds {', '.join(map(repr, parts))}"
    raise UserError(
      f"{held}, and nothing that is called {split!r}: give the path of the "
      "images to take, or one of these as `split`."
      if split
      else f"{held}: give the path of one of them, or one of these as `split`."
    )
  found = parts[named[split] if is_split else next(iter(parts))]
  if found.layout == "splits":
    return look(found.path, None, classes)[0], is_split
  return found, is_split


def _split_of(name: str) -> str | None:
  """Returns the split that a name means, such as "validation" for "val2017"."""
  plain = re.sub(r"[-_ ]?\d*$", "", name.casefold().removeprefix("instances_"))
  return next((s for s, names in _SPLITS.items() if plain in names), None)


def _parts(path: epath.Path, classes: Mapping[str, int]) -> dict[str, Found]:
  """Returns what lies at a path, by the name of the split.

  "splits" is the layout of a folder that has one of its own.
  """
  if path.is_file():
    if (layout := _KINDS.get(path.suffix.lower())) is None:
      raise _unknown(f"The file {path}")
    splits = image_list.splits(path) if layout == "list" else ()
    return {n: Found(layout, path, n) for n in sorted(splits)} or {
      "": Found(layout, path, None)
    }
  if not path.is_dir():
    raise UserError(f"There is no folder or file {path}.")
  names = _names(path, classes)
  folders = [name for name in names if (path / name).is_dir()]
  labels = class_names.resolve(folders, classes).values()
  if any(label is not None for label in labels):
    return {"": Found("folders", path, None)}
  voc = [n for n in folders if re.fullmatch(r"VOCdevkit|VOC\d{4}", n)]
  if len(voc) == 1:
    return _parts(path / voc[0], classes)
  if "Annotations" in folders or any(n.endswith(".xml") for n in names):
    lists = (path / "ImageSets" / "Main").glob("*.txt")
    splits = sorted(file.stem for file in lists if _split_of(file.stem))
    return {n: Found("voc", path, n) for n in splits} or {
      "": Found("voc", path, None)
    }
  if splits := [name for name in folders if _split_of(name)]:
    if "annotations" not in folders:
      return {n: Found("splits", path / n, None) for n in splits}
  files: dict[str, dict[str, Found]] = {}
  for folder in ("", "annotations", "data"):
    for name in _names(path / folder) if folder in ("", *folders) else ():
      file = path / folder / name
      layout = _KINDS.get(file.suffix.lower())
      if layout == "coco" and not coco.is_coco(file):
        continue
      if layout in ("parquet", "webdataset"):  # of several files each
        split = re.sub(r"[-_]?\d+(-of-\d+)?$", "", file.stem)
        split = split if _split_of(split) else ""
        found = Found(layout, path, split or None)
        files.setdefault(layout, {})[split] = found
      elif layout:
        files.setdefault(layout, {})[file.stem] = Found(layout, file, None)
  for layout in ("parquet", "webdataset", "list", "coco"):
    parts = files.get(layout, {})
    if layout == "list" and len(parts) == 1:
      return _parts(next(iter(parts.values())).path, classes)
    if parts:
      return parts
  if len(folders) == 1:  # as archives unpack
    inner = path / folders[0]
    if not any(image_files.is_image(inner / n) for n in _names(inner)):
      return _parts(inner, classes)
  if folders and classes:  # which fit no class; to open them lists them
    return {"": Found("folders", path, None)}
  listed = ", ".join(names[:_SHOWN]) or "nothing"
  raise _unknown(f"{path} holds {listed}, which")


def _names(path: epath.Path, classes: Collection[str] = ()) -> list[str]:
  """Returns the sorted names in a folder, without those that systems leave."""
  names = (entry.name for entry in path.iterdir())
  is_kept = lambda n: n in classes or not image_files.is_leftover(n)
  return sorted(filter(is_kept, names))


def _unknown(what: str) -> UserError:
  known = "\n  ".join(LAYOUTS.values())
  return UserError(
    f"{what} is no layout of photographs. Unpack archives; needed is one of "
    f"these, which may lie in folders train, validation and test:\n  {known}"
  )


# --- photographs for classifiers ----------------------------------------------


def open_photographs(
  path: epath.PathLike,
  split: Split | None = None,
  shares: Shares | None = None,
  image_size: Count | None = None,
  classes: Mapping[str, int] | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens the photographs that lie at a path.

  Images of no class are passed over, with a warning; so are classes without an
  image. A warning counts the images of uneven classes.

  Args:
    path: of a folder or a file, in one of LAYOUTS.
    split: of the images; all of them if None.
    shares: of the images of each class that become each split, where the files
      have none; see `few_shot.divide`.
    image_size: crops and resizes the images to squares of this side.
    classes: name -> label; those of the space by default.
    space: the label space.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str.

  Raises:
    UserError: as `look`; about names that may be misspelt classes; and from the
      functions that open the layouts.
  """
  if classes is None:
    classes = class_names.lookup(space) | png_folder.class_folders(space)
  found, is_split = look(path, split, classes)
  if found.layout == "voc":
    raise UserError(
      f"{path} holds annotations of VOC, which are for a detector, as "
      "configs/detect_voc.py trains. For a classifier, put the images into "
      "folders named like their classes."
    )
  options = {} if found.split is None else {"split": found.split}
  source = _READERS[found.layout](
    found.path, classes, image_size, complete=False, **options
  )
  labels = source.labels
  rows = np.flatnonzero(labels != class_names.NO_CLASS)
  if len(rows) < len(labels):
    source = image_files.subset(source, rows)
  if shares and split and not is_split:
    parts = few_shot.divide(source.labels, shares)
    source = image_files.subset(source, parts[split])
  names = {label: name for name, label in reversed(classes.items())}
  counts = [int((source.labels == label).sum()) for label in names]
  others = len(labels) - len(rows)
  say(path, split, counts, [*names.values()], num_others=others)
  return source


def say(
  path: epath.PathLike,
  split: str | None,
  counts: Sequence[int],
  names: Sequence[str],
  *,
  num_others: int = 0,
  unit: str = "images",
) -> None:
  """Warns of what lies at a path besides classes of about as many images.

  Args:
    path: of the photographs.
    split: of them.
    counts: [k] of each class.
    names: of the classes.
    num_others: images of no class.
    unit: that is counted.
  """
  present = {n: int(c) for n, c in zip(names, counts, strict=True) if c}
  missing = [name for name in names if name not in present]
  notes = []
  if num_others:
    images = (
      "image of no class is" if num_others == 1 else "images of no class are"
    )
    notes.append(f"{num_others:,} {images} passed over")
  if missing:
    notes.append(f"there are none of {class_names.some(missing)}")
  ordered = sorted(present, key=present.get)
  if present and present[ordered[-1]] >= _UNEVEN * present[ordered[0]]:
    ends = [f"{present[n]:,} of {n}" for n in (ordered[0], ordered[-1])]
    notes.append(f"there are from {' to '.join(ends)}")
  if notes:
    _warn(
      f"{path}{f' ({split})' * bool(split)}: {sum(present.values()):,} {unit} "
      f"of {len(present)} of {len(names)} classes; {'; '.join(notes)}."
    )


@functools.cache  # once a process, as photographs may be opened many times
def _warn(text: str) -> None:
  logging.warning("%s", text)


_READERS = {
  "folders": png_folder.open_folder,
  "list": image_list.open_list,
  "coco": coco.open_labelled,
  "parquet": parquet.open_parquet,
  "webdataset": webdataset.open_webdataset,
}
