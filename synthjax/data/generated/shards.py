"""Image shards: ArrayRecord files that TensorFlow Datasets reads back.

A folder of them is an ordinary data set: `tfds.builder_from_directory(folder)`
opens it, with or without TensorFlow. Each record is a `tf.train.Example` of
image (a PNG file, if the writer did not choose another format), label, prompt,
seed and id. The same rows give the same bytes. `write_dataset_info` writes the
files that TFDS needs beside them, and `write_index` the table by which images
are found without reading those before them.
"""

import bisect
import functools
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any

import numpy as np
from array_record.python import array_record_data_source, array_record_module
from etils import epath

# Not when a thread writes its first shard: TFDS replaces `import` while it is
# imported, and imports of other threads fail.
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from synthjax.data.generated import tables
from synthjax.data.generated.plan import origin
from synthjax.data.pipeline.codecs import decode_image, encode_png
from synthjax.data.pipeline.rows import Example, Files, Source, subset
from synthjax.runtime import buckets, cache
from synthjax.runtime.atomic import replace
from synthjax.runtime.errors import UserError

# One record to a group, as random access wants; images are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = {"max_parallelism": "1"}
# Unfinished files, which a killed run leaves, have names that begin with a dot.
_SHARD_NAME = re.compile(r"([^.].*)-(.+)\.array_record-(\d{5})-of-(\d{5})")


# --- writing ----------------------------------------------------------------


def write_shard(
  folder: epath.PathLike,
  shard_index: int,
  num_shards: int,
  examples: Iterable[Example],
  *,
  name: str = "synthjax",
  split: str = "train",
  encode: Callable[[np.ndarray], bytes] = encode_png,
) -> int:
  """Writes one shard, which gets its name only when it is whole.

  Args:
    folder: local or gs://.
    shard_index: from 0.
    num_shards: of the whole data set.
    examples: rows of image uint8 [h, w, 3], or encoded bytes; label int,
      prompt str, seed int and id str.
    name: of the data set, in snake case.
    split: of the data set.
    encode: encodes pixels, the same ones alike; see `codecs.encode`.

  Returns:
    The number of rows.
  """
  file = shard_name(shard_index, num_shards, name=name, split=split)
  return write_file(folder, file, examples, encode=encode)


def write_file(
  folder: epath.PathLike,
  file: str,
  examples: Iterable[Example],
  *,
  encode: Callable[[np.ndarray], bytes] = encode_png,
) -> int:
  """Writes a file of any name as `write_shard` does; returns its rows."""
  rows = 0
  with replace(folder, file) as path:
    writer = array_record_module.ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
      for example in examples:
        writer.write(_record(example, encode))
        rows += 1
    finally:
      writer.close()  # raises where the disk is full
  return rows


def read_file(path: epath.PathLike) -> list[Example]:
  """Reads the rows of one file, with encoded images.

  Raises:
    UserError: if it is damaged.
  """
  path = _local(epath.Path(path))
  records = array_record_data_source.ArrayRecordDataSource(
    [f"{path}[0:{(rows := _count(path))}]"], _READER_OPTIONS
  )
  features = functools.partial(_features_of, records, (path,), (rows,))
  return [_read(features, False, i) for i in range(rows)]


def check_rows(path: epath.PathLike, rows: int) -> None:
  """Checks the number of rows of a shard.

  Raises:
    UserError: if it is damaged or holds another number.
  """
  path = _local(epath.Path(path))
  if (count := _count(path)) != rows:
    raise _damaged(path, f"{count} rows where {rows} belong")


def _record(example: Example, encode: Callable[[np.ndarray], bytes]) -> bytes:
  def of_bytes(value):
    value = tf_feature_pb2.BytesList(value=[value])
    return tf_feature_pb2.Feature(bytes_list=value)

  def of_int(value):
    value = tf_feature_pb2.Int64List(value=[int(value)])
    return tf_feature_pb2.Feature(int64_list=value)

  stored = example.get("encoded")
  if stored is None:
    stored = encode(np.asarray(example["image"]))
  feature = {
    "image": of_bytes(stored),
    "label": of_int(example["label"]),
    "prompt": of_bytes(example["prompt"].encode()),
    "seed": of_int(example["seed"]),
    "id": of_bytes(example["id"].encode()),
  }
  features = tf_feature_pb2.Features(feature=feature)
  # A map has no order of its own: without this, each process has another.
  return tf_example_pb2.Example(features=features).SerializeToString(
    deterministic=True
  )


