"""Times whole training steps of ResNet-50 and DeiT-S against PyTorch.

  python -m benchmarks.train [--json FILE] [--only resnet50] [--batch N]

A step is the forward and backward pass and the optimizer: SGD with momentum for
ResNet-50, AdamW for DeiT-S, both with label smoothing and without augmentation,
dropout or drop path. All run on one batch of normalised images that lies on the
device: float32 on a CPU, on a GPU bfloat16 (PyTorch: autocast) with float32
parameters. PyTorch's images are channels_last, and its model runs as it is and,
where that works, through torch.compile. After compilation they take turns, so
that other work on the machine slows all; the figures are the medians of the
rounds.

The FLOPs of a step are those that XLA counts, with PyTorch's count beside them.
Their rate is a share of the device's peak. Where that is unknown, as for CPUs,
the rate of one large matrix product in the same library stands for it.
"""

import argparse
from typing import Any

import numpy as np

from benchmarks import devices, table
from benchmarks.made_up import fill
from benchmarks.timing import Compiled, compile_timed, medians

SMOOTHING, LR = 0.1, 1e-3
RESNET = dict(name="sgd", weight_decay=1e-4)
DEIT = dict(name="adamw", weight_decay=0.05)
MODELS = {"resnet50": ("ResNet-50", RESNET), "deit_s": ("DeiT-S", DEIT)}


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  device, has_torch = devices.set_up(args.threads)
  args.batch = args.batch or (16 if device.startswith("CPU") else 256)
  rows = []
  for name in [args.only] if args.only else MODELS:
    rows += model_rows(name, args, device, has_torch)
  table.show(rows, args.json)


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__, tiny=True, peak=True)
  flags.add_argument("--only", choices=sorted(MODELS), help="one model")
  add("rounds", 5, "of which the median is taken")
  add("steps", 2, "in a round")
  add("batch", 0, "images in a step; 0 is 256, on a CPU 16")
  add("image", 224, "px")
  return flags


def model_rows(name: str, args, device: str, has_torch: bool) -> list[dict]:
  """Times a model; returns the rows."""
  import jax

  title, optimizer = MODELS[name]
  images, labels = make_batch(args.batch, args.image)
  ours = our_step(name, images, labels, tiny=args.tiny)
  timed, theirs = {"ours": ours.run}, None
  if has_torch:
    from benchmarks import torch_training

    theirs = torch_training.make_steps(
      torch_training.make_model(name, tiny=args.tiny, image_size=args.image),
      optimizer | {"lr": LR},
      images,
      labels,
      smoothing=SMOOTHING,
      compiled=not args.eager,
    )
    timed |= theirs.runs
  repeat = lambda run: lambda: [run() for _ in range(args.steps)]
  seconds = medians({k: repeat(run) for k, run in timed.items()}, args.rounds)
  rates = {k: args.batch * args.steps / s for k, s in seconds.items()}
  dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  title = f"{title}, {args.image} px, batch {args.batch}, {dtype}"
  row = table.titled(title, device)
  return [
    *table.rows_against(
      row, "training", "images/s", rates, more_is_better=True
    ),
    *devices.speed_rows(
      row,
      (ours.flops, theirs and theirs.flops),
      rates,
      batch=args.batch,
      peaks=devices.peaks_of(
        device, has_torch, peak=args.peak, side=args.matmul
      ),
      what="model FLOP/s",
    ),
    row(
      "peak memory",
      "GiB",
      table.gib(ours.peak_bytes),
      theirs and table.gib(theirs.peak_bytes),
    ),
  ]


def make_batch(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns normalised images [n, h, w, 3] and labels [n] of 1,000 classes."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(n, size, size, 3)).astype(np.float32)
  return images, rng.integers(0, 1000, n)


def our_model(name: str, *, tiny: bool, dtype: str = "float32") -> Any:
  from synthjax.models.classifiers import make_classifier

  small = {}
  if tiny:
    small = dict(stage_sizes=(1, 1), width=4)
    if name == "deit_s":
      small = dict(width=16, depth=1, heads=2)
  return make_classifier(name, num_classes=1000, dtype=dtype, **small)


def our_step(
  name: str,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  tiny: bool = False,
  variables: Any = None,
) -> Compiled:
  """Compiles our step; a run returns the loss before it.

  Args:
    name: a key of MODELS.
    images: [n, h, w, 3] normalised.
    labels: [n].
    tiny: makes the network small.
    variables: to start from; random ones if None.
  """
  import jax

  from synthjax.training import optimizer, supervised

  dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  tx = optimizer.make_optimizer(
    lr=LR, num_steps=1, rate="constant", **MODELS[name][1]
  )
  objective = supervised.supervised(
    our_model(name, tiny=tiny, dtype=dtype),
    tx,
    label_smoothing=SMOOTHING,
  )
  batch = jax.device_put({"image": images, "label": labels})
  rng = jax.random.key(0)
  # Traced and not run, as drawing the weights would compile for minutes.
  like = jax.eval_shape(objective.init, rng, batch)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
  variables = fill(like.variables) if variables is None else variables
  state = jax.device_put(state.replace(variables=variables))
  step = compile_timed(
    jax.jit(objective.step, donate_argnums=0), state, batch, rng
  )

  def run():
    nonlocal state
    state, metrics = step.run(state, batch, rng)
    return float(jax.block_until_ready(metrics["loss"]))

  return step._replace(run=run)


if __name__ == "__main__":
  main()
