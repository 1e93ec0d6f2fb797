"""WebDataset: images in tar files, to be read from one end to the other.

A sample is the members of one name: `.json` of id, label, class_name, prompt
and seed; `.cls`, the label in digits; and the image, `.png`, `.jpg` or `.webp`.
The same rows give the same bytes.
"""

import functools
import io
import json
import operator
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from synthjax.config.schema import Count
from synthjax.data.formats import export_rows, numbered_files
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Example, Files
from synthjax.labels import class_names, file_names
from synthjax.runtime.errors import UserError
from synthjax.runtime.text_files import parse_json

_IMAGES = {ending.removeprefix(".") for ending in image_files.ENDINGS}
_BLOCK = tarfile.BLOCKSIZE
_MAX_TEXT = 1 << 20  # bytes of a .cls or .json


class _Sample(NamedTuple):
  """Where the image of a sample lies, its id and its class."""

  file: int  # a position among the tar files
  offset: int
  size: int  # bytes
  id: str
  number: int | None  # of the class
  name: str | None


def write(
  folder: epath.PathLike,
  rows: Sequence[Example],
  names: Sequence[str],
  *,
  split: str,
  shard_size: int,
  parts: Iterable[int] | None = None,
) -> dict[str, int]:
  """Writes tar files; see `export_rows`.

  Args:
    folder: of the export.
    rows: to export.
    names: of the classes.
    split: of the data set.
    shard_size: images of a file.
    parts: numbers of the files to write; None for all.
  """

  def write_file(path, numbers):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
      _write_samples(tar, (rows[i] for i in numbers), names)

  return numbered_files.write(
    folder,
    len(rows),
    shard_size,
    write_file,
    split=split,
    ending=".tar",
    parts=parts,
  )


def files(count: int, shard_size: int, *, split: str) -> dict[str, int]:
  """Returns the rows of each numbered file that `write` makes, in order."""
  return numbered_files.sizes(count, shard_size, split=split, ending=".tar")


def _write_samples(
  tar: tarfile.TarFile, rows: Any, names: Sequence[str]
) -> None:
  keys = set()
  for row in rows:
    key = file_names.key_of(row["id"])
    if key in keys:
      raise UserError(f"Two images have the id {row['id']!r}.")
    keys.add(key)
    about = {name: row[name] for name in ("id", "label", "prompt", "seed")}
    about["class_name"] = export_rows.class_of(row, names)
    members = {
      "cls": str(row["label"]).encode(),
      "json": json.dumps(about, sort_keys=True).encode(),
      export_rows.ending_of(row["encoded"]): row["encoded"],
    }
    for ending, content in members.items():
      # A new TarInfo is of no owner and of the time 0.
      member = tarfile.TarInfo(f"{key}.{ending}")
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))


def open_webdataset(
  path: epath.PathLike,
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  split: str | None = None,
  *,
  space: Any = None,
  complete: bool = True,
) -> Labelled:
  """Opens tar files of samples, as `write` or WebDataset's own writer leave.

  The headers of all members, and what is no image, are read at once.

  Args:
    path: of a tar file, or of a folder of them, local or gs://.
    classes: name -> label. A sample is of the class that `class_name` of its
      `.json` names, or its `.cls` if that is no number; else the number in
      `.cls`, or `label` of its `.json`, is the label. Those of the space by
      default; the numbers stay if there is none either.
    image_size: crops and resizes the images to squares of this side.
    split: of the files, where there are several.
    space: the label space.
    complete: see `class_names.of_rows`.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str: `id` of its
    `.json`, or the name of the sample.

  Raises:
    UserError: listing the files that are missing, damaged or cut short, samples
      without an image or a label, and classes that are unknown or not there. A
      damaged image shows when its row is read.
  """
  if classes is None and space is not None:
    classes = class_names.lookup(space)
  files = numbered_files.find(path, ".tar", split=split)
  samples, problems = [], []
  for number, file in enumerate(files):
    samples += _index(file, number, problems)
  class_names.raise_problems(
    problems,
    f"{path} cannot be opened as WebDataset",
    "Copy damaged files again, or export again; a sample is an image (.png, "
    ".jpg, ...) and a .cls or .json of its name.",
  )
  labels = class_names.of_rows(
    [sample.number for sample in samples],
    [sample.name for sample in samples],
    classes,
    where=str(path),
    complete=complete,
  )
  read = functools.partial(_read, files, samples, labels, image_size)
  label = functools.partial(operator.getitem, labels)
  return Labelled(len(samples), read, label, files=Files.of_many_rows(files))


