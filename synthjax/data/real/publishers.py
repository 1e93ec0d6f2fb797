"""The publishers' files of the data sets, publishers.yaml: where each set lies.

`place` finds a set below the user's folder, in any of the layouts that are
usual, and unpacks archives that lie there packed.
"""

import functools
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import yaml
from etils import epath

from synthjax.data.real import tfds_copies
from synthjax.runtime import buckets, cache, download
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say
from synthjax.runtime.published import File


class NotThere(UserError):
  """Says that files of a data set are not there, packed or unpacked."""


class Archive(NamedTuple):
  """One file of a data set, and what it unpacks to."""

  file: File
  gives: str | None = None  # a path in it; None if it is used as it is
  into: str = "."  # below the set's folder


class Published(NamedTuple):
  """One data set."""

  what: str
  licence: str
  page: str  # of the publisher
  folders: tuple[str, ...]  # below the user's, where it may lie
  files: tuple[Archive, ...]
  by_hand: str = ""  # how to get the files without an address


@functools.cache
def published() -> Mapping[str, Published]:
  """Returns the data sets by name: the paper's 17, and VOC."""
  text = pathlib.Path(__file__).with_name("publishers.yaml").read_text()
  return {
    name: Published(**_tuples(entry) | {"files": _archives(entry["files"])})
    for name, entry in yaml.safe_load(text).items()
  }


def _tuples(entry: dict) -> dict:
  return entry | {"folders": tuple(entry["folders"])}


def _archives(rows: Sequence[dict]) -> tuple[Archive, ...]:
  archives = []
  for row in rows:
    gives, into = row.pop("gives", None), row.pop("into", ".")
    url = row.pop("url", None)
    if url and url.endswith("/"):
      url += row["name"]
    archives.append(Archive(File(url=url, **row), gives, into))
  return tuple(archives)


def data_folder(data_dir: epath.PathLike | None = None) -> epath.Path:
  """Returns the folder that holds the data sets.

  It is `data_dir`, else SYNTHJAX_DATA, else one in the cache folder.
  """
  chosen = data_dir or os.environ.get("SYNTHJAX_DATA")
  return epath.Path(chosen or cache.private_folder() / "data").expanduser()


def find(name: str, root: epath.Path, entry: str) -> epath.Path | None:
  """Returns the folder of a data set that holds an entry, if one does."""
  for folder in published()[name].folders:
    if (root / folder / entry).exists():
      return root / folder
  return None


def packed(name: str, root: epath.Path, archive: Archive) -> epath.Path | None:
  """Returns where an archive lies packed, if it does."""
  folders = dict.fromkeys((*published()[name].folders, "."))
  paths = (root / folder / archive.file.name for folder in folders)
  return next((path for path in paths if path.exists()), None)


def place(
  name: str,
  root: epath.Path,
  needs: Sequence[str],
  helps: Sequence[str] = (),
) -> dict[str, epath.Path]:
  """Finds entries of a data set, and unpacks archives that hold them.

  Args:
    name: a key of `published`.
    root: the user's folder.
    needs: paths in a folder of the set.
    helps: of others, which are unpacked if they are there.

  Returns:
    The folder of each that was found.

  Raises:
    UserError: when an archive cannot be unpacked.
  """
  for archive in published()[name].files:
    if archive.gives in (*needs, *helps):
      _unpack(name, root, archive)
  folders = {entry: find(name, root, entry) for entry in (*needs, *helps)}
  return {entry: folder for entry, folder in folders.items() if folder}


def absent(
  what: str,
  name: str,
  missing: Sequence[str],
  data_dir: epath.PathLike | None,
  tfds: str | None = None,
) -> NotThere:
  """Returns the error about files of a data set, and how to get them.

  Args:
    what: is to be opened.
    name: of the set.
    missing: paths that are not in its folder.
    data_dir: of the user; None if none was given.
    tfds: its name in TensorFlow Datasets, which serves as well.
  """
  root = data_folder(data_dir)
  where = f" --data_dir={data_dir}" if data_dir else ""
  folder = root / published()[name].folders[0]
  text = (
    f"{what} is not there: {folder} lacks {', '.join(missing)}, also packed. "
    f"`python -m synthjax.datasets fetch {name}{where}` gets what it can and "
    "says what to get by hand"
  )
  if tfds:
    copies = data_dir or "~/tensorflow_datasets"
    command = tfds_copies.build_command(tfds, copies)
    text += f"; or prepare it by `{command}`, after {tfds_copies.INSTALL}"
  hint = "" if data_dir else " If it lies elsewhere, give data_dir."
  return NotThere(f"{text}.{hint}")


