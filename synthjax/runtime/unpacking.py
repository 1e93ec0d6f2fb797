"""Unpacks archives of publishers, once."""

import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import BinaryIO

from synthjax.runtime import download
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say

_TAR = (".tar", ".tar.gz", ".tgz")
_BAD = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)


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
  with tarfile.open(fileobj=file, mode="r|*") as archive:
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
  with tarfile.open(fileobj=file, mode="r|*") as archive:
    for number, member in enumerate(archive):
      # 101_ObjectCategories.tar.gz has that folder, ImageNet's synsets do not.
      if number == 0 and member.name.partition("/")[0] != stem:
        folder = folder / stem
      archive.extract(member, folder, filter="data")