def _index(path: epath.Path, number: int, problems: list[str]) -> list[_Sample]:
  """Lists the samples of a tar file, and adds to the problems."""
  images: dict[str, tuple[int, int]] = {}
  texts: dict[str, dict[str, bytes]] = {}
  left_out: list[str] = []
  size = path.stat().length
  with path.open("rb") as file:
    try:
      with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in filter(tarfile.TarInfo.isreg, tar):
          key, ending = _split(member.name)
          if member.offset_data + member.size > size:
            raise EOFError  # before memory is taken for it
          if any(map(image_files.is_leftover, member.name.split("/"))):
            left_out.append(member.name)
          elif ending in _IMAGES:
            if key in images:
              problems.append(f"{path.name}: {key} has two images")
            images[key] = (member.offset_data, member.size)
          elif ending in ("cls", "json"):
            if member.size > _MAX_TEXT:
              problems.append(
                f"{path.name}: {member.name} has {member.size:,} bytes, where "
                f"{_MAX_TEXT:,} are allowed"
              )
              continue
            content = tar.extractfile(member).read()
            texts.setdefault(key, {})[ending] = content
        end = tar.offset
      # A header that is damaged or not there ends the walk without an error,
      # as does the block of zeros behind the last member.
      file.seek(end)
      is_whole = file.read(_BLOCK) == bytes(_BLOCK)
    # The name of a member may claim terabytes, and be no text.
    except (tarfile.TarError, OSError, EOFError, MemoryError, ValueError):
      is_whole = False
  if not is_whole:
    problems.append(
      f"{path.name}: damaged or cut short behind {len(images)} samples"
    )
    return []
  if not images:
    problems.append(f"{path.name}: holds no image")
  image_files.warn_left_out(path, tuple(left_out))
  problems += [
    f"{path.name}: {key} has no image" for key in texts.keys() - images.keys()
  ]
  samples = []
  for key, place in images.items():
    try:
      about = _id_and_class(key, texts.get(key, {}))
    except ValueError as error:
      problems.append(f"{path.name}: {key} {error}")
    else:
      samples.append(_Sample(number, *place, *about))
  return samples


def _split(name: str) -> tuple[str, str]:
  """Returns the name of the sample and the ending, as WebDataset has it."""
  folder, slash, file = name.rpartition("/")
  key, _, ending = file.partition(".")
  return f"{folder}{slash}{key}", ending.lower()


def _id_and_class(
  key: str, texts: Mapping[str, bytes]
) -> tuple[str, int | None, str | None]:
  """Returns the id, the number and the name of the class."""
  try:
    about = parse_json(texts.get("json", b"{}"), dict)
  except ValueError as error:
    raise ValueError(f"has a bad .json: {error}") from None
  number, name = about.get("label"), about.get("class_name")
  if "cls" in texts:
    text = texts["cls"].decode("utf-8-sig").strip()
    if text.lstrip("-").isdigit():
      number = int(text)
    else:
      name = name or text
  if isinstance(number, str):  # some call the class a label
    number, name = None, name or number
  if isinstance(number, bool) or not isinstance(number, int | None):
    raise ValueError(f"has the label {number!r}, which is no whole number")
  if number is None and not name:
    raise ValueError("has no label: neither .cls, nor one in .json")
  return str(about.get("id", key)), number, name and str(name)


def _read(
  files: Sequence[epath.Path],
  samples: Sequence[_Sample],
  labels: Sequence[int],
  image_size: int | None,
  index: int,
) -> Example:
  sample = samples[index]
  with files[sample.file].open("rb") as file:
    file.seek(sample.offset)
    content = file.read(sample.size)
  name = f"The image {sample.id!r} in {files[sample.file]}"
  pixels = image_files.decode(content, image_size, name=name)
  return {"image": pixels, "label": labels[index], "id": sample.id}