# --- reading ----------------------------------------------------------------


def open_shards(
  folder: epath.PathLike,
  kept_ids: Iterable[str] | None = None,
  decode: bool = True,
) -> Source:
  """Opens a folder of shards.

  Args:
    folder: of one data set and split.
    kept_ids: the ids of the rows to keep; None keeps all. The order stays that
      of the shards.
    decode: the images; False leaves them encoded, for `codecs` to decode the
      part that is needed.

  Returns:
    A source of rows of image uint8 [h, w, 3], or encoded bytes; label int,
    prompt str, seed int and id str.

  Raises:
    UserError: if shards are missing, cut short or damaged, or lack the row of
      an id. Damage inside of a shard is reported when the row is read.
  """
  paths = _shard_paths(epath.Path(folder))
  rows = [_count(path) for path in paths]
  records = array_record_data_source.ArrayRecordDataSource(
    [f"{path}[0:{n}]" for path, n in zip(paths, rows, strict=True)],
    _READER_OPTIONS,
  )
  ends = tuple(itertools.accumulate(rows))
  features = functools.partial(_features_of, records, tuple(paths), ends)
  source = Source(
    len(records),
    functools.partial(_read, features, decode),
    files=Files.of_many_rows(paths),
  )
  if kept_ids is None:
    return source
  ids = read_index(folder, len(source), ("id",))["id"]
  kept_ids = set(kept_ids)
  if unknown := kept_ids.difference(ids):
    raise UserError(
      f"{len(unknown):,} of the {len(kept_ids):,} ids to keep are not in "
      f"{folder}, such as {min(unknown)!r}: the selection belongs to other "
      "images."
    )
  kept = np.fromiter((i in kept_ids for i in ids), bool, len(ids))
  return subset(source, np.flatnonzero(kept))


def _shard_paths(folder: epath.Path) -> list[str]:
  """Returns local paths of all shards of a folder, in order."""
  shards = {}
  for path in folder.iterdir() if folder.exists() else ():
    if match := _SHARD_NAME.fullmatch(path.name):
      shards[path.name] = (match[1], match[2], int(match[4]))
  if not shards:
    raise UserError(
      f"There are no image shards in {folder}: no file is named like "
      f"{shard_name(0, 8)!r}."
    )
  if len(kinds := set(shards.values())) > 1:
    raise UserError(
      f"{folder} mixes the shards of several data sets: {sorted(kinds)} (name, "
      "split, number of shards). Give each a folder of its own."
    )
  name, split, total = kinds.pop()
  names = [shard_name(i, total, name=name, split=split) for i in range(total)]
  if missing := [name for name in names if name not in shards]:
    raise UserError(
      f"{folder} lacks {len(missing)} of {total} shards, such as {missing[0]}: "
      "run the task that writes them again, which goes on where it stopped."
    )
  return [_local(folder / name) for name in names]


def _local(path: epath.Path) -> str:
  """Returns the path of a local copy, as ArrayRecord reads no buckets."""
  if not buckets.is_bucket(path):
    return os.fspath(path)
  shards = epath.Path(cache.private_folder()) / "shards"
  copy = shards / os.fspath(path).replace("://", "/")
  length, written = path.stat().length, int(buckets.modified(path))
  local = copy.stat() if copy.exists() else None
  # A copy gets the time of its object, as clocks of this machine and of the
  # bucket may differ.
  if not local or (local.length, local.mtime) != (length, written):
    with replace(copy.parent, copy.name, need=length) as temporary:
      path.copy(temporary, overwrite=True)
      os.utime(temporary, (written, written))
  return os.fspath(copy)


def _count(path: str) -> int:
  try:
    reader = array_record_module.ArrayRecordReader(path)
    rows = reader.num_records()
    # A file that was cut short opens without an error, and with no rows.
    if not reader.ok():
      reader.close()
    return rows
  except RuntimeError as error:
    raise _damaged(path, error) from error


