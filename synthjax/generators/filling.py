"""Draws the shards that a folder lacks, and goes on with unfinished ones."""

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from synthjax.data.generated import shards, unfinished
from synthjax.data.generated.plan import Row
from synthjax.generators import Generator
from synthjax.generators.keys import image_keys
from synthjax.runtime import buckets, locks, timings
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import counter, duration, is_muted, say
from synthjax.runtime.threads import count_cores

NAME = "synthjax_images"  # of the data set
References = Callable[[Sequence[Row]], np.ndarray]
_LONG = 60  # seconds of work, from which on an estimate is printed
_NEARLY_FULL = 0.98  # of the free space


class Filling(NamedTuple):
  """The shards of a folder, and how some of them are drawn."""

  sizes: dict[str, int]  # rows of each shard, by its name, in order
  # Draws shards, given by their positions. While the device draws, other
  # threads encode earlier images and write them; it returns when the last one
  # is whole.
  draw: Callable[[Iterable[int]], None]


def fill(
  folder: epath.PathLike,
  rows: Sequence[Row],
  generator: Generator,
  **options: Any,
) -> dict[str, int]:
  """Draws the missing shards, which processes share between them.

  Returns when every shard is complete: `Filling.sizes`. Arguments and errors
  are those of `prepare`.
  """
  filling = prepare(folder, rows, generator, **options)
  with locks.claims(folder) as held:
    while locks.missing(folder, names := list(filling.sizes)):
      filling.draw(locks.share(folder, names, held))
  return filling.sizes


def prepare(
  folder: epath.PathLike,
  rows: Sequence[Row],
  generator: Generator,
  *,
  name: str,
  shard_size: int,
  encode: Callable[[np.ndarray], bytes],
  references: References | None = None,
) -> Filling:
  """Finds which shards are to be drawn, and checks those that are there.

  A process that is killed loses the batch at hand and what was drawn in the
  last `unfinished.SECONDS`.

  Args:
    folder: of the shards; it exists.
    rows: of all images.
    generator: that draws.
    name: of the data set.
    shard_size: images in a shard; the last may have fewer.
    encode: an image; see `codecs.encode`.
    references: reads the real images of rows that have one.

  Raises:
    UserError: about a damaged shard; or, when the second batch is drawn, a disk
      without enough space.
  """
  folder = epath.Path(folder)
  total = math.ceil(len(rows) / shard_size)
  sizes = {
    shards.shard_name(i, total, name=name): min(
      shard_size, len(rows) - i * shard_size
    )
    for i in range(total)
  }
  report = _progress(folder, len(rows), _count_kept(folder, sizes))

  def write(part, shard, examples):
    found = {x["id"]: x for x in unfinished.encoded(examples)}
    ordered = (found[row.id] for row in shard)
    shards.write_shard(folder, part, total, ordered, name=name)
    unfinished.remove(folder, part)

  def draw_parts(parts):
    with (
      futures.ThreadPoolExecutor(count_cores()) as encoders,
      futures.ThreadPoolExecutor(1) as writer,
    ):
      writing = None
      for part in parts:
        first = part * shard_size
        last = min(first + shard_size, len(rows))
        shard = [rows[i] for i in range(first, last)]
        kept = unfinished.read(folder, part, shard)
        missing, examples = [row for row in shard if row.id not in kept], []
        with unfinished.keeping(folder, part, len(kept), writer) as keep:
          for drawn, images in draw(generator, missing, references):
            new = [
              {
                "encoded": encoders.submit(encode, image),
                "label": row.label,
                "prompt": row.prompt,
                "seed": row.seed,
                "id": row.id,
              }
              for row, image in zip(drawn, images, strict=True)
            ]
            examples += new
            keep(new)
            report(len(drawn), new[-1]["encoded"])
        if writing:  # one at a time, so that memory holds two shards at most
          writing.result()
        writing = writer.submit(write, part, shard, [*kept.values(), *examples])
      if writing:
        writing.result()

  return Filling(sizes, draw_parts)


def _count_kept(folder: epath.Path, sizes: Mapping[str, int]) -> int:
  """Returns how many images are there, and removes pieces of whole shards."""
  names = list(sizes)
  existing = sizes.keys() & {path.name for path in folder.iterdir()}
  # Objects are whole; to count their rows would fetch what others have drawn.
  for file in () if buckets.is_bucket(folder) else existing:
    shards.check_rows(folder / file, sizes[file])
  done = sum(sizes[file] for file in existing)
  for part, count in unfinished.sizes(folder).items():
    if part < len(names) and names[part] not in existing:
      done += count
    else:  # of a run that was killed before it removed them
      unfinished.remove(folder, part)
  return done


def draw(
  generator: Generator,
  rows: Sequence[Row],
  references: References | None = None,
) -> Iterator[tuple[Sequence[Row], np.ndarray]]:
  """Draws the images of rows.

  Args:
    generator: that draws.
    rows: of the images.
    references: reads the real images of rows that have one.

  Yields:
    Rows and their images, uint8 [n, h, w, 3], a batch at a time.
  """
  kind = lambda row: (row.start_steps, len(row.adapters))
  for (steps, mixed), equal in itertools.groupby(rows, kind):
    group, more = list(equal), {}
    if mixed:
      more = dict(adapters=[row.adapters for row in group])
    if steps is not None:
      more |= dict(references=references(group), start_steps=steps)
    prompts, done = [row.prompt for row in group], 0
    for images in generator.stream(prompts, image_keys(group), **more):
      yield group[done : done + len(images)], images
      done += len(images)


# --- progress and costs ------------------------------------------------------


def _progress(folder: epath.Path, total: int, done: int) -> Callable:
  """Returns (images drawn, one of them encoded) -> None, which reports them.

  The first batch includes compilation; the later ones give the rate, and the
  seconds of an image that the record of the task has.
  """
  count_on = counter(
    "generate", total, done=done, processes=jax.process_count()
  )
  first, estimated, began, since = None, False, 0.0, 0

  def report(count: int, encoded: futures.Future) -> None:
    nonlocal done, first, estimated, began, since
    if first is None:
      began = time.monotonic()
    else:
      since += count * jax.process_count()
      timings.note(seconds_per_image=(time.monotonic() - began) / since)
    done, first = done + count, first or encoded
    rate = count_on(count)
    if rate and not estimated:
      size = (len(first.result()) + len(encoded.result())) / 2
      _estimate(folder, total - done, rate, size)
      estimated = True

  return report


def _estimate(
  folder: epath.Path, left: int, rate: float, image_bytes: float
) -> None:
  """Prints the time and the space that the missing images will take.

  Raises:
    UserError: if the disk has no space for them.
  """
  seconds = left / rate / jax.process_count()
  need = int(left * image_bytes)
  line = (
    f"generate: {left:,} images are left, about {duration(seconds)} at "
    f"{rate:.3g} images/s"
  )
  if jax.process_count() > 1:
    line += f" of each of {jax.process_count()} processes"
  line += f", and {need / 1e9:,.3g} GB"
  if not buckets.is_bucket(folder):
    free = shutil.disk_usage(folder).free
    if need > _NEARLY_FULL * free:
      raise UserError(
        f"The {left:,} images that are left to draw need about {need:,} bytes, "
        f"but the disk of {folder} has {free:,} free. Free some space, give "
        "another --workdir, draw fewer (config.generate.images_per_class), or "
        "store them smaller: config.generate.image_format='webp' or 'jpeg', or "
        "a smaller image_size."
      )
    line += f" of {free / 1e9:,.3g} GB free"
  if seconds > _LONG and jax.process_index() == 0 and not is_muted():
    say(line)
