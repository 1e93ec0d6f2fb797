"""Times all but drawing: plans, shards and resuming of millions of images.

  python -m benchmarks.bookkeeping [--json FILE] [--images 4000000]

A generator that draws nothing (every image is the same pixel) fills shards of
a thousand, from a million prompts of two thousand classes. The rows measure the
rest of a run: start-up, the cost of an image as the numbers of prompts and
images grow, the memory, resuming a half-done task, and completing it.
Each case runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import json
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
    rows = []

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


CASES = {"write": write, "start": start, "half": half, "rest": rest}


class _Enough(Exception):
  """So many images were drawn."""


def _fill(args, stop_after: int | None) -> dict:
  import numpy as np

  from synthjax.data.generated import plan
  from synthjax.data.pipeline.codecs import encode_png
  from synthjax.generators import Generator
  from synthjax.prompts import strategies as texts
  from synthjax.runtime import artifacts
  from synthjax.tasks import generate

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
    written = generate.fill(
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
    artifacts.finish(folder, {"images": images}, written)
  return {
    "seconds": first - began if stop_after == 0 else ended - first,
    "completing": time.monotonic() - ended,
    "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
  }


if __name__ == "__main__":
  main()
