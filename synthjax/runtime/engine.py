"""Work in parts: done here, by several commands, or by the workers of Ray.

A task that can be shared has `prepare(config, workdir)`, which loads what it
needs and yields `Work` for each folder that is not complete. The file of a part
is the same whoever does it, and however often. `do_here` does them in this
process and in others of the run, or of commands with --shared, which locks keep
apart. `runtime.ray_cluster` has them done by the workers of a Ray cluster.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from etils import epath

from synthjax.runtime import artifacts, locks


class Work(NamedTuple):
  """Parts of a folder, which may be done in any order and by anyone."""

  folder: epath.Path
  rows: Mapping[str, int]  # images of each part, by its file, in order
  # Does some parts, and returns when their files are there.
  do: Callable[[Iterable[int]], None]
  # Completes the folder, once all files are there; one process does it.
  finish: Callable[[], None]
  # Is called before the first part, by one process.
  begin: Callable[[], None] = lambda: None
  # Parts that a worker is given at once, at most: several if it reads ahead.
  parts_per_call: int = 1


def without_parts(folder: epath.Path, finish: Callable[[], None]) -> Work:
  """Returns work that has no parts: one process does all of it."""
  return Work(folder, {}, lambda parts: None, finish)


def do_here(works: Iterable[Work]) -> None:
  """Does all parts that no other process does, and sees the folders complete.

  Args:
    works: of `prepare`.
  """
  import jax

  process = jax.process_index(), jax.process_count()
  for work in works:
    if process[0] == 0:
      work.begin()
    with locks.claims(work.folder) as held:
      names, manifest = list(work.rows), work.folder / artifacts.MANIFEST
      while locks.missing(work.folder, names) and not manifest.exists():
        work.do(locks.share(work.folder, names, held, process=process))
      # To complete the folder is one part more: one process does it, and the
      # others wait until the manifest is there.
      last = [artifacts.MANIFEST]
      for _ in locks.share(work.folder, last, held, offset=len(names)):
        work.finish()
        held.clear()
