"""Parquet files that Hugging Face's `datasets` opens as images and classes.

`datasets.load_dataset("parquet", data_dir=...)` finds Image() and ClassLabel
features, as the schema's metadata and README.md describe them. Columns: image
(a struct of bytes and path), label, id, prompt, seed. The same rows give the
same bytes, by one version of pyarrow.
"""

import functools
import itertools
import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from synthjax.config.schema import Count
from synthjax.data.formats import export_rows, hub_readme, numbered_files
from synthjax.data.pipeline import image_files
from synthjax.data.pipeline.image_files import Labelled
from synthjax.data.pipeline.rows import Example, Files
from synthjax.labels import class_names, file_names
from synthjax.runtime import buckets
from synthjax.runtime.text_files import parse_json

# A reader that wants one row reads all of its group.
GROUP = 32
ARROW = ".arrow"  # files of tables as they lie in memory
# Those beside image and label.
_COLUMNS = {"id": "string", "prompt": "string", "seed": "int64"}


def write(
  folder: epath.PathLike,
  rows: Sequence[Example],
  names: Sequence[str],
  *,
  split: str,
  shard_size: int,
  parts: Iterable[int] | None = None,
) -> dict[str, int]:
  """Writes Parquet files in `data`; see `export_rows`.

  Args:
    folder: of the export.
    rows: to export.
    names: of the classes; no two alike.
    split: of the data set.
    shard_size: images of a file.
    parts: numbers of the files to write; None for all.
  """
  import pyarrow as pa
  import pyarrow.parquet as pq

  schema = _schema(names)

  def write_file(path, numbers):
    with pq.ParquetWriter(
      path,
      schema,
      # Images are compressed already, and no two are alike.
      compression="NONE",
      use_dictionary=["label", "prompt", "seed"],
      write_statistics=["label", "id", "seed"],
    ) as writer:
      for start in range(numbers.start, numbers.stop, GROUP):
        group = range(start, min(start + GROUP, numbers.stop))
        records = [_record(rows[i], names) for i in group]
        table = pa.Table.from_pylist(records, schema=schema)
        writer.write_table(table, row_group_size=GROUP)

  written = numbered_files.write(
    folder,
    len(rows),
    shard_size,
    write_file,
    split=f"data/{split}",
    ending=".parquet",
    parts=parts,
  )
  return written | hub_readme.write(
    folder,
    names,
    split=split,
    files=f"data/{split}-*.parquet",
    count=len(rows),
    columns=_COLUMNS,
  )


def files(count: int, shard_size: int, *, split: str) -> dict[str, int]:
  """Returns the rows of each numbered file that `write` makes, in order."""
  return numbered_files.sizes(
    count, shard_size, split=f"data/{split}", ending=".parquet"
  )


def _schema(names: Sequence[str]) -> Any:
  import pyarrow as pa

  features = {
    "image": {"_type": "Image"},
    "label": {"names": list(names), "_type": "ClassLabel"},
  } | {n: {"dtype": kind, "_type": "Value"} for n, kind in _COLUMNS.items()}
  columns = {
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "label": pa.int64(),
  } | {n: pa.type_for_alias(kind) for n, kind in _COLUMNS.items()}
  info = json.dumps({"info": {"features": features}}, ensure_ascii=False)
  return pa.schema(columns).with_metadata({"huggingface": info})


def _record(row: Example, names: Sequence[str]) -> dict[str, Any]:
  export_rows.class_of(row, names)
  ending = export_rows.ending_of(row["encoded"])
  file = f"{file_names.key_of(row['id'])}.{ending}"
  return {
    "image": {"bytes": row["encoded"], "path": file},
    **{name: row[name] for name in ("label", "id", "prompt", "seed")},
  }


# --- opens Parquet files of images, as Hugging Face's `datasets` has them ----


