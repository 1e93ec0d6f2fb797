"""Every reader of files meets damaged ones, and small ones that ask for much.

SYNTHJAX_HOSTILE_FILES sets how many damaged files each reader gets.
"""

import gzip
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from synthjax.data.formats import parquet, webdataset
from synthjax.data.generated import scores
from synthjax.data.real import coop_splits
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError
from synthjax.tokenizers import bpe
from synthjax.weights import read

pytestmark = pytest.mark.faults

COUNT = os.environ.get("SYNTHJAX_HOSTILE_FILES", "12")
SCRIPT = pathlib.Path(__file__).parent / "hostile_files.py"


@pytest.mark.slow
def test_damaged_files_are_read_or_refused():
  """In processes of bounded memory, each file in bounded time."""
  command = [sys.executable, str(SCRIPT), COUNT]
  output = subprocess.run(command, capture_output=True, text=True, check=False)
  table = json.loads(output.stdout)
  faults = {name: row["faults"] for name, row in table.items() if row["faults"]}
  assert not faults
  assert len(table) > 30
  for name, row in table.items():
    assert row["refused"] + row["read"] == int(COUNT), name
    assert row["megabytes"] < 1024, name


# --- small files that ask for much -------------------------------------------


def overlapping(folder):
  """Reads 1 MB of which a thousand arrays would make 1 GB."""
  size, names = 1 << 20, map(str, range(1000))
  entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
  header = json.dumps(dict.fromkeys(names, entry)).encode()
  path = folder / "w.safetensors"
  path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
  read.read_weights(path)


def packed_vocabulary(folder):
  path = folder / "vocab.bpe"
  path.write_bytes(gzip.compress(bytes(200 << 20), 1))
  bpe._read_merges(path)


def anchors(folder):
  """Reads ten lines of nine of the line before, 3,486,784,401 words."""
  lines = ["x0: &x0 [a]"]
  for i in range(1, 11):
    lines.append(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]")
  path = folder / "a.yaml"
  path.write_text("\n".join([*lines, "classes: *x10"]))
  spaces.load_space(str(path))


def endless_anchor(folder):
  path = folder / "a.yaml"
  path.write_text("classes: &a [*a, *a]")
  spaces.load_space(str(path))


def deep(folder, ending="json"):
  path = folder / f"a.{ending}"
  path.write_text("[" * 100_000)
  spaces.load_space(str(path))


def shared_list(folder):
  """Reads a draw whose thousand splits are one list."""
  rows = [1] * 1000
  path = folder / "draw.pkl"
  path.write_bytes(pickle.dumps({str(i): rows for i in range(1000)}))
  coop_splits.read_split(path, "train")


def terabyte(folder, name, kind=tarfile.REGTYPE):
  member = tarfile.TarInfo(name)
  member.size, member.type = 1 << 40, kind
  path = folder / "a.tar"
  path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
  webdataset.open_webdataset(path)


def many_rows(folder):
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  zeros = pa.array(np.zeros(2_000_000, np.int8))
  path = folder / "a.parquet"
  pq.write_table(pa.table({"image": zeros, "label": zeros}), path)
  assert path.stat().st_size < 200_000
  parquet.open_parquet(path)


def packed_scores(folder):
  path = folder / "a.npz"
  np.savez_compressed(path, p=np.zeros(200 << 20, np.uint8))
  scores.read_arrays(path, ["p"])


def long_claim(folder):
  """Reads an npz whose array claims a terabyte."""
  content = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    content, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40,)}
  )
  with zipfile.ZipFile(folder / "a.npz", "w") as archive:
    archive.writestr("p.npy", content.getvalue())
  scores.read_arrays(folder / "a.npz", ["p"])


SMALL = {
  "safetensors": (overlapping, "share bytes"),
  "gzip": (packed_vocabulary, "more than 67,108,864 bytes"),
  "YAML": (anchors, "more than 1,000,000 values"),
  "YAML without end": (endless_anchor, "more than 1,000,000 values"),
  "deep JSON": (deep, "nested too deeply"),
  "deep YAML": (lambda f: deep(f, "yaml"), "a.yaml"),
  "CoOp": (shared_list, "one list for several splits"),
  "tar": (lambda f: terabyte(f, "0.json"), "cut short"),
  "tar's image": (lambda f: terabyte(f, "0.png"), "cut short"),
  "tar's name": (lambda f: terabyte(f, "x", b"L"), "cut short"),
  "tar's header": (lambda f: terabyte(f, "x", b"x"), "cut short"),
  "parquet": (many_rows, "2,000,000 rows in"),
  "npz": (packed_scores, "are allowed"),
  "npz's header": (long_claim, "a.npz cannot be read"),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_takes_little(name, tmp_path):
  ask, words = SMALL[name]
  began = time.monotonic()
  tracemalloc.start()
  try:
    with pytest.raises(UserError, match=words):
      ask(tmp_path)
    _, most = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert most < 700 << 20  # of which the test itself makes some
  assert time.monotonic() - began < 30


def test_anchors_that_repeat_little_are_fine(tmp_path):
  path = tmp_path / "a.yaml"
  path.write_text(
    "classes:\n- {name: dog, related: &r [tame]}\n- {name: cat, related: *r}\n"
  )
  space = spaces.load_space(str(path))
  assert [c.related for c in space.classes] == [("tame",), ("tame",)]


def test_a_text_of_many_rows_takes_its_memory_once(tmp_path):
  """20 kB, whose ids written out are 13 GB."""
  pa = pytest.importorskip("pyarrow")
  import pyarrow.parquet as pq

  rows, where = 50_000, pa.array(np.zeros(50_000, np.int32))
  ids = pa.DictionaryArray.from_arrays(where, pa.array(["x" * (1 << 18)]))
  image = pa.array([{"bytes": b""}]).take(where)
  table = pa.table({"image": image, "label": where, "id": ids})
  pq.write_table(table, tmp_path / "a.parquet")
  source = parquet.open_parquet(tmp_path)
  assert len(source) == rows
  assert source.labels.sum() == 0
