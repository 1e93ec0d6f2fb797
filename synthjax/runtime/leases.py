"""Leases: who does which part of a task, where a bucket has no locks.

The lease of part 7 is an object, `.claims/00007-0001`, that its holder makes
only if none is there (`buckets.create`): of several processes one succeeds. The
holder writes it again every BEAT seconds, each time with another length, so
that one listing shows which holders are alive. A process that sees the same
length for DEAD_AFTER seconds takes the part over, by making `00007-0002`; of
several, again one succeeds.

No time of another machine is ever read: each process measures by its own clock
how long a lease has not changed, so clocks may differ by any amount. A holder
that was stopped for long and wakes finishes a part that another one does too.
That costs time alone, as both write the same bytes.
"""

import contextlib
import json
import math
import os
import re
import secrets
import socket
import threading
import time
from typing import NamedTuple, Self

from etils import epath

from synthjax.runtime import buckets

FOLDER = ".claims"  # in that of a task
BEAT = 20.0  # seconds between signs of life
DEAD_AFTER = 6 * BEAT
LOOK = 10.0  # seconds for which a listing is good enough
# Of a lease, in turn. A length comes again after two days, so a process that
# draws for an hour between two listings still sees that a holder is alive.
_LENGTHS = 10_000
_NAME = re.compile(r"(\d{5,})-(\d{4,})")


class _Seen(NamedTuple):
  """The newest lease of a part, in the listings of this process."""

  number: int
  size: int | None  # bytes; None until it was listed
  since: float  # by the clock of this process


class Leases:
  """The leases that this process holds; as a context, until it ends.

  Args:
    folder: of the task, in a bucket.
  """

  def __init__(self, folder: epath.PathLike):
    self._folder = epath.Path(folder) / FOLDER
    who = f"{secrets.token_hex(8)} {socket.gethostname()} {os.getpid()}"
    self._note = json.dumps(who).encode()
    self._seen: dict[int, _Seen] = {}
    self._looked = -math.inf
    self._held: dict[int, epath.Path] = {}
    self._held_lock, self._over = threading.Lock(), threading.Event()
    self._thread: threading.Thread | None = None
    self._beats = 0

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    self._over.set()
    if self._thread:
      self._thread.join()
    for part in [*self._held]:
      self.release(part)

  def claim(self, part: int) -> bool:
    """Takes the lease of a part; False while another process has it."""
    if part in self._held:
      return True
    self._look()
    number = 1
    if seen := self._seen.get(part):
      # The listing was asked for at `_looked`, and was the same as at `since`.
      if seen.size is None or self._looked - seen.since < DEAD_AFTER:
        return False
      number += seen.number
    path = self._folder / f"{part:05d}-{number:04d}"
    if not buckets.create(path, self._note):
      self._seen[part] = _Seen(number, None, time.monotonic())
      self._looked = -math.inf  # others were here since the listing
      return False
    self._held[part] = path
    if not self._thread:
      self._thread = threading.Thread(target=self._beat_on, daemon=True)
      self._thread.start()
    return True

  def release(self, part: int) -> None:
    """Gives up the lease of a part, whose file is there or never will be."""
    with self._held_lock:  # else a beat could bring it back
      if path := self._held.pop(part, None):
        with contextlib.suppress(Exception):  # then others see it die
          buckets.remove(path)

  def clear(self) -> None:
    """Removes the leases of all processes, as the folder is complete."""
    for name in buckets.sizes(self._folder):
      buckets.remove(self._folder / name)

  def _look(self) -> None:
    """Lists all leases, unless that was done a short time ago."""
    if time.monotonic() - self._looked < LOOK:
      return
    asked, newest = time.monotonic(), {}
    for name, size in buckets.sizes(self._folder).items():
      if match := _NAME.fullmatch(name):
        part, number = int(match[1]), int(match[2])
        newest[part] = max(newest.get(part, (0, 0)), (number, size))
    answered = time.monotonic()
    self._seen = {
      part: _Seen(*lease, answered)
      if (before := self._seen.get(part)) is None or before[:2] != lease
      else before
      for part, lease in newest.items()
    }
    self._looked = asked

  def beat(self) -> None:
    """Writes the leases again, each with another length than before."""
    self._beats += 1
    content = self._note + b"." * (self._beats % _LENGTHS)
    for part in [*self._held]:
      with self._held_lock, contextlib.suppress(Exception):
        if path := self._held.get(part):
          buckets.write(path, content)  # if it fails, the next may succeed

  def _beat_on(self) -> None:
    while not self._over.wait(BEAT):
      self.beat()
