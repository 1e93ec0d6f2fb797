"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from their authors' files.

The "python version" holds pickles, which `weights.torch_files.unpickle` reads
without running them; the "binary version" holds rows of labels and pixels.
"""

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from synthjax.config.schema import Count, Whole
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Example, Files
from synthjax.labels import class_names
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import read_text
from synthjax.weights.torch_files import unpickle
from synthjax.weights.torch_files.records import Module

_SIDE = 32  # px
_PIXELS = 3 * _SIDE * _SIDE  # bytes of an image: red, green, blue


class _Layout(NamedTuple):
  """The files of one folder."""

  train: Sequence[str]
  test: Sequence[str]
  names: str  # of the classes
  labels: str  # the key of pickled labels and, with "_names", of names
  label_bytes: int = 0  # before the pixels of a row; 0 is a pickle


_BATCHES = range(1, 6)
LAYOUTS = {
  "cifar-10-batches-py": _Layout(
    [f"data_batch_{i}" for i in _BATCHES],
    ["test_batch"],
    "batches.meta",
    "label",
  ),
  "cifar-10-batches-bin": _Layout(
    [f"data_batch_{i}.bin" for i in _BATCHES],
    ["test_batch.bin"],
    "batches.meta.txt",
    "label",
    1,
  ),
  "cifar-100-python": _Layout(["train"], ["test"], "meta", "fine_label"),
  "cifar-100-binary": _Layout(
    ["train.bin"], ["test.bin"], "fine_label_names.txt", "fine_label", 2
  ),
}


def open_cifar(
  path: epath.PathLike,
  split: Literal["train", "test"],
  first: Whole = 0,
  last: Count | None = None,
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  *,
  space: Any = None,
) -> Labelled:
  """Opens CIFAR-10 or CIFAR-100.

  Args:
    path: of a folder that an archive unpacks to, a key of LAYOUTS.
    split: of the authors.
    first: row to begin with, in the authors' order.
    last: row to end before; all by default.
    classes: name in the files -> label; those of the space by default.
    image_size: resizes the images to squares of this side.
    space: the label space.

  Raises:
    UserError: about files that are missing, damaged or no CIFAR.
  """
  path = epath.Path(path).expanduser()
  if path.name not in LAYOUTS:
    raise UserError(
      f"{path} must be the folder that an archive of CIFAR unpacks to: one of "
      f"{', '.join(LAYOUTS)}."
    )
  layout = LAYOUTS[path.name]
  files = layout.train if split == "train" else layout.test
  wanted = [layout.names, *files]
  if missing := [name for name in wanted if not (path / name).exists()]:
    raise UserError(
      f"{path} lacks {', '.join(missing)}: unpack the archive anew."
    )
  names = _names(path, layout)
  labels_of = class_names.match(
    names,
    class_names.lookup(space) if classes is None else classes,
    where=str(path),
  )
  rows = _Rows(str(path), split, first, image_size)
  _, numbers = _read_split(str(path), split)
  if (odd := numbers[(numbers < 0) | (numbers >= len(names))]).size:
    raise UserError(
      f"{path} has the label {odd[0]}, but {len(names)} names: unpack the "
      "archive anew."
    )
  labels = [labels_of[names[n]] for n in numbers[first:last].tolist()]
  read = functools.partial(_read, rows, labels)
  label = functools.partial(operator.getitem, labels)
  parts = Files.of_many_rows([path / name for name in wanted])
  return Labelled(len(labels), read, label, files=parts)


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Where rows lie; a worker that gets them reads the files itself."""

  path: str
  split: str
  first: int
  image_size: int | None


def _read(rows: _Rows, labels: Sequence[int], index: int) -> Example:
  number = rows.first + index
  pixels, _ = _read_split(rows.path, rows.split)
  image = pixels[number].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
  if rows.image_size is not None:
    image = image_files.to_pixels(Image.fromarray(image), rows.image_size)
  return {
    "image": np.ascontiguousarray(image),
    "label": labels[index],
    "id": f"{epath.Path(rows.path).name}/{rows.split}/{number}",
  }


@functools.lru_cache(maxsize=4)
def _read_split(path: str, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the pixels, uint8 [n, 3072], and the labels, int [n]."""
  folder = epath.Path(path)
  layout = LAYOUTS[folder.name]
  pixels, labels = [], []
  for name in layout.train if split == "train" else layout.test:
    if layout.label_bytes:
      content = np.frombuffer((folder / name).read_bytes(), np.uint8)
      width = layout.label_bytes + _PIXELS
      if content.size % width:
        raise UserError(f"{folder / name} is cut short: unpack it anew.")
      rows = content.reshape(-1, width)
      pixels.append(rows[:, layout.label_bytes :])
      labels.append(rows[:, layout.label_bytes - 1])  # the fine one is last
    else:
      batch = _load(folder / name)
      pixels.append(_array(folder / name, batch.get("data")))
      numbers = batch.get(f"{layout.labels}s")
      if type(numbers) is not list or {*map(type, numbers)} - {int}:
        raise UserError(f"{folder / name} holds no labels: unpack it anew.")
      labels.append(np.array(numbers, np.int64))
    if len(pixels[-1]) != len(labels[-1]):
      raise UserError(
        f"{folder / name} has {len(pixels[-1])} images and {len(labels[-1])} "
        "labels: unpack the archive anew."
      )
  return np.concatenate(pixels), np.concatenate(labels).astype(np.int64)


def _names(path: epath.Path, layout: _Layout) -> list[str]:
  """Returns the class names, in the order of the labels."""
  if layout.label_bytes:
    return read_text(path / layout.names).split()
  names = _load(path / layout.names).get(f"{layout.labels}_names", ())
  return [_text(name) for name in names]


# --- the pickles --------------------------------------------------------------

_CALLS = {
  "numpy.core.multiarray._reconstruct": lambda *args: Module("array", []),
  "numpy._core.multiarray._reconstruct": lambda *args: Module("array", []),
  "numpy.dtype": lambda *args: Module("dtype", []),
  "_codecs.encode": lambda text, *args: text,  # bytes, as Python 3 writes them
}
_PICKLES = unpickle.Format(
  is_name={*_CALLS, "numpy.ndarray"}.__contains__,
  is_class=lambda name: False,
  allowed="arrays are",
  usual="which no file of CIFAR holds",
  advice="Take the archive from its publisher.",
  calls=_CALLS,
)


def _load(path: epath.Path) -> dict[str, Any]:
  try:
    with path.open("rb") as file:
      batch, _ = unpickle.load(file, _PICKLES)
    if type(batch) is not dict:
      raise UserError("it holds no table")
  except UserError as error:
    problem = str(error).rstrip(".")
    raise UserError(f"{path} is no file of CIFAR: {problem}.") from error
  return {_text(key): value for key, value in batch.items()}


def _text(value: str | bytes) -> str:
  return value.decode("latin-1") if isinstance(value, bytes) else value


def _array(path: epath.Path, value: Any) -> np.ndarray:
  """Returns the pixels of a pickled array, uint8 [n, 3072]."""
  content = None
  if type(value) is Module and value.state and len(value.state[0]) == 5:
    *_, content = value.state[0]  # version, shape, dtype, is_fortran, bytes
  if isinstance(content, str):  # bytes of Python 2
    content = content.encode("latin-1")
  if not isinstance(content, bytes) or len(content) % _PIXELS:
    raise UserError(f"{path} holds no pixels of CIFAR: unpack it anew.")
  return np.frombuffer(content, np.uint8).reshape(-1, _PIXELS)