def _unpack(name: str, root: epath.Path, archive: Archive) -> None:
  """Unpacks an archive where it lies, if it does and that is to be done."""
  path = packed(name, root, archive)
  if path is None or buckets.is_bucket(root):  # a bucket holds unpacked sets
    return
  folders = [pathlib.Path(root / f) for f in published()[name].folders]
  path = pathlib.Path(path)
  beside = path.parent if path.parent in folders else folders[0]
  unpack(
    path,
    beside / archive.into,
    is_there=lambda: find(name, root, archive.gives) is not None,
    again=f"python -m synthjax.datasets fetch {name} --data_dir={root}",
  )


# --- unpacking, once ----------------------------------------------------------

_TAR = (".tar", ".tar.gz", ".tgz")
_BAD = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)


class _Member(tarfile.TarInfo):
  """A member of a tar file that is whole.

  Python's own takes a header that is damaged or not there for the end, unless
  it is the first one: of a file that was cut short, the rest would be missing.
  """

  @classmethod
  def fromtarfile(cls, archive: tarfile.TarFile) -> "_Member":
    try:
      return super().fromtarfile(archive)
    except tarfile.EOFHeaderError:
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(f"it is cut short or damaged: {error}") from error


def unpack(
  path: pathlib.Path,
  into: pathlib.Path,
  *,
  is_there: Callable[[], bool],
  again: str,
) -> None:
  """Unpacks a tar or zip file, and the tar files in it.

  Several processes may ask for it; where one was killed, it starts again.

  Args:
    path: of the archive.
    into: the folder; made if it is not there.
    is_there: tells whether anything of the archive is in the folder.
    again: the command that fetches the archive again.

  Raises:
    UserError: if it is damaged, or the folder cannot be written.
  """
  mark = into.parent / f".{path.name}.unpacking"
  # What is there without the mark is whole.
  is_done = lambda: is_there() and not mark.exists()
  if is_done():
    return
  try:
    into.parent.mkdir(parents=True, exist_ok=True)
    with download.alone(mark) as lock:
      if not is_done():  # no other process has just done it
        mark.touch()
        into.mkdir(exist_ok=True)
        say(f"Unpacking {path} into {into}, once.")
        with path.open("rb") as file:
          _extract(file, into, path.name)
        mark.unlink()
      lock.unlink(missing_ok=True)
  except _BAD as error:
    raise UserError(
      f"{path} cannot be unpacked into {into} ({error}): if it is damaged, "
      f"delete it and run `{again}`; if the folder cannot be written, copy the "
      "archive into another and give that as data_dir."
    ) from error


def _extract(file: BinaryIO, into: pathlib.Path, name: str) -> None:
  if name.endswith(".zip"):
    with zipfile.ZipFile(file) as archive:
      for member in archive.infolist():
        if _is_tar(member.filename):
          with archive.open(member) as inner:
            _extract_inner(inner, into, member.filename)
        else:
          archive.extract(member, into)
    return
  with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
    for member in archive:
      if member.isfile() and _is_tar(member.name):
        _extract_inner(archive.extractfile(member), into, member.name)
      else:
        archive.extract(member, into, filter="data")


def _is_tar(name: str) -> bool:
  file = pathlib.PurePosixPath(name).name
  return file.endswith(_TAR) and not file.startswith(".")


def _extract_inner(file: BinaryIO, into: pathlib.Path, name: str) -> None:
  """Unpacks a tar file X.tar of an archive, into the folder X."""
  path = pathlib.PurePosixPath(name)
  if path.is_absolute() or ".." in path.parts:
    raise tarfile.TarError(f"{name!r} lies outside of it")
  ending = next(end for end in _TAR if name.endswith(end))
  stem, folder = path.name.removesuffix(ending), into / path.parent
  with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
    for number, member in enumerate(archive):
      # 101_ObjectCategories.tar.gz has that folder, ImageNet's synsets do not.
      if number == 0 and member.name.partition("/")[0] != stem:
        folder = folder / stem
      archive.extract(member, folder, filter="data")
