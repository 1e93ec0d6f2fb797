"""Parquet files that Hugging Face's `datasets` opens as images and classes.

`datasets.load_dataset("parquet", data_dir=...)` finds Image() and ClassLabel
features, as the schema's metadata describes them. Columns: image (a struct of
bytes and path), label, id, prompt, seed. The same rows give the same bytes, by
one version of pyarrow; `pip install "synthjax[parquet]"` has it. `parquet_read`
opens them.
"""

import importlib.util
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from synthjax.artifacts import replace
from synthjax.data.exports import parts, safe_names, stored
from synthjax.data.rows import Example
from synthjax.errors import UserError

# A reader that wants one row reads all of its group.
GROUP = 32


def check_installed() -> None:
  """Raises a UserError if pyarrow is not there."""
  if importlib.util.find_spec("pyarrow") is None:
    raise UserError(
      "Parquet files need pyarrow, which is not installed: "
      'pip install "synthjax[parquet]".'
    )


def write(
  folder: epath.PathLike,
  rows: Sequence[Example],
  names: Sequence[str],
  *,
  split: str,
  shard_size: int,
) -> dict[str, int]:
  """Writes Parquet files in `data`; those that are there already stay.

  Args:
    folder: local or gs://.
    rows: of `stored.rows`.
    names: of the classes, by label; no two alike.
    split: of the data set.
    shard_size: images of a file.

  Returns:
    The rows of each file, for the manifest.

  Raises:
    UserError: about a label without a name, or if pyarrow is not there.
  """
  check_installed()
  import pyarrow as pa
  import pyarrow.parquet as pq

  folder, written, schema = epath.Path(folder), {}, _schema(names)
  plan = parts.plan(len(rows), shard_size, split=split, ending=".parquet")
  for file, numbers in plan:
    file = f"data/{file}"
    written[file] = len(numbers)
    if (folder / file).exists():
      continue
    with (
      replace(folder, file) as path,
      # Images are compressed already, and no two are alike.
      pq.ParquetWriter(
        path,
        schema,
        compression="NONE",
        use_dictionary=["label", "prompt", "seed"],
        write_statistics=["label", "id", "seed"],
      ) as writer,
    ):
      for start in range(numbers.start, numbers.stop, GROUP):
        group = range(start, min(start + GROUP, numbers.stop))
        records = [_record(rows[i], names) for i in group]
        table = pa.Table.from_pylist(records, schema=schema)
        writer.write_table(table, row_group_size=GROUP)
  return written


def _schema(names: Sequence[str]) -> Any:
  import pyarrow as pa

  value = lambda dtype: {"dtype": dtype, "_type": "Value"}
  features = {
    "image": {"_type": "Image"},
    "label": {"names": list(names), "_type": "ClassLabel"},
    "id": value("string"),
    "prompt": value("string"),
    "seed": value("int64"),
  }
  columns = {
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "label": pa.int64(),
    "id": pa.string(),
    "prompt": pa.string(),
    "seed": pa.int64(),
  }
  info = json.dumps({"info": {"features": features}}, ensure_ascii=False)
  return pa.schema(columns).with_metadata({"huggingface": info})


def _record(row: Example, names: Sequence[str]) -> dict[str, Any]:
  stored.class_of(row, names)
  ending = stored.ending_of(row["encoded"])
  file = f"{safe_names.key_of(row['id'])}.{ending}"
  return {
    "image": {"bytes": row["encoded"], "path": file},
    **{name: row[name] for name in ("label", "id", "prompt", "seed")},
  }
