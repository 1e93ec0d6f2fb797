"""Images of shards that are not complete yet, kept in pieces.

A shard appears when it is whole, which may take hours. A run that is stopped
or killed meanwhile leaves pieces of it: hidden files of its first rows, which
the next run reads instead of drawing them again (`generators.filling`). They
are removed when the shard is there.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures

from etils import epath

from synthjax.data.generated import shards
from synthjax.data.generated.plan import Row
from synthjax.data.pipeline.rows import Example
from synthjax.runtime import buckets
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import say

SECONDS = 10  # of drawing, after which a piece is written
_NAME = re.compile(r"\.drawn-(\d+)-(\d+)-(\d+)")


def sizes(folder: epath.PathLike) -> dict[int, int]:
  """Returns how many images of each shard are kept, by its number."""
  counts: dict[int, dict[int, int]] = {}
  for path in epath.Path(folder).iterdir():
    if match := _NAME.fullmatch(path.name):
      part, first, count = map(int, match.groups())
      counts.setdefault(part, {})[first] = count
  return {part: sum(of_part.values()) for part, of_part in counts.items()}


@contextlib.contextmanager
def keeping(
  folder: epath.PathLike, part: int, first: int, writer: futures.Executor
) -> Iterator[Callable[[Sequence[Example]], None]]:
  """Yields a function that takes what was drawn, and keeps it by and by.

  What is left when an error or a signal ends the block is kept then.

  Args:
    folder: of the shards.
    part: number of the shard.
    first: images of it that are kept already.
    writer: runs what writes, while more is drawn.
  """
  waiting, last, writing = [], time.monotonic(), None

  def write(first: int, examples: Sequence[Example]) -> None:
    if examples:
      name = f".drawn-{part:05d}-{first:08d}-{len(examples):08d}"
      shards.write_file(folder, name, encoded(examples))

  def take(examples: Sequence[Example]) -> None:
    nonlocal waiting, first, last, writing
    waiting += examples
    if time.monotonic() - last < SECONDS:
      return
    if writing:
      writing.result()  # raises, where the disk is full
    writing = writer.submit(write, first, waiting)
    waiting, first, last = [], first + len(waiting), time.monotonic()

  try:
    yield take
  except BaseException:
    with contextlib.suppress(Exception):  # the first error is the one
      write(first, waiting)
    raise


def encoded(examples: Iterable[Example]) -> Iterator[Example]:
  """Yields examples whose images may still be in the hands of a thread."""
  for example in examples:
    image = example["encoded"]
    if isinstance(image, futures.Future):
      image = image.result()
    yield {**example, "encoded": image}


def read(
  folder: epath.PathLike, part: int, rows: Sequence[Row]
) -> dict[str, Example]:
  """Reads the pieces of a shard.

  Args:
    folder: of the shards.
    part: number of the shard.
    rows: of the shard.

  Returns:
    id -> its encoded image and what else a shard holds. What is damaged, or
    not of these rows, is left out, and drawn again.
  """
  by_id, kept = {row.id: row for row in rows}, {}
  for path in _pieces(folder, part):
    try:
      found = shards.read_file(path)
    except FileNotFoundError:  # a process that was slow has it whole by now
      continue
    except UserError as error:
      say(f"generate: what it holds is drawn again: {error}")
      continue
    kept |= {x["id"]: x for x in found if _is_of(x, by_id.get(x["id"]))}
  return kept


def remove(folder: epath.PathLike, part: int) -> None:
  """Removes the pieces of a shard."""
  for path in _pieces(folder, part):
    path.unlink(missing_ok=True)


def _pieces(folder: epath.PathLike, part: int) -> list[epath.Path]:
  folder, start = epath.Path(folder), f".drawn-{part:05d}-"
  if buckets.is_bucket(folder):
    return [folder / name for name in buckets.starting(folder, start)]
  return sorted(folder.glob(f"{start}*"))


def _is_of(example: Mapping, row: Row | None) -> bool:
  return row is not None and all(
    example[field] == getattr(row, field)
    for field in ("label", "prompt", "seed")
  )
