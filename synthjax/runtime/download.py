"""Downloads files: resumes, verifies, and names them when they are whole."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from synthjax.runtime import locks
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say, transfer
from synthjax.runtime.text_files import parse_json

_CHUNK = 1 << 20  # bytes
MAX_UNANNOUNCED = 20_000_000_000  # bytes, where the server states no size
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # of HTTP
_MORE_SPACE = (
  "Free some space, or set SYNTHJAX_CACHE to a folder on another disk."
)


def partial(path: pathlib.Path) -> tuple[int, int | None] | None:
  """Returns the bytes that an interrupted download has left, and its total."""
  part = _part(path)
  if not part.exists():
    return None
  return part.stat().st_size, _remembered(part).get("total")


def fetch(
  url: str,
  path: str | os.PathLike,
  *,
  sha256: str | None = None,
  md5: str | None = None,
  otherwise: str = "",
  timeout: float = 60.0,
  retries: int = 6,
  pause: float = 1.0,
) -> str:
  """Fetches a file, from where an earlier call was interrupted.

  Until it is whole and verified it is called `path` + ".part". A second process
  that fetches the same file waits for the first.

  Args:
    url: http or https.
    path: of the file; an existing one is not fetched again.
    sha256: of the file, or its first digits; None accepts any file.
    md5: of the file; None accepts any.
    otherwise: a sentence for errors, what else to do.
    timeout: seconds without a byte after which to close the connection.
    retries: attempts in a row that may receive nothing.
    pause: seconds before the first of them; doubled each time.

  Returns:
    The SHA-256 of the file.

  Raises:
    UserError: when the file cannot be fetched, or has another hash.
  """
  if not url.lower().startswith(("http://", "https://")):
    raise UserError(f"{url} cannot be fetched: it must begin with https://.")
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with alone(path) as lock:
    received = path
    if not path.exists():
      received = _part(path)
      try:
        has_hash = bool(sha256 or md5)
        _download(url, received, has_hash, timeout, retries, pause)
      except UserError as error:
        raise UserError(f"{error} {otherwise}".strip()) from error
    digest = _verify(received, path, sha256, md5, url)
    if received != path:
      with open(received, "rb") as file:
        os.fsync(file.fileno())
      os.replace(received, path)
      _memory(received).unlink(missing_ok=True)
    lock.unlink(missing_ok=True)  # a waiting process then sees the file
  return digest


def _download(url, part, has_hash, timeout, retries, pause) -> None:
  """Connects until the file is whole, while connections bring new bytes."""
  first = most = _size(part)
  failures = 0
  while True:
    try:
      if _receive(url, part, has_hash, timeout):
        return
      reason = "the server sends too little, or another file than before"
    except urllib.error.HTTPError as error:
      if error.code not in _TRY_AGAIN:
        raise _refused(url, error.code, error.reason) from None
      reason = f"the server answers {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
      if isinstance(error, UserError):
        raise
      wrapped = isinstance(error, urllib.error.URLError)
      cause = error.reason if wrapped else error
      fatal = (ValueError,)  # a bad address or certificate
      if isinstance(cause, socket.gaierror) and most == first:
        fatal += (socket.gaierror,)  # no network, or no such host
      if isinstance(cause, fatal):
        raise _unreachable(url, cause, part) from error
      reason = f"{type(cause).__name__}: {cause}"
    size = _size(part)
    failures = 0 if size > most else failures + 1
    most = max(most, size)
    # Fails early where nothing was received at all.
    if failures > (retries if most > first else min(retries, 3)):
      raise _unreachable(url, reason, part)
    wait = min(pause * 2 ** max(failures - 1, 0), 60)
    say(f"{url}: {reason}. Trying again in {wait:.3g} s.")
    time.sleep(wait)


def _receive(
  url: str, part: pathlib.Path, has_hash: bool, timeout: float
) -> bool:
  """Receives the rest over one connection; true if the file is whole."""
  before = _remembered(part)
  start = _size(part)
  # The rest of another file must not be joined to this one, so If-Range names
  # the file that was begun. If the server has no validator, the hash decides.
  if before.get("url") != url or not (before.get("validator") or has_hash):
    start = 0
  if start and start == before.get("total"):
    return True
  headers = {"User-Agent": "synthjax", "Accept-Encoding": "identity"}
  if start:
    headers["Range"] = f"bytes={start}-"
    if before.get("validator"):
      headers["If-Range"] = before["validator"]
  request = urllib.request.Request(url, headers=headers)
  try:
    response = urllib.request.urlopen(request, timeout=timeout)
  except urllib.error.HTTPError as error:
    if error.code != 416 or not start:
      raise
    return _forget(part)  # the file there has fewer bytes: another one
  with response:
    if response.status not in (200, 206):
      raise _refused(url, response.status, response.reason)
    _refuse_pages(url, response)
    now = {"url": url, "validator": _validator(response.headers)}
    now["total"] = _total(response)
    if response.status == 206:
      range_ = response.headers.get("Content-Range", "")
      now["validator"] = now["validator"] or before.get("validator")  # optional
      if not start or now != before or not range_.startswith(f"bytes {start}-"):
        return _forget(part)
    else:  # the whole file, as it has changed or the server has no ranges
      start = 0
      part.write_bytes(b"")  # before its description, in case of a kill here
      _memory(part).write_text(json.dumps(now))
    _check_space(part, start, now["total"])
    size = _write(url, part, response, start, now["total"])
  return size > 0 and now["total"] in (None, size)


def _write(
  url: str, part: pathlib.Path, response, start: int, total: int | None
) -> int:
  """Appends the received bytes, and returns the size."""
  limit = MAX_UNANNOUNCED if total is None else total
  size, show = start, transfer(part.name.removesuffix(".part"), start, total)
  with open(part, "ab") as file:
    # read1 returns what has arrived; read would lose it at a timeout.
    while data := response.read1(_CHUNK):
      try:
        file.write(data)
        file.flush()
      except OSError as error:
        raise UserError(
          f"Cannot write {part} ({error.strerror}); {_size(part):,} bytes are "
          f"there and kept. {_MORE_SPACE}"
        ) from error
      size += len(data)
      show(size)
      if size > limit:
        _forget(part)
        raise UserError(
          f"{url} sends more than the {limit:,} bytes that "
          f"{'it announced' if total else 'a file of unknown size may have'}. "
          "Nothing was kept."
        )
  show(size, last=True)
  return size


# --- the server's answers -----------------------------------------------------


def _total(response: http.client.HTTPResponse) -> int | None:
  """Returns the size of the whole file, where the server states it."""
  size = response.headers.get("Content-Length", "")
  if response.status == 206:
    size = response.headers.get("Content-Range", "").rpartition("/")[2]
  return int(size) if size.isdigit() else None


def _validator(headers: Mapping[str, str]) -> str | None:
  """Returns the version of the file, for If-Range."""
  etag = headers.get("ETag")
  if etag and not etag.startswith("W/"):  # ranges need a strong one
    return etag
  return headers.get("Last-Modified")


def _refuse_pages(url: str, response: http.client.HTTPResponse) -> None:
  kind = response.headers.get("Content-Type", "")
  if kind.startswith("text/html"):
    raise UserError(
      f"{url} answers with a web page, not with a file: perhaps the login page "
      f"of a proxy. Open the address in a browser."
    )
  if url.startswith("https:") and not response.url.startswith("https:"):
    raise UserError(
      f"{url} redirects to {response.url}, which is not encrypted and was not "
      "followed."
    )


def _refused(url: str, status: int, reason: str) -> UserError:
  return UserError(
    f"{url} cannot be fetched: the server answers {status} {reason}. The "
    "publisher may have moved the file, or refuse this network."
  )


def _unreachable(url: str, reason: Any, part: pathlib.Path) -> UserError:
  return UserError(
    f"{url} cannot be fetched: {reason}. The same command goes on from the "
    f"{_size(part):,} bytes that are here. Where only a mirror can be reached, "
    "name it in SYNTHJAX_MIRROR, to fetch MIRROR/NAME/FILE instead."
  )


# --- files on the disk --------------------------------------------------------


def _part(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(path.name + ".part")


def _memory(part: pathlib.Path) -> pathlib.Path:
  return part.with_name(part.name + ".json")


def _remembered(part: pathlib.Path) -> dict[str, Any]:
  try:
    return parse_json(_memory(part).read_bytes(), dict)
  except (OSError, ValueError):  # none, or damaged: start again
    return {}


def _forget(part: pathlib.Path) -> bool:
  """Removes the partial file; false, as the file is not whole."""
  part.unlink(missing_ok=True)
  _memory(part).unlink(missing_ok=True)
  return False


def _size(path: pathlib.Path) -> int:
  return path.stat().st_size if path.exists() else 0


def _check_space(part: pathlib.Path, start: int, total: int | None) -> None:
  need, free = (total or 0) - start, shutil.disk_usage(part.parent).free
  if need > free:
    raise UserError(
      f"{part.name.removesuffix('.part')} needs {need:,} more bytes, but "
      f"{free:,} are free on the disk of {part.parent}. {_MORE_SPACE}"
    )


def _verify(
  received: pathlib.Path,
  path: pathlib.Path,
  sha256: str | None,
  md5: str | None,
  url: str,
) -> str:
  """Returns the SHA-256; moves a file with an unexpected hash aside."""
  with open(received, "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  kind, expected, got = "SHA-256", sha256, digest
  if md5 and not sha256:
    kind, expected = "MD5", md5
    with open(received, "rb") as file:
      got = hashlib.file_digest(file, "md5").hexdigest()
  if expected and not got.startswith(expected):
    aside = path.with_name(path.name + ".wrong")
    os.replace(received, aside)
    _memory(received).unlink(missing_ok=True)
    raise UserError(
      f"{path.name} from {url} is not the expected file.\n"
      f"  expected {kind} {expected}\n  got {' ' * len(kind)}      {got}\n"
      f"It was moved to {aside}. It was damaged on its way, or another file is "
      "published there now: run the same command to fetch it again. If it has "
      "the same hash again, read the publisher's page, and do not use the file "
      "unless you trust it."
    )
  return digest


@contextlib.contextmanager
def alone(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Admits one process at a time to making a file; a killed one releases it.

  Yields the file of the lock, which the caller removes when all is made.
  """
  lock = path.with_name(path.name + ".lock")
  with locks.opened(lock) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      say(f"Another process is fetching {path}; waiting for it.")
      fcntl.flock(file, fcntl.LOCK_EX)
    yield lock
