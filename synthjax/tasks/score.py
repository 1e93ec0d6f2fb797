"""Encodes the generated images and classifies them, one shard at a time."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from synthjax.config import schema
from synthjax.data.generated import scores, shards
from synthjax.encoders import Encoder, check_texts, load_encoder
from synthjax.labels import spaces
from synthjax.runtime import artifacts, engine, locks
from synthjax.runtime.engine import Work
from synthjax.runtime.errors import UserError, gathered
from synthjax.runtime.progress import counter
from synthjax.runtime.threads import count_cores

CHUNK = 1024  # images that are read ahead, and encoded with one call
AT_ONCE = 8  # shards of a call, as reading ahead needs several
PROCESSES = "shared"  # each scores the shards that no other one has

Judge = tuple[Encoder, scores.Texts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """config.score."""

  # The encoder that gives the probabilities; by default config.encoder.
  filter_encoder: schema.Block | None = None
  # A workdir whose images are scored, and made by then; None: this one.
  images: str | None = None
  # Shrinks images to so many px, bilinear, before config.encoder sees them: a
  # switch of the release, for sets of small images. The filter sees them whole.
  low_resolution: schema.Count | None = None


FIELDS = Score


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that the encoder and the images are there."""
  fields = schema.read(Score, config.get("score"), "config.score")
  with gathered() as attempt:
    attempt(check_texts, config.space, config.encoder.to_dict())
    if block := fields.filter_encoder:
      name = "config.score.filter_encoder"
      attempt(check_texts, config.space, block, field=name)
    if not fields.images and "generate" not in config.tasks:
      attempt(artifacts.load, epath.Path(workdir) / "generate")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `scores-*.npz`, one file for each shard, and `text.npz`."""
  engine.do_here(prepare(config, workdir))


def prepare(config: ConfigDict, workdir: str) -> Iterator[Work]:
  """Loads the encoders, and yields the shards to score."""
  fields = schema.read(Score, config.get("score"), "config.score")
  images = epath.Path(fields.images or workdir) / "generate"
  folder = epath.Path(workdir) / "score"
  space = spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  spec = {
    "encoder": encoder.identity,
    "images": artifacts.digest(images, repairable=True),
    "classes": space.class_names,
    "templates": space.templates,
  }
  if texts := spaces.identify_texts(space):
    spec["texts"] = texts
  if space.filter:
    spec["filter"] = [space.filter_text(c) for c in space.classes]
  encoders = [encoder]
  if fields.filter_encoder:
    encoders.append(load_encoder(**fields.filter_encoder))
    spec["filter_encoder"] = encoders[-1].identity
  if fields.low_resolution:
    spec["low_resolution"] = fields.low_resolution
    filtering = encoders[-1]
    encoders = [_shrinking(encoder, fields.low_resolution), filtering]

  def drop_changed():
    now = {part: shard.sha256 for part, shard in shards_of(images).items()}
    scores.drop_changed(folder, now)

  if artifacts.begin(folder, spec, renew=drop_changed):
    return
  judges = [
    (judge, scores.encode_classes(judge.encode_texts, judge.logit_scale, space))
    for judge in encoders
  ]
  source, drawn = shards.open_shards(images), shards_of(images)
  rows = {part: shard.rows for part, shard in drawn.items()}
  if (total := sum(rows.values())) != len(source):
    raise UserError(
      f"{images} holds {len(source)} images, but its manifest lists {total}: "
      "shards were added or lost."
    )

  def finish():
    scores.write_texts(folder, judges[0][1])
    written = {scores.TEXT: len(space.classes)} | rows
    artifacts.finish(folder, spec, written, num_images=len(source))

  score = _scorer(folder, drawn, source, judges)
  yield Work(folder, rows, score, finish, parts_per_call=AT_ONCE)


def _shrinking(encoder: Encoder, side: int) -> Encoder:
  """Returns the encoder with images of a shorter side of `side` px."""

  def fit(image):
    pixels = Image.fromarray(np.asarray(image))
    scale = side / min(pixels.size)
    size = [max(side, int(scale * n)) for n in pixels.size]
    small = pixels.resize(size, Image.Resampling.BILINEAR)
    return encoder.fit(np.asarray(small))

  return encoder._replace(fit=fit)


class Shard(NamedTuple):
  """A shard of images, as the manifest lists it."""

  path: epath.Path
  rows: int
  sha256: str


def shards_of(images: epath.PathLike) -> dict[str, Shard]:
  """Returns the shard of each part of scores, by the part's name, in order."""
  files = artifacts.load(images)["files"]
  names = sorted(name for name in files if ".array_record-" in name)
  return {
    scores.part_name(i, len(names)): Shard(
      epath.Path(images) / name, files[name]["rows"], files[name]["sha256"]
    )
    for i, name in enumerate(names)
  }


