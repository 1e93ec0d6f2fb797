"""Times all but drawing: plans, shards and resuming of millions of images.

  python -m benchmarks.bookkeeping [--json FILE] [--images 4000000]

A generator that draws nothing (every image is the same pixel) fills shards of
a thousand, from a million prompts of two thousand classes. The rows measure the
rest of a run: start-up, the cost of an image as the numbers of prompts and
images grow, the memory, resuming a half-done task, and completing it; then what
comes after: scores are made up, and opening, select, card, report and exports
read them. The last rows say with which power of the number of images a time or
a memory grows from each size to the next. Each case runs in a process of its
own, so that its peak memory is its own.
"""

import argparse
import itertools
import json
import math
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

CLASSES = 2000
BATCH = 250


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  if args.case:
    return print(json.dumps(CASES[args.case](args)))
  from benchmarks import table

  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    rows, measured = [], {}

    def add(name, unit, value):
      rows.append(table.row(name, unit, value, None, device="CPU"))

    for prompts, images in args.sizes:
      at = pathlib.Path(folder) / f"{prompts}-{images}"
      what = f"{prompts:,} prompts, {images:,} images"
      run = lambda case, at=at, sizes=(prompts, images): _run(case, at, *sizes)
      run("write")
      result = run("start")
      add(f"{what}: start-up", "s", result["seconds"])
      result = run("half")
      add(f"{what}: cost of an image", "us", result["seconds"] / images * 2e6)
      add(f"{what}: peak memory", "MB", result["megabytes"])
      result = run("start")
      add(f"{what}: start-up with half of it there", "s", result["seconds"])
      result = run("rest")
      cost = result["seconds"] / images * 2e6
      add(f"{what}: cost of an image, resumed", "us", cost)
      add(f"{what}: peak memory, resumed", "MB", result["megabytes"])
      add(f"{what}: completing", "s", result["completing"])
      run("score")
      for case in AFTER:
        result = run(case)
        measured[images, case] = result
        add(f"{what}: {case}", "s", result["seconds"])
        add(f"{what}: {case}, peak memory", "MB", result["megabytes"])
        add(f"{what}: {case}, read", "MB", result["read"])
    sizes = [images for _, images in args.sizes]
    for few, many in itertools.pairwise(sizes):
      for case, unit in itertools.product(AFTER, ("seconds", "megabytes")):
        growth = measured[many, case][unit] / measured[few, case][unit]
        name = f"{few:,} to {many:,} images: power of {case}, {unit}"
        add(name, "", math.log(growth) / math.log(many / few))
  table.show(rows, args.json)


def parser() -> argparse.ArgumentParser:
  flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  flags.add_argument("--json", help="file to write the rows to")
  flags.add_argument("--folder", help="for the shards; a temporary one")
  flags.add_argument(
    "--sizes",
    type=_sizes,
    default="1000x100000,1000000x1000000,1000000x4000000",
    help="PROMPTSxIMAGES, with commas between (%(default)s)",
  )
  flags.add_argument("--case", choices=sorted(CASES), help=argparse.SUPPRESS)
  flags.add_argument("--at", help=argparse.SUPPRESS)
  return flags


def _sizes(text: str) -> list[tuple[int, int]]:
  return [tuple(map(int, one.split("x"))) for one in text.split(",")]


def _run(case: str, at: pathlib.Path, prompts: int, images: int) -> dict:
  """Runs a case in another process."""
  command = [sys.executable, "-m", "benchmarks.bookkeeping", "--case", case]
  command += ["--at", str(at), "--sizes", f"{prompts}x{images}"]
  done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
  return json.loads(done.stdout.splitlines()[-1])


# --- the cases --------------------------------------------------------------


