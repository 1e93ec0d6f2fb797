"""Times Faster R-CNN R50-C4 at the shapes of PASCAL VOC against PyTorch.

  python -m benchmarks.detect [--json FILE] [--short-side N] [--batch N]
    [--steps N] [--only train|inference|parts]

Images, boxes and weights are made up. A training step goes from uint8 images to
moved weights, an inference from them to detections: float32 on a CPU, on a GPU
bfloat16 (PyTorch: autocast) with float32 parameters. The parts without
parameters, proposals with their suppression and RoIAlign, are timed alone too,
as shares of a step. Both sides take turns after compilation, so that other work
on the machine slows both; the figures are the medians of the steps.

Most of a step's FLOPs are the head's, which sees every region. So a CPU's
default has fewer regions and smaller images, as the names of the rows say. An
inference has twice as many regions as a training step, at most 1,000.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks import devices, table
from benchmarks.detection_inputs import (
  NUM_CLASSES,
  ROI_SIZE,
  STRIDE,
  Parts,
  epoch_of_voc,
  make_batch,
  make_options,
  make_parts,
  make_sizes,
)
from benchmarks.timing import Compiled, compile_timed, medians

SGD = dict(name="sgd", weight_decay=1e-4, lr=1e-3)

# Parts without parameters, and the runs of which their times are shares.
PARTS = {
  "proposals of training": "train",
  "proposals of inference": "inference",
  "RoIAlign, forward": "train",
  "RoIAlign, forward and backward": "train",
}
SIDES = ("ours", "theirs")
STEPS = {"train": "a training step", "inference": "an inference"}

Run = Callable[[], Any]


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  device, has_torch = devices.set_up(args.threads)
  on_cpu = device.startswith("CPU")
  args.short_side = args.short_side or (320 if on_cpu else 800)
  args.batch = args.batch or (1 if on_cpu else 2)
  args.regions = args.regions or (64 if on_cpu else 512)
  table.show(measure(args, device, has_torch), args.json)


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__, tiny=True)
  flags.add_argument(
    "--only", choices=("train", "inference", "parts"), help="a third of it"
  )
  add("short-side", 0, "px of the images; 0 is 800, on a CPU 320")
  add("batch", 0, "images in a step; 0 is 2, on a CPU 1")
  add("regions", 0, "of an image that train; 0 is 512, on a CPU 64")
  add("steps", 3, "of which the median is taken")
  return flags


def measure(args, device: str, has_torch: bool) -> list[dict]:
  """Times the chosen steps and parts; returns the rows."""
  batch, options = make_batch(args.batch, args.short_side), make_options(args)
  dtype = "float32" if device.startswith("CPU") else "bfloat16"
  height, width = batch["image"].shape[1:3]
  images = f"{args.batch} x {height} x {width} px, {dtype}"
  regions = dict(train=options.num_rois, inference=options.test_post_top)
  rows, seconds, runs, parts = [], {}, {}, {}
  inputs = make_parts(batch, args, dtype)
  row = lambda *cells, **kwargs: rows.append(
    table.row(*cells, device=device, **kwargs)
  )
  if has_torch:
    from benchmarks import torch_boxes, torch_detection

    if not torch_boxes.has_torchvision():
      print("torchvision is not installed: its parts are written out.\n")
    runs = torch_detection.make_runs(
      batch, options, NUM_CLASSES, SGD, **make_sizes(args)
    )
    if args.only in (None, "parts"):
      made = torch_detection.make_parts(inputs, options, ROI_SIZE, STRIDE)
      parts = dict(zip(PARTS, made, strict=True))
  for kind in STEPS:
    if args.only not in (None, kind):
      continue
    step = f"R50-C4, {STEPS[kind]}, {images}, {regions[kind]} regions"
    ours = MAKE[kind](batch, args, dtype)
    times = take_turns(ours.run, runs.get(kind), args.steps)
    seconds[kind] = times["ours"]
    rates = [args.batch / times[k] if k in times else None for k in SIDES]
    row(step, "images/s", *rates, more_is_better=True)
    row(f"{step}: compiling", "s", ours.seconds, None)
    row(f"{step}: peak memory", "GiB", table.gib(ours.peak_bytes), None)
    row(f"{step}: FLOPs", "GFLOP/image", ours.flops / args.batch / 1e9, None)
  if args.only in (None, "parts"):
    for name, run in our_parts(inputs, options).items():
      times = take_turns(run, parts.get(name), args.steps)
      row(f"{name}, {images}", "s", *map(times.get, SIDES))
      if (kind := PARTS[name]) in seconds:
        share = 100 * times["ours"] / seconds[kind]
        row(f"{name}: of {STEPS[kind]}", "%", share, None)
  if args.only in (None, "train"):
    shapes, padding = epoch_of_voc(args)
    row("an epoch of VOC's sizes: shapes to compile", "shapes", shapes, None)
    row("an epoch of VOC's sizes: padding", "% of pixels", 100 * padding, None)
  return rows


def take_turns(ours: Run, theirs: Run | None, steps: int) -> dict[str, float]:
  """Returns the median seconds of each side."""
  timed = dict(zip(SIDES, (ours, theirs), strict=True))
  return medians({k: run for k, run in timed.items() if run}, steps)


# --- ours -------------------------------------------------------------------


def make_model(args, dtype: str) -> tuple[Any, Any]:
  """Returns the network and random variables, drawn without compiling."""
  import jax

  from synthjax.detection.faster_rcnn import NEW, make_detector

  rng = np.random.default_rng(0)
  model = make_detector(
    "resnet50", num_classes=NUM_CLASSES, dtype=dtype, **make_sizes(args)
  )
  images, rois = np.zeros((1, 64, 64, 3), np.float32), np.zeros((1, 1, 4))
  like = jax.eval_shape(
    model.init, jax.random.key(0), images, rois, np.ones((1, 1), bool)
  )

  def draw(path, spec):
    layer, name = path[-2].key, path[-1].key
    if name == "kernel":
      std = 0.01 if layer in NEW else np.sqrt(2 / np.prod(spec.shape[:-1]))
      return rng.normal(0, std, spec.shape).astype(np.float32)
    # Each block starts as the identity.
    ones = name == "var" or (name == "scale" and layer != "bn3")
    return np.full(spec.shape, float(ones), np.float32)

  return model, jax.device_put(jax.tree.map_with_path(draw, dict(like)))


def our_step(batch: Mapping, args, dtype: str) -> Compiled:
  """Compiles a training step; a run returns the loss before it."""
  import jax

  from synthjax.detection.objective import DetectionState, detection
  from synthjax.training import optimizer

  model, variables = make_model(args, dtype)
  tx = optimizer.make_optimizer(num_steps=1, rate="constant", **SGD)
  objective = detection(model, tx, options=make_options(args))
  state = DetectionState(
    jax.numpy.array(0), variables, tx.init(variables["params"])
  )
  batch, rng = jax.device_put((dict(batch), jax.random.key(0)))
  step = compile_timed(
    jax.jit(objective.step, donate_argnums=0), state, batch, rng
  )

  def run():
    nonlocal state
    state, metrics = step.run(state, batch, rng)
    return float(metrics["loss"])

  return step._replace(run=run)


def our_inference(batch: Mapping, args, dtype: str) -> Compiled:
  """Compiles an inference; a run returns the detections."""
  import jax

  from synthjax.detection.objective import predictor

  model, variables = make_model(args, dtype)
  seen = jax.device_put({name: batch[name] for name in ("image", "size")})
  predict = compile_timed(predictor(model, make_options(args)), variables, seen)
  run = lambda: jax.block_until_ready(predict.run(variables, seen))
  return predict._replace(run=run)


MAKE = {"train": our_step, "inference": our_inference}


def our_parts(inputs: Parts, options: Any) -> dict[str, Run]:
  """Compiles the parts of PARTS; each run waits for its result."""
  import jax

  from synthjax.detection import regions
  from synthjax.detection.anchors import make_anchors
  from synthjax.detection.faster_rcnn import roi_align

  p = jax.device_put(inputs)
  anchors = make_anchors(
    p.features.shape[1:3],
    stride=STRIDE,
    sizes=options.sizes,
    ratios=options.ratios,
  )

  def propose(train):
    return jax.jit(
      lambda p: regions.propose(
        p.logits, p.deltas, anchors, p.size, options=options, train=train
      )
    )

  def pool(p):
    align = lambda x, rois: roi_align(x, rois, output=ROI_SIZE)
    return jax.vmap(align)(p.features, p.rois)

  def pool_and_back(p, grads):
    pooled, vjp = jax.vjp(lambda x: pool(p._replace(features=x)), p.features)
    return pooled, *vjp(grads)

  pool, pool_and_back = jax.jit(pool), jax.jit(pool_and_back)
  grads = jax.numpy.ones_like(pool(p))
  functions = (
    partial(propose(True), p),
    partial(propose(False), p),
    partial(pool, p),
    partial(pool_and_back, p, grads),
  )
  wait = lambda function: lambda: jax.block_until_ready(function())
  return dict(zip(PARTS, map(wait, functions), strict=True))


if __name__ == "__main__":
  main()