def _scorer(
  folder: epath.Path,
  drawn: Mapping[str, Shard],
  source: Any,
  judges: Sequence[Judge],
) -> Callable[[Iterable[int]], None]:
  """Returns a function that scores shards; other threads read ahead."""
  names, sizes = list(drawn), [shard.rows for shard in drawn.values()]
  ends = list(itertools.accumulate(sizes, initial=0))
  spans = [range(*span) for span in itertools.pairwise(ends)]
  left = sum(sizes[part] for part in locks.missing(folder, names))
  report = counter(
    "score",
    len(source),
    done=len(source) - left,
    processes=jax.process_count(),
  )
  # Each encoder has the image of its own size, unless a device resizes.
  read = functools.partial(_read, source, [each.fit for each, _ in judges])

  def score(parts):
    begun = {}
    with futures.ThreadPoolExecutor(count_cores()) as pool:

      def begin(span):
        return collections.deque(pool.submit(read, i) for i in span[:CHUNK])

      for part in parts:
        span = spans[part]
        queue = begun.pop(part, None) or begin(span)
        _give_up(begun)  # another process has it
        made_of = pool.submit(artifacts.sha256, drawn[names[part]].path)
        if len(span) <= CHUNK and part + 1 < len(spans):
          # Likely the next.
          begun = {part + 1: begin(spans[part + 1])}
        submit = functools.partial(pool.submit, read)
        chunks = _read_on(queue, span[CHUNK:], submit)
        scored = _score(judges, chunks)
        scores.write_part(folder, names[part], scored, made_of.result())
        report(len(span))
      _give_up(begun)

  return score


def _give_up(begun: dict[int, Iterable[futures.Future]]) -> None:
  """Drops reads that were begun ahead."""
  for future in itertools.chain.from_iterable(begun.values()):
    future.cancel()
  begun.clear()


def _read(source: Any, fits: Sequence[Callable], index: int) -> tuple:
  """Reads a row; its image in the size of each encoder."""
  row = source[index]
  return row["id"], row["label"], [fit(row["image"]) for fit in fits]


def _read_on(
  queue: collections.deque, rest: Iterable[int], submit: Callable
) -> Iterator[tuple]:
  """Yields rows that were read, and keeps the number of reads in the queue."""
  for index in rest:
    yield queue.popleft().result()
    queue.append(submit(index))
  while queue:
    yield queue.popleft().result()


def _score(judges: Sequence[Judge], rows: Iterable[tuple]) -> scores.Scores:
  """Scores the rows of a shard.

  As in the released code, where RN50 filters for every encoder, the last judge
  gives the probabilities.
  """
  ids, labels, features = [], [], [[] for _ in judges]
  rows = iter(rows)
  while chunk := list(itertools.islice(rows, CHUNK)):
    ids += [row[0] for row in chunk]
    labels += [row[1] for row in chunk]
    for i, (encoder, _) in enumerate(judges):
      features[i].append(encoder.encode_images([row[2][i] for row in chunk]))
  scored = [
    scores.make_scores(ids, labels, np.concatenate(rows), texts)
    for rows, (_, texts) in zip(features, judges, strict=True)
  ]
  return scored[0]._replace(p_own=scored[-1].p_own, probs=scored[-1].probs)