def _features_of(
  records: Any, paths: Sequence[str], ends: Sequence[int], index: int
) -> Any:
  """Returns the features of a record, encoded as they are stored."""
  try:
    record = records[index]
  except RuntimeError as error:
    raise _damaged(paths[bisect.bisect_right(ends, index)], error) from error
  return tf_example_pb2.Example.FromString(record).features.feature


def _read(features_of: Callable, decode: bool, index: int) -> Example:
  features = features_of(index)
  stored = features["image"].bytes_list.value[0]
  image = {"image": decode_image(stored)} if decode else {"encoded": stored}
  return image | {
    "label": features["label"].int64_list.value[0],
    "prompt": _text(features, "prompt"),
    "seed": features["seed"].int64_list.value[0],
    "id": _text(features, "id"),
  }


def _text(features: Any, name: str) -> str:
  return features[name].bytes_list.value[0].decode()


def _damaged(path: str, error: Exception | str) -> UserError:
  return UserError(
    f"The shard {path} is damaged or cut short ({error}). Put it back from a "
    "copy; or delete it together with manifest.json beside it, and run the "
    "task that wrote it again: only what is missing is drawn again."
  )


# --- which image is in which row ---------------------------------------------

INDEX = "images.parquet"


def write_index(folder: epath.PathLike, rows: Sequence[Any]) -> dict[str, int]:
  """Writes INDEX beside the shards.

  Args:
    folder: of the shards.
    rows: of all images in their order, each with the id of an `ImageId`, a
      label and a prompt. A few are held at a time.

  Returns:
    The number of rows of the file, by its name.
  """
  kinds = {"id": "string", "label": "int32"}
  kinds |= {"strategy": "category", "seed": "int64", "prompt": "category"}

  def read_batch(start):
    batch = [rows[i] for i in range(start, min(start + tables.ROWS, len(rows)))]
    ids = [row.id for row in batch]
    strategies, seeds = origin(ids)
    more = dict(strategy=strategies, seed=seeds)
    for name in ("label", "prompt"):
      more[name] = [getattr(row, name) for row in batch]
    return {"id": ids} | more

  with replace(epath.Path(folder), INDEX) as path:
    starts = range(0, len(rows), tables.ROWS)
    tables.write(path, kinds, map(read_batch, starts))
  return {INDEX: len(rows)}


