"""A bucket for tests, which several processes of this machine use at once.

It behaves as those of Google and Amazon do, by gcsfs and s3fs: objects appear
whole, the last writer wins, a conditional write makes an object only if none is
there, listings are up to date. There are no locks and no renames, and folders
are only the starts of names. As in gcsfs and s3fs, each process keeps the
listings that it asked for, and answers from them. The objects are files of a
local folder, whose clock is that of the bucket.
"""

import collections
import contextlib
import datetime
import io
import os
import pathlib
import secrets
import shutil
import time

import fsspec


class EmulatedBucket(fsspec.AbstractFileSystem):
  """Serves s3:// from `home`; `emulated` says so to fsspec."""

  protocol = "s3"
  cachable = False  # a fork makes its own
  home: pathlib.Path
  latency = 0.0  # seconds of each request
  conditional = True  # whether it knows conditional writes
  lost_answers = 0  # conditional writes whose answer is lost, to be sent again
  requests: collections.Counter = collections.Counter()

  @classmethod
  def _strip_protocol(cls, path):
    return os.fspath(path).removeprefix("s3://").strip("/")

  def _ask(self, kind):
    self.requests[kind] += 1
    if self.latency:
      time.sleep(self.latency)

  def _file(self, path):
    return self.home / "objects" / self._strip_protocol(path)

  def _put(self, kind, path, content, *, only_new=False):
    self._ask(kind)
    new = self.home / "new" / secrets.token_hex(8)
    new.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
      new.write_bytes(content)
    else:
      shutil.copyfile(content, new)
    target = self._file(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
      if only_new and self.conditional:
        os.link(new, target)  # of several at once, one succeeds
      else:
        os.replace(new, target)
    finally:
      new.unlink(missing_ok=True)
      self.invalidate_cache(path)

  # --- what fsspec asks of a file system --------------------------------------

  def ls(self, path, detail=True, refresh=False, **kwargs):
    path = self._strip_protocol(path)
    entries = None if refresh else self._ls_from_cache(path)
    if entries is None:
      self._ask("list")
      entries = []
      with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for item in os.scandir(self._file(path)):
          with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            entries.append(self._entry(f"{path}/{item.name}", item))
      entries = [*filter(None, entries)]
      if entries:
        self.dircache[path] = entries
    if not entries:
      entries = [self._info(path)]  # of an object, or FileNotFoundError
    return entries if detail else sorted(entry["name"] for entry in entries)

  def find(self, path, prefix="", **kwargs):
    if not prefix:
      return super().find(path, **kwargs)
    self._ask("list")
    top = self._file(path)
    return [f"{path}/{x.name}" for x in top.glob(f"{prefix}*") if x.is_file()]

  def _entry(self, name, item):
    if item.is_dir():
      files = (x for *_, names in os.walk(item.path) for x in names)
      return next(
        ({"name": name, "size": 0, "type": "directory"} for _ in files), None
      )
    stat = item.stat()
    return {
      "name": name,
      "size": stat.st_size,
      "type": "file",
      "LastModified": stat.st_mtime,
    }

  def info(self, path, **kwargs):
    path = self._strip_protocol(path)
    kept = self._ls_from_cache(path)
    for entry in kept or ():
      if entry["name"] == path:
        return entry
    if kept is not None:
      return {"name": path, "size": 0, "type": "directory"}
    return self._info(path)

  def _info(self, path):
    self._ask("get")
    file = self._file(path)
    if file.is_file():
      stat = file.stat()
      found = {"name": path, "size": stat.st_size, "type": "file"}
      return found | {"LastModified": stat.st_mtime}
    if any(names for *_, names in os.walk(file)):
      return {"name": path, "size": 0, "type": "directory"}
    raise FileNotFoundError(path)

  def exists(self, path, **kwargs):
    path = self._strip_protocol(path)
    kept = self.dircache.get(self._parent(path)) if "/" in path else None
    if kept is not None:  # however old it is
      return path in {entry["name"] for entry in kept}
    try:
      self.info(path)
    except FileNotFoundError:
      return False
    return True

  def modified(self, path):
    seconds = self.info(path)["LastModified"]
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)

  def pipe_file(self, path, value, mode="overwrite", **kwargs):
    only_new = mode == "create"
    self._put("put", path, value, only_new=only_new)
    if only_new and self.lost_answers:
      type(self).lost_answers -= 1
      self._put("put", path, value, only_new=True)

  def put_file(self, lpath, rpath, callback=None, mode="overwrite", **kwargs):
    self._put("put", rpath, pathlib.Path(lpath), only_new=mode == "create")

  def cat_file(self, path, start=None, end=None, **kwargs):
    self._ask("get")
    return self._file(path).read_bytes()[start:end]

  def _open(self, path, mode="rb", **kwargs):
    if mode == "rb":
      self._ask("get")
      return self._file(path).open("rb")
    assert mode == "wb", f"objects are not opened to {mode}"
    return _Writer(self, path)

  def rm_file(self, path):
    self._ask("delete")
    self._file(path).unlink()
    self.invalidate_cache(path)

  def _rm(self, path):
    self.rm_file(path)

  def invalidate_cache(self, path=None):
    self.dircache.clear()

  def makedirs(self, path, exist_ok=False):
    pass

  def mkdir(self, path, create_parents=True, **kwargs):
    pass

  def rmdir(self, path):
    pass


class _Writer(io.BytesIO):
  """What is written becomes an object on close, even after an error."""

  def __init__(self, bucket, path):
    super().__init__()
    self._bucket, self._path = bucket, path

  def close(self):
    if not self.closed:
      self._bucket._put("put", self._path, self.getvalue())
    super().close()


def serve(home, **changes):
  """Serves s3:// from a folder, in this process; returns the bucket's class."""
  from etils.epath import backend

  made = type(
    "Bucket",
    (EmulatedBucket,),
    {"home": pathlib.Path(home), "requests": collections.Counter(), **changes},
  )
  fsspec.register_implementation("s3", made, clobber=True)
  backend._FileSystemSpecBackend._get_filesystem.cache_clear()
  return made


def forget():
  """Undoes `serve`."""
  from etils.epath import backend
  from fsspec.registry import _registry

  from synthjax.runtime import buckets

  _registry.pop("s3", None)
  backend._FileSystemSpecBackend._get_filesystem.cache_clear()
  buckets._why_not.cache_clear()


def objects(home, folder):
  """Returns the bytes of each object of a folder, by its name."""
  top = pathlib.Path(home) / "objects" / folder
  return {
    str(path.relative_to(top)): path.read_bytes()
    for path in sorted(top.rglob("*"))
    if path.is_file()
  }
