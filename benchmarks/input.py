"""Times the input pipeline of pre-training against PyTorch's DataLoader.

  python -m benchmarks.input [--json FILE] [--workers N]

From encoded images to batches of uint8: a random resized crop and a mirror, or
whole images for a device that crops, one or three copies of each. Ours reads
shards of JPEG, PNG and WebP; PyTorch's side reads the same bytes from one file
an image, with Pillow and the usual transform written out, as torchvision has
it. Before it come the stages alone: encoding, which a drawing pays, decoding
beside Pillow's, and decoding with crop and mirror. All run on one core, one
after the other in each round; the figures are the medians of the rounds.

The last rows are the share of its time that a device is at work, and does not
wait for its input: one of a stated rate, which is a clock and takes none of the
core, as a GPU would; and this core itself, on steps of ResNet-50.
"""

import argparse
import functools
import io
import itertools
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import devices, table, train
from benchmarks.devices import find_torch, limit_threads
from benchmarks.made_up import ImageFiles, picture
from benchmarks.timing import medians, medians_of
from synthjax.data.pipeline.rows import subset

QUALITY = {"jpeg": 90, "png": None, "webp": 90}
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
EPOCH = 65_536  # rows of either side, of the images over and over
Open = Callable[[], Iterator[Any]]  # starts reading anew


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  limit_threads(1)
  has_torch = find_torch(1)
  from absl import flags

  flags.FLAGS.mark_as_parsed()  # Grain's workers read them
  readers = f"{args.workers} workers" if args.workers else "the main process"
  device = f"CPU, 1 core, read by {readers}"
  kinds = [("jpeg", args.side), ("png", args.side), ("webp", args.side)]
  if args.large:
    kinds.append(("jpeg", args.large))
  rows, busy = [], []
  with tempfile.TemporaryDirectory() as folder:
    for image_format, side in kinds:
      where = pathlib.Path(folder) / f"{image_format}{side}"
      write(where, args.images, side, image_format)
      title = f"{image_format.upper()} {side} px"
      figures = stages(where / "files", image_format, args, has_torch)
      ways = {f"crop to {args.size}": (args.size, 1)}
      if (image_format, side) == kinds[0]:
        ways |= {"whole": (None, 1), "3 copies of the whole": (None, 3)}
      for way, (size, repeats) in ways.items():
        sides = sides_of(where, args, size, repeats, has_torch)
        measure = functools.partial(rate, args=args)
        figures[f"batches, {way}"] = in_turn(sides, measure, args.rounds)
        if (image_format, side) == kinds[0] and not busy:
          small = argparse.Namespace(**vars(args) | {"batch": args.step_batch})
          few = sides_of(where, small, size, repeats, has_torch)
          busy = busy_rows(sides, args, device)
          busy.append(step_row(few, small, device))
      rows += [
        row_of(f"{title}: {what}", "images/s per core", each, device)
        for what, each in figures.items()
      ]
    table.show(rows + busy, args.json)


def row_of(name: str, unit: str, figures: dict, device: str) -> dict[str, Any]:
  return table.row(
    name,
    unit,
    figures["ours"],
    figures.get("reference"),
    device=device,
    more_is_better=True,
  )


def busy_rows(
  sides: dict[str, Open], args: argparse.Namespace, device: str
) -> list[dict[str, Any]]:
  """Measures how much of its time a device of each rate is at work."""
  rows = []
  for device_rate in args.device_rates:
    measure = functools.partial(
      busy_share,
      step_seconds=args.batch / device_rate,
      num_steps=args.batches,
    )
    figures = in_turn(sides, measure, args.rounds)
    name = f"a device of {device_rate:g} images/s is at work"
    rows.append(row_of(name, "share of time", figures, device))
  return rows


