"""Encodes the generated images and classifies them, one shard at a time."""

import time
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.data import scores, shards, spaces
from synthjax.encoders import Encoder, check_encoder, load_encoder
from synthjax.errors import UserError
from synthjax.train.metrics import say

FIELDS = (
  "filter_encoder",  # gives the probabilities; that of config by default
)
CHUNK = 1024  # images in memory at once


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that the encoder and the images are there."""
  block = config.get("score") or {}
  validate(block, FIELDS, name="score")
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
  source, rows = shards.open_shards(images), {scores.TEXT: len(space.classes)}
  sizes = shard_rows(images)
  if sum(sizes) != len(source):
    raise UserError(
      f"{images} holds {len(source)} images, but its manifest lists "
      f"{sum(sizes)}: shards were added or lost."
    )
  began, first = time.monotonic(), 0
  for index, size in enumerate(sizes):
    name = scores.part_name(index, len(sizes))
    if not (folder / name).exists():
      positions = range(first, first + size)
      part = _score(encoder, texts, source, positions)
      if other:
        # As in the released code, where RN50 filters for every encoder.
        judged = _score(filter_encoder, filter_texts, source, positions)
        part = part._replace(p_own=judged.p_own, probs=judged.probs)
      scores.write_part(folder, name, part)
    rows[name], first = size, first + size
    rate = first / (time.monotonic() - began)
    say(
      f"score: {first:,}/{len(source):,} images  {rate:,.0f} images/s",
      last=first == len(source),
    )
  scores.write_texts(folder, texts)
  artifacts.finish(folder, spec, rows, num_images=len(source))


def shard_rows(images: epath.Path) -> list[int]:
  """Returns the number of images of each shard, in order."""
  files = artifacts.load(images)["files"]
  return [
    files[name]["rows"] for name in sorted(files) if ".array_record-" in name
  ]


def _score(
  encoder: Encoder, texts: scores.Texts, source: Any, positions: range
) -> scores.Scores:
  """Scores the rows of a shard."""
  ids, labels, features = [], [], []
  for first in range(positions.start, positions.stop, CHUNK):
    rows = [source[i] for i in range(first, min(first + CHUNK, positions.stop))]
    ids += [row["id"] for row in rows]
    labels += [row["label"] for row in rows]
    features.append(encoder.encode_images([row["image"] for row in rows]))
  num_classes = len(texts.text_features)
  if unknown := sorted({x for x in labels if not 0 <= x < num_classes}):
    raise UserError(
      f"Images have the labels {unknown[:10]}, but the label space has "
      f"{num_classes} classes: config.space is not the one they were drawn for."
    )
  return scores.make_scores(ids, labels, np.concatenate(features), texts)
