"""Objects of a bucket (`gs://`, `s3://`), as many processes see them at once.

`etils.epath` reads and writes them through fsspec (gcsfs, s3fs). Here is what
it has no names for: listings and sizes as they are now, an object that is made
only if none is there, and one that appears whole.
"""

import contextlib
import functools
import os
import posixpath
import secrets
from typing import Any

from etils import epath

from synthjax.runtime.errors import UserError

_EXTRAS = {"gs": "gcs", "s3": "s3"}  # of synthjax, by the start of a path
_NOT_REACHED = (
  ConnectionError,
  FileNotFoundError,
  PermissionError,
  TimeoutError,
)


def is_bucket(path: epath.PathLike) -> bool:
  """Returns whether a path is of a bucket, not of a disk."""
  return "://" in os.fspath(path)


def store(path: epath.PathLike) -> Any:
  """Returns epath's file system of a bucket, from now on without memory.

  gcsfs and s3fs keep listings, in which the files of other processes never
  appear, and answer from them whether a file is there.

  Raises:
    UserError: if the package that reads such a bucket is not installed.
  """
  from etils.epath import backend

  try:
    files = backend.fsspec_backend.fs(path)
  except ImportError as error:
    raise not_installed(path, error) from error
  files.dircache.use_listings_cache = False
  files.dircache.clear()
  return files


def not_installed(path: epath.PathLike, error: ImportError) -> UserError:
  """Returns the error about a bucket whose package is not installed."""
  extra = _EXTRAS.get(os.fspath(path).partition("://")[0])
  how = f'pip install "synthjax[{extra}]"' if extra else str(error)
  return UserError(f"{path} cannot be opened: {how}")


def _store_if_any(path: epath.PathLike) -> Any | None:
  """Returns `store`; None if epath is left to TensorFlow, or cannot open it."""
  try:
    return store(path)
  except UserError:
    return None


def forget_listings(folder: epath.PathLike) -> None:
  """Makes epath see the files that other processes have written since."""
  _store_if_any(folder)  # TensorFlow keeps no listings


def sizes(folder: epath.PathLike) -> dict[str, int]:
  """Returns the bytes of each object right in a folder, by its name."""
  files = store(folder)
  try:
    entries = files.ls(os.fspath(folder), detail=True)
  except FileNotFoundError:
    return {}
  return {
    posixpath.basename(entry["name"]): entry["size"]
    for entry in entries
    if entry["type"] == "file"
  }


def starting(folder: epath.PathLike, prefix: str) -> list[str]:
  """Returns the names right in a folder that begin so, by one listing.

  A glob of gcsfs asks for these alone, and one of s3fs for the whole folder.
  """
  if files := _store_if_any(folder):
    found = files.find(os.fspath(folder), prefix=prefix)
  else:
    found = epath.Path(folder).glob(f"{prefix}*")
  names = map(posixpath.basename, map(os.fspath, found))
  return sorted(name for name in names if name.startswith(prefix))


def modified(path: epath.PathLike) -> float:
  """Returns when a file was written, in seconds; of a bucket or a disk."""
  if not is_bucket(path):
    return os.stat(path).st_mtime
  if files := _store_if_any(path):
    return files.modified(os.fspath(path)).timestamp()
  return epath.Path(path).stat().mtime


def put(local: epath.PathLike, path: epath.PathLike) -> None:
  """Copies a local file to an object, which appears whole or not at all.

  epath's own copy writes as it reads, and leaves the first part of a file where
  an error or a signal ends it.
  """
  if files := _store_if_any(path):
    files.put_file(os.fspath(local), os.fspath(path))
  else:
    epath.Path(local).copy(path, overwrite=True)


def write(path: epath.PathLike, content: bytes) -> None:
  """Writes a small object, whatever is there."""
  store(path).pipe_file(os.fspath(path), content)


def remove(path: epath.PathLike) -> None:
  """Removes an object, if it is there."""
  with contextlib.suppress(FileNotFoundError):
    store(path).rm_file(os.fspath(path))


def create(path: epath.PathLike, content: bytes) -> bool:
  """Writes a small object if none is there.

  Args:
    path: of the object.
    content: no other process writes the same.

  Returns:
    Whether this call has written it; of several at once, one has.
  """
  files, name = store(path), os.fspath(path)
  try:
    # `if_generation_match=0` for Google, `If-None-Match: *` for S3.
    files.pipe_file(name, content, mode="create")
    return True
  except FileExistsError:
    pass
  except Exception as error:  # those of gcsfs are of no common kind
    # S3 refuses two that come together (409) by an error of no own kind.
    if "conflict" not in str(error).lower() and not files.exists(name):
      raise
  # A request whose answer was lost is sent again, and finds what it has made.
  try:
    return files.cat_file(name) == content
  except FileNotFoundError:
    return False


def why_not_shared(folder: epath.PathLike) -> str | None:
  """Says what hinders a bucket from making an object only if none is there.

  Returns:
    None if it can. It is tried, once for each folder, by an object that is
    removed again.

  Raises:
    OSError: about a bucket that is not there or cannot be reached or written,
      which says nothing of what it can.
  """
  return _why_not(os.fspath(folder).rstrip("/"))


@functools.lru_cache
def _why_not(folder: str) -> str | None:
  import fsspec

  try:
    files = store(folder)
  except UserError as error:
    return str(error)
  default = fsspec.AbstractFileSystem.pipe_file  # looks first, and writes then
  if getattr(files.pipe_file, "__func__", None) is default:
    return f"{type(files).__name__} of fsspec has no conditional write"
  path = f"{folder}/.probe-{secrets.token_hex(8)}"
  try:
    if not create(path, b"first"):
      return "the object that was just made is another one"
    if create(path, b"second"):
      return "it overwrites an object that is there"
  except _NOT_REACHED:
    raise
  except (OSError, NotImplementedError, TypeError, ValueError) as error:
    return f"{type(error).__name__}: {error}"
  finally:
    with contextlib.suppress(Exception):
      remove(path)
  return None