def step_row(
  sides: dict[str, Open], args: argparse.Namespace, device: str
) -> dict[str, Any]:
  """Measures how much of its time this core is at work on real steps."""
  batch = train.make_batch(args.batch, args.size)
  step = train.our_step("resnet50", *batch, tiny=args.tiny)
  step.run()
  measure = functools.partial(step_share, run=step.run)
  figures = in_turn(sides, measure, args.rounds)
  name = f"training ResNet-50 here, batches of {args.batch}, is at work"
  return row_of(name, "share of time", figures, device)


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__, threads=False, tiny=True)
  add("workers", 0, "reading processes of each; 0 reads in the main one")
  add("rounds", 5, "of which the median is taken")
  add("images", 512, "of each format")
  add("side", 256, "px of the images")
  add("large", 1024, "px of large JPEGs; 0 leaves them out")
  add("size", 224, "px of the crops")
  add("batch", 256, "images in a batch")
  add("batches", 4, "in a round")
  add("step-batch", 8, "images of a real training step")
  flags.add_argument(
    "--device-rates",
    type=float,
    nargs="*",
    default=(400.0, 800.0),
    help="images/s of the device that waits (400 800)",
  )
  return flags


def stages(
  folder: pathlib.Path,
  image_format: str,
  args: argparse.Namespace,
  has_torch: bool,
) -> dict[str, dict[str, float]]:
  """Returns the images/s of the parts that make up reading, and of encoding."""
  from synthjax.data.pipeline import codecs, host_augment

  files = [path.read_bytes() for path in sorted(folder.iterdir())[:16]]
  pictures = [codecs.decode_image(data) for data in files]
  views = host_augment.transforms("photo", image_size=args.size, num_classes=1)
  rng = np.random.default_rng(0)

  def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
      return np.asarray(image.convert("RGB"))

  def view(data):
    row = {"encoded": data, "label": 0}
    for transform in views:
      row = transform(row, rng)

  def torch_view(data):
    torch_example(Image.open(io.BytesIO(data)).convert("RGB"), args.size)

  encode = functools.partial(
    codecs.encode, image_format=image_format, quality=QUALITY[image_format]
  )
  functions = {
    "encode": {"ours": (encode, pictures)},
    "decode, against Pillow": {
      "ours": (codecs.decode_image, files),
      "reference": (by_pillow, files),
    },
    "decode, crop and mirror": {"ours": (view, files)},
  }
  if has_torch:
    functions["decode, crop and mirror"]["reference"] = (torch_view, files)
  figures = {}
  for what, sides in functions.items():
    calls = {
      name: lambda function=function, items=items: [*map(function, items)]
      for name, (function, items) in sides.items()
    }
    seconds = medians(calls, args.rounds, time.process_time)
    figures[what] = {name: len(files) / s for name, s in seconds.items()}
  return figures


def write(
  folder: pathlib.Path, images: int, side: int, image_format: str
) -> None:
  """Writes images as a shard and as files; of 64 pictures, over and over."""
  from synthjax.data.generated import shards
  from synthjax.data.pipeline import codecs

  rng = np.random.default_rng(0)
  pictures = [
    codecs.encode(
      picture(rng, side),
      image_format=image_format,
      quality=QUALITY[image_format],
    )
    for _ in range(min(images, 64))
  ]
  files = list(itertools.islice(itertools.cycle(pictures), images))
  (folder / "files").mkdir(parents=True)
  for i, data in enumerate(files):
    (folder / "files" / f"{i:05d}.{image_format}").write_bytes(data)
  rows = (
    {"image": [i], "label": 0, "prompt": "", "seed": 0, "id": str(i)}
    for i in range(images)
  )
  shards.write_shard(
    folder / "shards", 0, 1, rows, encode=lambda image: files[image[0]]
  )


# --- the two sides ----------------------------------------------------------


def sides_of(
  folder: pathlib.Path,
  args: argparse.Namespace,
  size: int | None,
  repeats: int,
  has_torch: bool,
) -> dict[str, Open]:
  """Returns both sides; `size` of the crops is None for whole images."""
  start = lambda side, name: functools.partial(
    side, folder / name, args, size=size, repeats=repeats
  )
  sides = {"ours": start(ours, "shards")}
  if has_torch:
    sides["reference"] = start(reference, "files")
  return sides


def ours(
  folder: pathlib.Path,
  args: argparse.Namespace,
  *,
  size: int | None,
  repeats: int = 1,
) -> Iterator[Any]:
  """Reads batches of uint8 [n, h, w, 3]."""
  from synthjax.data.generated import shards
  from synthjax.data.pipeline import host_augment
  from synthjax.data.pipeline import loader as pipeline

  source = shards.open_shards(folder, decode=False)
  # Grain takes longer to shuffle a few rows than many.
  rows = np.arange(max(EPOCH, len(source))) % len(source)
  batches = pipeline.train_batches(
    subset(source, rows),
    host_augment.transforms(
      "photo" if size else "none", image_size=size or args.side, num_classes=1
    ),
    batch_size=args.batch,
    seed=0,
    num_workers=args.workers,
    repeats=repeats,
  )
  return iter(batches)


