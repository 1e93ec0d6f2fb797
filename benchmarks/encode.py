"""Times CLIP's encoding of images against PyTorch, alone and from PNG files.

  python -m benchmarks.encode [--json FILE] [--only rn50|vit_b16] [--batch N]

Alone: batches of uint8 images at 224 px become features, which are copied to
the host; the images lie on the device. The weights are random. All is float32
on a CPU; on a GPU bfloat16, and PyTorch's float16, as released. PyTorch's ViT
is that of transformers. Its towers run as they are and, where that works,
through torch.compile.

From files: the task `score` reads shards of PNG images of 256 px, resizes and
encodes them and writes scores; PyTorch reads one file an image, by a DataLoader
of as many workers as there are cores. The clock starts when both are warm. A
second row has the share of that time which encoding alone would take; in the
rest of it the device waits for the host.

Both sides take turns, so that other work on the machine slows both; the figures
are the medians of the rounds, with one thread of a CPU (--threads 1) and
without files of the process's own time.
"""

import argparse
import itertools
import os
import pathlib
import shutil
import tempfile
import time
from functools import partial
from typing import Any

import numpy as np

from benchmarks import devices, encoder_inputs, table
from benchmarks.made_up import fill
from benchmarks.timing import Compiled, compile_timed, medians, medians_of

SHOWN = {"rn50": "CLIP RN50", "vit_b16": "CLIP ViT-B/16"}
WARM = 2  # shards, or as many images of PyTorch's, before the clock starts


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  device, has_torch = devices.set_up(args.threads)
  on_cpu = device.startswith("CPU")
  args.batch = args.batch or (16 if on_cpu else 256)
  args.images = args.images or (64 if on_cpu else 1024)
  args.dtype = "float32" if on_cpu else "bfloat16"
  if args.workers is None:
    args.workers = len(os.sched_getaffinity(0))
  args.peaks = devices.peaks_of(
    device, has_torch, peak=args.peak, side=args.matmul
  )
  rows = []
  for name in [args.only] if args.only else SHOWN:
    rows += model_rows(name, args, device, has_torch)
  table.show(rows, args.json)


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__, tiny=True, peak=True)
  flags.add_argument("--only", choices=sorted(SHOWN), help="one model")
  flags.add_argument(
    "--workers", type=int, help="of PyTorch's that read (one for each core)"
  )
  add("rounds", 3, "of which the median is taken")
  add("batch", 0, "images encoded at once; 0 is 256, on a CPU 16")
  add("side", 256, "px of the files")
  add("shards", 5, "of files; 0 leaves them out")
  add("images", 0, "in a shard; 0 is 1024, on a CPU 64")
  return flags


def model_rows(name: str, args, device: str, has_torch: bool) -> list[dict]:
  """Times a model; returns the rows."""
  fields = encoder_inputs.fields_of(name, args.tiny)
  size = fields["image_size"]
  images = np.random.default_rng(0).integers(
    0, 256, (args.batch, size, size, 3), np.uint8
  )
  ours = our_encoder(fields, images, args.dtype)
  timed, theirs = {"ours": ours.run}, None
  if has_torch:
    import torch

    from benchmarks import torch_clip, torch_timing

    theirs = torch_clip.make_encoders(fields, images, compiled=not args.eager)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch_timing.place())
    timed |= {way: partial(encode, x) for way, encode in theirs.runs.items()}
  seconds = medians(timed, args.rounds, devices.clock_of(device))
  rates = {way: args.batch / s for way, s in seconds.items()}
  title = f"{SHOWN[name]}, {size} px, batch {args.batch}, {args.dtype}"
  row = table.titled(title, device)
  rows = [
    *table.rows_against(
      row, "encoding", "images/s", rates, more_is_better=True
    ),
    *devices.speed_rows(
      row,
      (ours.flops, theirs and theirs.flops),
      rates,
      batch=args.batch,
      peaks=args.peaks,
    ),
    row("compiling", "s", ours.seconds, None),
    row(
      "peak memory",
      "GiB",
      table.gib(ours.peak_bytes),
      theirs and table.gib(theirs.peak_bytes),
    ),
  ]
  if args.shards:
    best = max(theirs.runs, key=rates.get) if theirs else None
    encode = theirs and theirs.runs[best]
    from_files = time_files(fields, args, encode)
    figures = from_files["ours"], from_files.get("theirs")
    what = f"from PNG of {args.side} px to scores"
    rows.append(row(what, "images/s", *figures, more_is_better=True))
    shares = [
      None if rate is None else 100 * rate / rates[way]
      for rate, way in zip(figures, ("ours", best), strict=True)
    ]
    what = f"{what}: not waiting for the host"
    rows.append(row(what, "% of time", *shares, more_is_better=True))
  return rows


def our_encoder(fields: dict, images: np.ndarray, dtype: str) -> Compiled:
  """Compiles our image tower; a run brings the features here."""
  import jax

  from synthjax.adapt import encoder_tuning as towers
  from synthjax.models.clip import model as clip

  whole = clip.CLIP(**fields, dtype=jax.numpy.dtype(dtype))
  module = clip.make_image_tower(whole)
  like = jax.eval_shape(
    module.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct(images.shape, jax.numpy.float32),
  )
  variables, images = jax.device_put((fill(like), images))
  tower = towers.Tower(module, variables, whole.image_size)
  encode = lambda variables, x: towers.encode(tower, variables, x, False)[0]
  compiled = compile_timed(jax.jit(encode), variables, images)
  return compiled._replace(
    run=lambda: np.asarray(compiled.run(variables, images))
  )


# --- from files -------------------------------------------------------------


def time_files(fields: dict, args, encode: Any) -> dict[str, float]:
  """Returns the images/s of both sides, from files to scores or features."""
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    encoder_inputs.write_images(folder, args)
    config = encoder_inputs.write_encoder(folder, fields, args)
    sides = {"ours": lambda: our_rate(folder, config, args)}
    if encode:
      size = fields["image_size"]
      sides["theirs"] = lambda: their_rate(folder, size, encode, args)
    return medians_of(sides, args.rounds)


def our_rate(folder: pathlib.Path, config: Any, args) -> float:
  """Scores all shards; returns the images/s after the first ones."""
  from synthjax.tasks import score

  score.run(config, str(folder))
  parts = (folder / "score").glob("scores-*.npz")
  written = sorted(part.stat().st_mtime for part in parts)
  shutil.rmtree(folder / "score")
  count = (args.shards - WARM) * args.images
  return count / (written[-1] - written[WARM - 1])


def their_rate(folder: pathlib.Path, size: int, encode: Any, args) -> float:
  """Encodes all files; returns the images/s after the first ones."""
  from benchmarks import torch_clip

  batches = iter(
    torch_clip.read(
      folder / "files",
      size=size,
      batch_size=args.batch,
      num_workers=args.workers,
    )
  )
  for images in itertools.islice(batches, WARM * args.images // args.batch):
    encode(images)
  began, count = time.perf_counter(), 0
  for images in batches:
    encode(images)
    count += len(images)
  return count / (time.perf_counter() - began)


if __name__ == "__main__":
  main()