def read_index(
  folder: epath.PathLike,
  num_images: int,
  names: Sequence[str] = ("id", "label"),
  rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Reads which image is in which row.

  Args:
    folder: of the shards. If it has no INDEX with these columns, as older
      versions wrote it, every row is read.
    num_images: that the shards hold.
    names: of the columns: id str, label int, strategy of the prompt str, seed
      int, and prompt str.
    rows: int [m], in order, to read alone; None reads all.

  Returns:
    Each column, [n] or [m].

  Raises:
    UserError: if the file is damaged or of other shards, about ids that name no
      strategy and seed, if these are needed; or as `open_shards`.
  """
  path = epath.Path(folder) / INDEX
  if _has_index(path, num_images, names):
    return tables.read(path, names, rows)
  source = open_shards(folder, decode=False)
  read = map(source.read, range(len(source)) if rows is None else rows)
  read = [(r["id"], r["label"], r["prompt"]) for r in read]
  ids, labels, prompts = np.array(read, object).reshape(-1, 3).T
  columns = {"id": ids, "label": labels.astype(int), "prompt": prompts}
  if not columns.keys() >= set(names):
    columns |= dict(zip(("strategy", "seed"), origin(ids), strict=True))
  return {name: columns[name] for name in names}


def read_ids(folder: epath.PathLike, num_images: int) -> Iterator[str]:
  """Yields the ids of all images; without an INDEX it reads every row first.

  A few are held at a time. Args and errors are those of `read_index`.
  """
  path = epath.Path(folder) / INDEX
  if _has_index(path, num_images, ("id",)):
    for batch in tables.read_batches(path, ("id",)):
      yield from batch["id"].tolist()
  else:
    yield from read_index(folder, num_images, ("id",))["id"]


def _has_index(
  path: epath.Path, num_images: int, names: Collection[str]
) -> bool:
  """Returns whether there is an index of these columns; it must fit."""
  if not path.exists():
    return False
  count, columns = tables.shape_of(path)
  if count != num_images:
    raise UserError(
      f"{path} lists {count:,} images, and the shards beside it hold "
      f"{num_images:,}. Put the shards back from a copy."
    )
  return columns >= {*names}


# --- names and descriptions for TFDS ------------------------------------------


def shard_name(
  shard_index: int,
  num_shards: int,
  *,
  name: str = "synthjax",
  split: str = "train",
) -> str:
  """Returns the file name of a shard, as TFDS expects it."""
  assert 0 <= shard_index < num_shards, (shard_index, num_shards)
  return f"{name}-{split}.array_record-{shard_index:05d}-of-{num_shards:05d}"


def write_dataset_info(
  folder: epath.PathLike,
  rows: Sequence[int],
  classes: Mapping[int, str],
  *,
  description: str,
  name: str = "synthjax",
  split: str = "train",
  image_size: int | None = None,
  image_format: str = "png",
) -> dict[str, int]:
  """Writes the files by which TFDS opens a complete folder of shards.

  Args:
    folder: of the shards.
    rows: the number of rows of each shard.
    classes: label id -> class name. Ids from 0 without gaps become a
      ClassLabel with these names; others stay plain integers.
    description: one paragraph about the data set.
    name: of the data set.
    split: of the data set.
    image_size: the side of the images, if all have the same.
    image_format: "png", "jpeg" or "webp". TFDS has no name for WebP: its format
      is left open. Data sources then read it, with Pillow; TensorFlow's decoder
      does not.

  Returns:
    The files written, each with 0 rows, for the manifest.
  """
  folder = epath.Path(folder)
  names = [
    shard_name(i, len(rows), name=name, split=split) for i in range(len(rows))
  ]
  info = {
    "description": description,
    "fileFormat": "array_record",
    # Where this module once was: finished folders keep their bytes.
    "moduleName": "synthjax.data.shards",
    "name": name,
    "splits": [
      {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": split,
        "numBytes": str(sum((folder / n).stat().length for n in names)),
        "shardLengths": [str(n) for n in rows],
      }
    ],
    "version": "1.0.0",
  }
  named = sorted(classes) == list(range(len(classes)))
  files = {
    "dataset_info.json": json.dumps(info, indent=2),
    "features.json": json.dumps(
      _features(classes, named, image_size, image_format), indent=2
    ),
  }
  if named:
    files["label.labels.txt"] = "\n".join(_unique_names(classes))
  for file, text in files.items():
    with replace(folder, file) as path:
      path.write_text(text + "\n", encoding="utf-8")
  return dict.fromkeys(files, 0)


def _features(
  classes: Mapping[int, str],
  named: bool,
  image_size: int | None,
  image_format: str,
) -> dict[str, Any]:
  """Returns the content of features.json, as TFDS 4.9 writes it."""

  def feature(kind, name, **content):
    return {
      "pythonClassName": f"tensorflow_datasets.core.features.{kind}.{name}",
      **content,
    }

  side = str(image_size or -1)
  text = feature("text_feature", "Text", text={})
  integer = feature(
    "tensor_feature",
    "Tensor",
    tensor={"dtype": "int64", "encoding": "none", "shape": {}},
  )
  label = feature(
    "class_label_feature",
    "ClassLabel",
    classLabel={"numClasses": str(len(classes))},
  )
  image = feature(
    "image_feature",
    "Image",
    image={
      "dtype": "uint8",
      "encodingFormat": "" if image_format == "webp" else image_format,
      "shape": {"dimensions": [side, side, "3"]},
    },
  )
  features = {
    "id": text,
    "image": image,
    "label": label if named else integer,
    "prompt": text,
    "seed": integer,
  }
  return feature(
    "features_dict", "FeaturesDict", featuresDict={"features": features}
  )


def _unique_names(classes: Mapping[int, str]) -> list[str]:
  """Returns the names by id; TFDS wants one line each, and no name twice."""
  names = [" ".join(classes[i].split()) for i in sorted(classes)]
  count = Counter(names)
  return [
    f"{name} ({i})" if count[name] > 1 or not name else name
    for i, name in enumerate(names)
  ]