def reference(
  folder: pathlib.Path,
  args: argparse.Namespace,
  *,
  size: int | None,
  repeats: int = 1,
) -> Iterator[Any]:
  """Reads batches of uint8 [n, 3, h, w].

  It decodes each copy of an image, as DeiT's sampler of indices has it.
  """
  import torch

  files = sorted(folder.iterdir())
  files = files * max(1, EPOCH // len(files))
  order = torch.randperm(len(files))
  loader = torch.utils.data.DataLoader(
    ImageFiles(files, functools.partial(torch_example, size=size)),
    batch_size=args.batch,
    sampler=[i for i in order.tolist() for _ in range(repeats)],
    num_workers=args.workers,
    drop_last=True,
  )
  return iter(loader)


def torch_example(image: Image.Image, size: int | None) -> tuple[Any, int]:
  """Crops and mirrors at random: uint8 [3, size, size], and a label.

  Without a size, the image stays as it is.
  """
  import torch

  if size:
    image = torch_crop(image, size)
    if torch.rand(1) < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
  pixels = torch.from_numpy(np.array(image))
  return pixels.permute(2, 0, 1).contiguous(), 0


def torch_crop(image: Image.Image, size: int) -> Image.Image:
  """Cuts out a random rectangle and resizes it; of the whole if none fits."""
  import torch

  w, h = image.size
  for _ in range(10):
    area = w * h * torch.empty(1).uniform_(*SCALE).item()
    logs = torch.empty(1).uniform_(*map(math.log, RATIO))
    ratio = torch.exp(logs).item()
    width = round(math.sqrt(area * ratio))
    height = round(math.sqrt(area / ratio))
    if 0 < width <= w and 0 < height <= h:
      y = torch.randint(0, h - height + 1, (1,)).item()
      x = torch.randint(0, w - width + 1, (1,)).item()
      image = image.crop((x, y, x + width, y + height))
      break
  return image.resize((size, size), Image.Resampling.BILINEAR)


# --- measuring --------------------------------------------------------------


def in_turn(
  sides: dict[str, Open],
  measure: Callable[[Iterator[Any]], float],
  rounds: int,
) -> dict[str, float]:
  """Measures the batches of all sides in turn; returns the medians."""
  return medians_of(
    {
      name: functools.partial(measured, start, measure)
      for name, start in sides.items()
    },
    rounds,
  )


def measured(start: Open, measure: Callable[[Iterator[Any]], float]) -> float:
  """Starts reading, and measures it from the second batch on."""
  batches = start()
  next(batches)  # the first one includes what is slow once
  value = measure(batches)
  if hasattr(batches, "close"):
    batches.close()
  return value


def rate(batches: Iterator[Any], args: argparse.Namespace) -> float:
  """Returns the images/s of one core: by its time where nothing else reads.

  So other work on the machine counts for neither side.
  """
  clock = time.perf_counter if args.workers else time.process_time
  began = clock()
  for _ in range(args.batches):
    next(batches)
  return args.batches * args.batch / (clock() - began)


def busy_share(
  batches: Iterator[Any], *, step_seconds: float, num_steps: int
) -> float:
  """Returns the share of time in which a device has a step to run.

  It is given a step with each batch and answers at once, as JAX does; the
  host runs at most one step ahead of it.
  """
  began = free = time.perf_counter()
  for _ in range(num_steps):
    next(batches)
    now = time.perf_counter()
    free = max(free, now) + step_seconds
    time.sleep(max(0.0, free - step_seconds - now))
  return num_steps * step_seconds / (free - began)


def step_share(batches: Iterator[Any], *, run: Callable[[], Any]) -> float:
  """Returns the share of time in a step that runs after each of two batches."""
  began, worked = time.perf_counter(), 0.0
  for _ in range(2):
    next(batches)
    start = time.perf_counter()
    run()
    worked += time.perf_counter() - start
  return worked / (time.perf_counter() - began)


if __name__ == "__main__":
  main()