def open_parquet(
  path: epath.PathLike,
  classes: Mapping[str, int] | None = None,
  image_size: Count | None = None,
  split: str | None = None,
  image_key: str = "image",
  label_key: str = "label",
  id_key: str = "id",
  *,
  space: Any = None,
  complete: bool = True,
) -> Labelled:
  """Opens Parquet files as `write` or Hugging Face's `datasets` leave them.

  All columns of labels and ids are read at once. To read a row reads the image
  column of its row group: files of large groups are slow in random order.

  Args:
    path: of a Parquet file, or of a folder that holds them, itself or in
      `data`; local or gs://. Or of local Arrow files, as `save_to_disk` of
      `datasets` leaves them.
    classes: name -> label, for labels that have names, or are names; numbers
      without must be labels of these. Those of the space by default; the
      numbers stay if there is none either.
    image_size: crops and resizes the images to squares of this side.
    split: of the files, where there are several.
    image_key: the column of images: encoded bytes, or a struct that has them.
    label_key: the column of labels.
    id_key: the column of ids, if there is one; else a row is called by its file
      and position.
    space: the label space.
    complete: see `class_names.of_rows`.

  Returns:
    A source of rows of image uint8 [h, w, 3], label int and id str.

  Raises:
    UserError: listing the files that are missing, damaged, or lack a column or
      a label, and classes that are unknown or not there. A damaged image shows
      when its row is read.
  """
  if classes is None and space is not None:
    classes = class_names.lookup(space)
  top = epath.Path(path).expanduser()
  is_arrow = top.suffix == ARROW or (
    top.is_dir() and any(top.glob(f"*{ARROW}"))
  )
  ending = ARROW if is_arrow else ".parquet"
  files = [
    os.fspath(file) for file in numbered_files.find(path, ending, split=split)
  ]
  keys, problems = (image_key, label_key, id_key), []
  indices = [_index(file, keys, problems) for file in files]
  class_names.raise_problems(
    problems,
    f"{path} cannot be opened as Parquet",
    "Copy damaged files again, or export again; other columns are chosen by "
    "image_key, label_key and id_key.",
  )
  numbers, names, ids, groups = (
    list(itertools.chain.from_iterable(column))
    for column in zip(*indices, strict=True)
  )
  labels = class_names.of_rows(
    numbers, names, classes, where=str(path), complete=complete
  )
  # The file and number of each row group, and the row that it ends before.
  places = [
    (file, _stamp(file), number)
    for file, (*_, sizes) in zip(files, indices, strict=True)
    for number in range(len(sizes))
  ]
  read = functools.partial(
    _read, places, np.cumsum(groups), image_key, image_size, labels, ids
  )
  label = functools.partial(operator.getitem, labels)
  return Labelled(len(labels), read, label, files=Files.of_many_rows(files))


MAX_ROWS = 1_000_000  # of a file, however few bytes it has


def _index(
  path: str, keys: tuple[str, str, str], problems: list[str]
) -> tuple[list, list, list, list]:
  """Returns numbers, names and ids of rows, and the rows of each group."""
  import pyarrow as pa

  _, label_key, id_key = keys
  file = os.path.basename(path)
  try:
    if path.endswith(ARROW):
      arrow = _arrow(path, _stamp(path))
      schema, groups = arrow.schema, [arrow.num_rows]
      columns = _columns(schema, keys)
      table = {n: arrow[n].to_pylist() for n in columns}
    else:
      with _open(path) as opened:
        schema, metadata = opened.schema_arrow, opened.metadata
        rows, size = metadata.num_rows, _stamp(path)[0]
        columns = _columns(schema, keys)
        if rows > max(size, MAX_ROWS):
          raise ValueError(
            f"claims {rows:,} rows in {size:,} bytes; a file of more than "
            f"{MAX_ROWS:,} has at most one a byte"
          )
        with _open(path, texts=columns) as texts:
          table = {n: _values(texts.read([n])[n]) for n in columns}
        groups = [
          metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)
        ]
    classes = _class_names(schema, label_key)
    pairs = [_pair(value, classes) for value in table[label_key]]
  except (pa.ArrowException, OSError, ValueError) as error:
    problems.append(f"{file}: {' '.join(str(error).split())}")
    return [], [], [], []
  ids = table.get(id_key) or [None] * len(pairs)
  return (
    [number for number, _ in pairs],
    [name for _, name in pairs],
    [f"{file}-{i}" if x is None else str(x) for i, x in enumerate(ids)],
    groups,
  )