def write(args) -> dict:
  """Leaves the prompts, as the task does."""
  from synthjax.prompts import strategies as texts
  from synthjax.runtime import artifacts

  [(count, _)] = args.sizes
  classes = min(CLASSES, count)
  rows = [
    texts.Prompt(
      f"enhanced-{label}-{i}",
      label,
      f"class {label}",
      f"a photo of the class {label} beside thing number {i}",
      "enhanced",
    )
    for label in range(classes)
    for i in range(count // classes)
  ]
  folder = pathlib.Path(args.at) / "prompts"
  artifacts.begin(folder, {})
  texts.write(folder, rows)
  artifacts.finish(folder, {}, {texts.FILE: len(rows)})
  return {}


def start(args) -> dict:
  """Opens the prompts, finds the shards that are there, draws one batch."""
  return _fill(args, stop_after=0)


def half(args) -> dict:
  [(_, images)] = args.sizes
  return _fill(args, stop_after=images // 2)


def rest(args) -> dict:
  return _fill(args, stop_after=None)


# --- what comes after drawing -------------------------------------------------

WIDTH = 512  # of features
STUB_CLASSES = 8  # of probabilities, which only `score` reads


def score(args) -> dict:
  """Makes up the scores of each shard."""
  import numpy as np

  from synthjax.data.generated import scores, shards
  from synthjax.runtime import artifacts
  from synthjax.tasks.score import shards_of

  images, folder = (pathlib.Path(args.at) / n for n in ("generate", "score"))
  drawn = shards_of(images)
  index = shards.read_index(images, sum(shard.rows for shard in drawn.values()))
  rng, written, start = np.random.default_rng(0), {}, 0
  artifacts.begin(folder, {})
  for name, (_, size, digest) in drawn.items():
    rows = slice(start, start + size)
    start += size
    made = scores.Scores(
      index["id"][rows].astype(str),
      index["label"][rows].astype(np.int32),
      rng.normal(size=(size, WIDTH)).astype(np.float16),
      np.zeros((size, STUB_CLASSES), np.float16),
      rng.random(size, np.float32),
    )
    scores.write_part(folder, name, made, digest)
    written[name] = size
  artifacts.finish(folder, {}, written)
  return {}


def open_images(folder: pathlib.Path) -> None:
  """Opens a finished set, and those that a selection kept."""
  from synthjax.data.generated import drawn_images
  from synthjax.runtime import artifacts

  for task in ("generate", "score", "select"):
    spec = artifacts.load(folder / task)["spec"]
    assert artifacts.begin(folder / task, spec)
  drawn_images.open_run(folder, kept=True)


def select(folder: pathlib.Path) -> None:
  from synthjax.data.generated import drawn_images, filters, scores
  from synthjax.runtime import artifacts

  columns = ("ids", "labels", "p_own")
  scored = scores.read(folder / "score", columns, ids_on_disk=True)
  names = [f"class {i}" for i in range(int(scored.labels.max()) + 1)]
  chosen = filters.select(scored, class_names=names, share=0.5, seed=0)
  digest = artifacts.digest(folder / "score")
  artifacts.begin(folder / "select", {"scores": digest})
  filters.write(folder / "select", scored, chosen)
  rows = {drawn_images.SELECTION: len(scored.ids)}
  artifacts.finish(folder / "select", {"scores": digest}, rows)


def card(folder: pathlib.Path) -> None:
  """Makes the figures of a card, near duplicates by FAISS if it is there."""
  import numpy as np
  from etils import epath

  from synthjax.labels import spaces
  from synthjax.report.card import figures
  from synthjax.tasks import card

  classes = min(CLASSES, 1 + _largest_label(folder))
  space = spaces.load_space([f"class {i}" for i in range(classes)])
  (folder / "card").mkdir()
  drawn, all_features = card._open_drawn(
    epath.Path(folder),
    epath.Path(folder / "card"),
    card.Card(),
    space,
    ("generate", "score", "select"),
    0,
  )
  rng = np.random.default_rng(0)
  figures.quality(
    drawn,
    None,
    encode_texts=lambda texts: rng.normal(size=(len(texts), WIDTH)),
    class_texts=rng.normal(size=(classes, WIDTH)).astype(np.float32),
    neighbours=5,
  )
  figures.duplicates(drawn, threshold=0.95, limit=8, all_features=all_features)


def _largest_label(folder: pathlib.Path) -> int:
  from synthjax.data.generated import tables
  from synthjax.data.generated.shards import INDEX

  return int(tables.read(folder / "generate" / INDEX, ["label"])["label"].max())


def report(folder: pathlib.Path) -> None:
  from ml_collections import ConfigDict

  from synthjax.tasks import report as task

  task.run(ConfigDict({"tasks": ("report",)}), str(folder))


def webdataset(folder: pathlib.Path) -> None:
  _export(folder, "webdataset", shard_size=1000)


def png_folder(folder: pathlib.Path) -> None:
  keys = [f"class {i}" for i in range(1 + _largest_label(folder))]
  from synthjax.data.formats.png_folder import lists

  _export(folder, "png_folder", keys=keys, lists=lists("train"))


def verify(folder: pathlib.Path) -> None:
  """Checks what `png_folder` wrote."""
  from synthjax import verify

  assert not verify.check(folder / "export" / "png_folder")


def begin(folder: pathlib.Path) -> None:
  """Begins that export again, which is complete."""
  from synthjax.runtime import artifacts

  assert artifacts.begin(folder / "export" / "png_folder", {})


def _export(folder: pathlib.Path, name: str, lists=(), **more) -> None:
  import importlib

  from synthjax.data.formats import export_rows
  from synthjax.data.generated import drawn_images
  from synthjax.runtime import artifacts

  write = importlib.import_module(f"synthjax.data.formats.{name}").write
  names = [f"class {i}" for i in range(1 + _largest_label(folder))]
  source = drawn_images.open_run(folder, decode=False)
  rows = export_rows.rows(source, encoding={})
  to = folder / "export" / name
  artifacts.begin(to, {})
  written = write(to, rows, names, split="train", **more)
  artifacts.finish(to, {}, written, lists=lists)


def _measured(function) -> dict:
  """Returns what a function took of time, memory and reading."""

  def run(args):
    began = time.monotonic()
    function(pathlib.Path(args.at))
    counts = pathlib.Path("/proc/self/io")
    text = counts.read_text() if counts.exists() else "rchar: 0"
    return {
      "seconds": time.monotonic() - began,
      "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
      "read": int(text.split()[1]) / 1e6,
    }

  return run


AFTER = {
  "report without a selection": _measured(report),
  "select": _measured(select),
  "open": _measured(open_images),
  "card": _measured(card),
  "report": _measured(report),
  "webdataset": _measured(webdataset),
  "png_folder": _measured(png_folder),
  "png_folder, begun again": _measured(begin),
  "png_folder, verified": _measured(verify),
}
CASES = {"write": write, "start": start, "half": half, "rest": rest}
CASES |= {"score": score} | AFTER


class _Enough(Exception):
  """So many images were drawn."""


def _fill(args, stop_after: int | None) -> dict:
  import numpy as np

  from synthjax.data.generated import plan, shards
  from synthjax.data.pipeline.codecs import encode_png
  from synthjax.generators import Generator, filling
  from synthjax.prompts import strategies as texts
  from synthjax.runtime import artifacts

  [(count, images)] = args.sizes
  folder = pathlib.Path(args.at) / "generate"
  began, first = time.monotonic(), None
  artifacts.begin(folder, {"images": images})
  prompts = texts.open_prompts(folder.parent / "prompts" / texts.FILE)
  num_classes = sum(map(len, prompts.groups.values()))
  rows = plan.rows_of(
    plan.plan(prompts, seeds=(0,), images_per_class=images // num_classes)
  )
  drawn = 0

  def stream(prompts, rngs):
    nonlocal first, drawn
    first = first or time.monotonic()
    for i in range(0, len(prompts), BATCH):
      if stop_after is not None and drawn >= stop_after:
        raise _Enough
      n = len(prompts[i : i + BATCH])
      drawn += n
      yield np.zeros((n, 1, 1, 3), np.uint8)

  try:
    written = filling.fill(
      folder,
      rows,
      Generator(
        stream=stream,
        batch_size=BATCH,
        image_size=1,
        reference_size=1,
        num_steps=1,
        identity={},
      ),
      name="nothing",
      shard_size=1000,
      encode=encode_png,
    )
  except _Enough:
    written = None
  ended = time.monotonic()
  if written:
    written |= shards.write_index(folder, rows)
    artifacts.finish(folder, {"images": images}, written)
  return {
    "seconds": first - began if stop_after == 0 else ended - first,
    "completing": time.monotonic() - ended,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
  }


if __name__ == "__main__":
  main()
