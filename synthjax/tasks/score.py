"""Encodes the generated images and classifies them, one shard at a time."""

import collections
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.data.generated import scores, shards
from synthjax.encoders import Encoder, check_encoder, load_encoder
from synthjax.labels import spaces
from synthjax.runtime import artifacts, locks
from synthjax.runtime.errors import BLOCK, UserError
from synthjax.runtime.progress import counter

KNOWN = {
  "filter_encoder": BLOCK,  # gives the probabilities; config.encoder by default
}
CHUNK = 1024  # images that are read ahead, and encoded with one call
PROCESSES = "shared"  # each scores the shards that no other one has

Judge = tuple[Encoder, scores.Texts]


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that the encoder and the images are there."""
  block = config.get("score") or {}
  validate(block, KNOWN, name="score")
  for each in (config.encoder, block.get("filter_encoder")):
    if each:
      check_encoder(**each.to_dict())
  spaces.load_space(config.space)
  if "generate" not in config.tasks:
    artifacts.load(epath.Path(workdir) / "generate")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `scores-*.npz`, one file for each shard, and `text.npz`."""
  images = epath.Path(workdir) / "generate"
  folder = epath.Path(workdir) / "score"
  space = spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  spec = {
    "encoder": encoder.identity,
    "images": artifacts.digest(images),
    "classes": space.class_names,
    "templates": space.templates,
  }
  if texts := spaces.identify_texts(space):
    spec["texts"] = texts
  other = (config.get("score") or {}).get("filter_encoder")
  filter_encoder = load_encoder(**other.to_dict()) if other else encoder
  if other:
    spec["filter_encoder"] = filter_encoder.identity
  if artifacts.begin(folder, spec):
    return
  texts = scores.encode_classes(
    encoder.encode_texts, encoder.logit_scale, space
  )
  filter_texts = texts
  if other:
    filter_texts = scores.encode_classes(
      filter_encoder.encode_texts, filter_encoder.logit_scale, space
    )
  judges = [(encoder, texts)] + ([(filter_encoder, filter_texts)] * bool(other))
  source, sizes = shards.open_shards(images), shard_rows(images)
  if sum(sizes) != len(source):
    raise UserError(
      f"{images} holds {len(source)} images, but its manifest lists "
      f"{sum(sizes)}: shards were added or lost."
    )
  names = [scores.part_name(i, len(sizes)) for i in range(len(sizes))]
  _score_all(folder, names, sizes, source, judges)
  scores.write_texts(folder, texts)
  rows = {scores.TEXT: len(space.classes)} | dict(
    zip(names, sizes, strict=True)
  )
  artifacts.finish(folder, spec, rows, num_images=len(source))


def shard_rows(images: epath.Path) -> list[int]:
  """Returns the number of images of each shard, in order."""
  files = artifacts.load(images)["files"]
  return [
    files[name]["rows"] for name in sorted(files) if ".array_record-" in name
  ]


def _score_all(
  folder: epath.Path,
  names: Sequence[str],
  sizes: Sequence[int],
  source: Any,
  judges: Sequence[Judge],
) -> None:
  """Scores the shards that no other process has; other threads read ahead."""
  ends = list(itertools.accumulate(sizes, initial=0))
  spans = [range(*span) for span in itertools.pairwise(ends)]
  process = jax.process_index(), jax.process_count()
  there = {path.name for path in folder.iterdir()}
  done = sum(
    size for name, size in zip(names, sizes, strict=True) if name in there
  )
  tell = counter("score", len(source), done=done, processes=process[1])
  begun = {}
  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    # Each encoder sees the image as it wants it, as long as no device resizes.
    read = functools.partial(_read, source, [each.fit for each, _ in judges])

    def begin(span):
      return collections.deque(pool.submit(read, i) for i in span[:CHUNK])

    for part in locks.share(folder, names, process=process):
      span = spans[part]
      queue = begun.pop(part, None) or begin(span)
      _give_up(begun)  # another process has it
      if len(span) <= CHUNK and part + 1 < len(spans):
        # Likely the next.
        begun = {part + 1: begin(spans[part + 1])}
      rows = _read_on(queue, span[CHUNK:], functools.partial(pool.submit, read))
      scores.write_part(folder, names[part], _score(judges, rows))
      tell(len(span))
    _give_up(begun)


def _give_up(begun: dict[int, Iterable[futures.Future]]) -> None:
  """Drops what is read ahead."""
  for future in itertools.chain.from_iterable(begun.values()):
    future.cancel()
  begun.clear()


def _read(source: Any, fits: Sequence[Callable], index: int) -> tuple:
  """Reads a row; its image as each encoder wants it."""
  row = source[index]
  return row["id"], row["label"], [fit(row["image"]) for fit in fits]


def _read_on(
  queue: collections.deque, rest: Iterable[int], submit: Callable
) -> Iterator[tuple]:
  """Yields what is read, and keeps as many reads in hand as there are."""
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
  num_classes = len(judges[0][1].text_features)
  if unknown := sorted({x for x in labels if not 0 <= x < num_classes}):
    raise UserError(
      f"Images have the labels {unknown[:10]}, but the label space has "
      f"{num_classes} classes: config.space is not the one they were drawn for."
    )
  found = [
    scores.make_scores(ids, labels, np.concatenate(own), texts)
    for own, (_, texts) in zip(features, judges, strict=True)
  ]
  return found[0]._replace(p_own=found[-1].p_own, probs=found[-1].probs)