def _columns(schema: Any, keys: tuple[str, str, str]) -> list[str]:
  """Returns the columns of labels and ids.

  Raises:
    ValueError: about columns that are not there, or hold no plain values.
  """
  import pyarrow as pa

  image_key, label_key, id_key = keys
  if lacking := {image_key, label_key} - set(schema.names):
    raise ValueError(
      f"lacks {' and '.join(sorted(lacking))}; its columns are "
      f"{', '.join(schema.names)}"
    )
  columns = [n for n in (label_key, id_key) if n in schema.names]
  for name in columns:  # which a dictionary cannot hold
    if pa.types.is_nested(kind := schema.field(name).type):
      raise ValueError(f"has {kind} in {name}, no numbers and no texts")
  return columns


def _class_names(schema: Any, label_key: str) -> list[str] | None:
  """Returns the names of a ClassLabel, which the schema's metadata holds."""
  description = (schema.metadata or {}).get(b"huggingface")
  if not description:
    return None
  value = parse_json(description)
  for key in ("info", "features", label_key, "names"):
    value = value.get(key) if isinstance(value, dict) else None
  return [str(name) for name in value] if isinstance(value, list) else None


def _pair(
  value: Any, classes: Sequence[str] | None
) -> tuple[int | None, str | None]:
  """Returns the number and the name of the class that a column holds."""
  if isinstance(value, str):
    return None, value
  if isinstance(value, bool) or not isinstance(value, int):
    raise ValueError(f"has the label {value!r}, no number and no name")
  if classes is None or value == class_names.NO_CLASS:  # as `datasets` has it
    return value, None
  if not 0 <= value < len(classes):
    raise ValueError(f"has the label {value}, but names {len(classes)} classes")
  return value, classes[value]


def _values(column: Any) -> list[Any]:
  """Returns the values of a column; texts that are alike are one object.

  So a text that stands once in the file takes its memory once, however many
  rows have it.
  """
  values = []
  for chunk in column.chunks:
    if hasattr(chunk, "dictionary"):
      texts = chunk.dictionary.to_pylist()
      indices = chunk.indices.to_pylist()
      values += [None if i is None else texts[i] for i in indices]
    else:
      values += chunk.to_pylist()
  return values


def _open(path: str, metadata: Any = None, texts: Sequence[str] = ()) -> Any:
  """Opens a file; columns of `texts` that are texts stay dictionaries."""
  import pyarrow.parquet as pq

  source = epath.Path(path).open("rb") if buckets.is_bucket(path) else path
  return pq.ParquetFile(source, metadata=metadata, read_dictionary=[*texts])


def _stamp(path: str) -> tuple[int, float]:
  """Returns the size and the time of a file, which a new one changes."""
  stat = epath.Path(path).stat()
  return stat.length, stat.mtime


@functools.lru_cache(maxsize=256)
def _arrow(path: str, stamp: tuple[int, float]) -> Any:
  """Returns a table that stays in its file, of which only rows are read."""
  import pyarrow as pa

  del stamp  # a part of the cache's key
  return pa.ipc.open_stream(pa.memory_map(path)).read_all()


@functools.lru_cache(maxsize=256)
def _metadata(path: str, stamp: tuple[int, float]) -> Any:
  del stamp  # a part of the cache's key
  with _open(path) as opened:
    return opened.metadata


@functools.lru_cache(maxsize=2)
def _group(
  path: str, stamp: tuple[int, float], number: int, image_key: str
) -> Any:
  """Reads the images of a row group: once, if rows are read in order."""
  if path.endswith(ARROW):
    return _arrow(path, stamp)[image_key]
  # Each call has a file of its own, as Grain reads with several threads.
  with _open(path, _metadata(path, stamp)) as opened:
    return opened.read_row_group(number, [image_key])[image_key]


def _read(
  places: Sequence[tuple[str, tuple[int, float], int]],
  ends: np.ndarray,
  image_key: str,
  image_size: int | None,
  labels: Sequence[int],
  ids: Sequence[str],
  index: int,
) -> Example:
  import pyarrow as pa

  group = int(np.searchsorted(ends, index, side="right"))
  start = int(ends[group - 1]) if group else 0
  name = f"The image {ids[index]!r} in {places[group][0]}"
  with image_files.reading(name, pa.ArrowException, TypeError):
    value = _group(*places[group], image_key)[index - start].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
      raise ValueError("it holds no bytes of a file, and may name one")
    pixels = image_files.decode(content, image_size, name=name)
  return {"image": pixels, "label": labels[index], "id": ids[index]}
