"""Measures as much as a short loan of a GPU allows, what matters most first.

  python -m benchmarks.gpu_visit --out DIR [--seconds 400] [--parts env,check]
  python -m benchmarks.gpu_visit --out DIR --tiny --seconds 3600     on a CPU

Each part runs in a process of its own, in the time that is left and at most its
cap, and appends its rows to DIR/rows.jsonl as it finds them: a part that is cut
short loses nothing. Compiled functions are kept in DIR/cache, so that a second
call on the same machine is fast. Each row has the date and the versions;
`benchmarks/visits/` keeps them, and says what is still to be measured.

`check` comes before all speeds: what no CPU can show, against the CPU. Random
weights cost as much as trained ones.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import devices, table

ROUNDS, STEPS = 3, 5  # medians of rounds; steps of a training in each


class Part(NamedTuple):
  """A part of a visit."""

  seconds: int  # at most
  run: Callable[[argparse.Namespace], None]


def main(argv: list[str] | None = None) -> None:
  """Runs the parts in turn, and prints all rows."""
  args = parser().parse_args(argv)
  folder = pathlib.Path(args.out)
  folder.mkdir(parents=True, exist_ok=True)
  if args.part:
    PARTS[args.part].run(args)
    return
  end = time.monotonic() + args.seconds
  for name in args.parts.split(","):
    cap = PARTS[name].seconds * (10 if args.tiny else 1)
    left = min(cap, end - time.monotonic() - 5)  # 5 s to print
    if left < 15:
      add_row(args, name, "seconds that were left for it", "s", left)
      continue
    began, status = time.monotonic(), 0
    command = [sys.executable, "-u", "-m", "benchmarks.gpu_visit"]
    command += [f"--part={name}", f"--out={args.out}"] + ["--tiny"] * args.tiny
    with (folder / f"{name}.log").open("w") as log:
      try:
        status = subprocess.run(
          command, timeout=left, stdout=log, stderr=subprocess.STDOUT
        ).returncode
      except subprocess.TimeoutExpired:
        status = "cut short"
    took = time.monotonic() - began
    add_row(args, name, f"the whole part, exit status {status}", "s", took)
    if status:
      print((folder / f"{name}.log").read_text()[-2000:])
  for line in (folder / "rows.jsonl").read_text().splitlines():
    row = json.loads(line)
    print(
      f"{row['part']:12} {row['ours']:>12.5g} {row['unit']:10} {row['name']}"
    )


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__, threads=False, tiny=True)
  flags.add_argument("--out", default="visit", help="folder of the rows")
  add("seconds", 400, "for all parts")
  flags.add_argument(
    "--parts", default=",".join(PARTS), help="in this order, with commas"
  )
  flags.add_argument("--part", choices=PARTS, help="one, in this process")
  return flags


def add_row(
  args, part: str, name: str, unit: str, value: float, **more
) -> None:
  """Appends a row, at once."""
  row = {"part": part, "name": name, "unit": unit, "ours": float(value)} | more
  row |= {"date": time.strftime("%Y-%m-%d"), "versions": table.versions()}
  with (pathlib.Path(args.out) / "rows.jsonl").open("a") as file:
    file.write(json.dumps(row) + "\n")
  print(row, flush=True)


def use_jax(args, *, whole: bool = True) -> Any:
  """Returns JAX, which keeps what it compiles beside the rows.

  Args:
    args: of the command.
    whole: takes nearly all memory of the device; False leaves PyTorch its own.
  """
  os.environ.setdefault("SYNTHJAX_CACHE", os.path.abspath(f"{args.out}/cache"))
  if whole:
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
  # Half of a short visit would go to the tuning of Triton's products.
  flags = os.environ.get("XLA_FLAGS", "")
  if args.tiny:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
  else:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_enable_triton_gemm=false"
  import jax

  from synthjax.runtime import cache

  cache.use_compilation_cache()
  return jax


# --- correctness --------------------------------------------------------------


def environment(args) -> None:
  """Prints the machine, and times a product and a copy."""
  subprocess.run("nvidia-smi; nproc; free -g", shell=True, check=False)
  jax = use_jax(args)
  import jax.numpy as jnp

  kind = jax.devices()[0].device_kind
  side = 256 if args.tiny else 8192
  x = jnp.ones((side, side), jnp.bfloat16)
  seconds = timed(jax, jax.jit(lambda x: x @ x), x)
  speed = 2 * side**3 / seconds / 1e12
  add_row(args, "env", "bfloat16 product", "TFLOP/s", speed, device=kind)
  big = jnp.ones((side // 4, side, 64), jnp.bfloat16)
  seconds = timed(jax, jax.jit(lambda x: x + 1), big)
  add_row(args, "env", "copy", "TB/s", 2 * big.nbytes / seconds / 1e12)


def check(args) -> None:
  """Compares the device with the CPU: what its own kernels compute.

  The rows hold norms of differences, relative to the CPU's float32.
  """
  use_jax(args)
  from benchmarks import device_checks

  count_unequal_pixels(args)
  draw_embedded(args)
  # The large networks come last, as they may be cut short.
  for name, each in device_checks.checks(tiny=args.tiny).items():
    try:
      for way, error in device_checks.errors(each).items():
        add_row(args, "check", f"{name}, {way}: error", "share", error)
    except Exception as error:  # the next check may pass
      add_row(args, "check", f"{name}: {error!r:.300}", "failed", 1)


def count_unequal_pixels(args) -> None:
  """Counts pixels that the device resizes to other values than Pillow."""
  import jax

  from synthjax.encoders.resize import fit_image, fit_images

  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (16, 256, 256, 3), np.uint8)
  got = np.asarray(jax.jit(lambda x: fit_images(x, 224))(images))
  want = np.stack([fit_image(image, 224) for image in images])
  unequal = int((got != want).sum())
  add_row(args, "check", "resize: values unlike Pillow's", "values", unequal)


def draw_embedded(args) -> None:
  """Draws with the embedded generator, and leaves the images beside the rows.

  Compare them with the same command's on a CPU.
  """
  import jax

  from synthjax.config import embedded_world
  from synthjax.generators import load_generator

  block = embedded_world()["generator"] | {"batch_size": 16}
  rngs = jax.random.split(jax.random.key(0), 16)
  images = load_generator(**block).draw(["a red apple"] * 16, rngs)
  np.save(pathlib.Path(args.out) / "red_apples.npy", images)
  add_row(args, "check", "embedded generator: images", "images", len(images))


def train_embedded(args) -> None:
  """Trains the embedded networks by their configs, and leaves their weights.

  The rate is that of the last row of a training's metrics.
  """
  for config in ("train_generator", "train_clip"):
    workdir = pathlib.Path(args.out) / config
    command = [sys.executable, "-m", "synthjax.main", f"--workdir={workdir}"]
    arm = ":runlocal" if args.tiny else ""
    began = time.monotonic()
    subprocess.run([*command, f"--config=configs/{config}.py{arm}"], check=True)
    took = time.monotonic() - began
    add_row(args, "embedded", f"{config}, with starting", "s", took)
    for path in sorted(workdir.glob("*/*_metrics.jsonl")):
      *_, last = path.read_text().splitlines()
      rate = json.loads(last).get("images_per_second")
      name = path.name.removesuffix("_metrics.jsonl")
      if rate:
        add_row(args, "embedded", f"{config}: {name}", "images/s", rate)


# --- speed --------------------------------------------------------------------

# By part: the functions of `hot_functions`, with what a call of each makes.
MADE = {
  "glide": {
    "draw GLIDE, paper's setting": (64, "images"),
    "draw GLIDE, fast": (64, "images"),
    "GLIDE's base, a step": (64, "images"),
    "GLIDE's upsampler, a step": (64, "images"),
  },
  "train": {
    "ResNet-50, train": (512, "images"),
    "DeiT-S, train": (1024, "images"),
    "MoCo v2, train": (256, "pairs"),
  },
  "encode": {
    "CLIP RN50, images": (256, "images"),
    "CLIP ViT-B/16, images": (256, "images"),
  },
  "detect": {
    "R50-C4, train": (16, "images"),
    "R50-C4, detect": (8, "images"),
  },
  "tune": {"tune a head": (1, "trainings")},
}


def speed(part: str) -> Callable[[argparse.Namespace], None]:
  """Returns the part that times the functions of MADE."""

  def run(args) -> None:
    jax = use_jax(args)
    from benchmarks import hot_functions

    functions = hot_functions.TINY if args.tiny else hot_functions.FULL
    for name, (count, what) in MADE[part].items():
      if name not in functions:  # the tiny set has no single steps
        continue
      try:
        hot = functions[name]()
        time_hot(jax, args, part, name, hot, count, what)
      except Exception as error:  # the next one may run
        add_row(args, part, f"{name}: {error!r:.300}", "failed", 1)

  return run


def time_hot(jax, args, part, name, hot, count: int, what: str) -> None:
  """Compiles a function and times it; adds its rows."""
  from benchmarks import hot_functions
  from benchmarks.timing import compile_timed

  inputs = list(jax.device_put(hot_functions.fill(hot)))
  function = jax.jit(hot.function, donate_argnums=hot.donated)
  compiled = compile_timed(function, *inputs)
  if hot.donated is None:
    seconds = timed(jax, compiled.run, *inputs)
  else:

    def steps():
      for _ in range(STEPS):
        inputs[hot.donated], metrics = compiled.run(*inputs)
      return metrics

    seconds = timed(jax, steps) / STEPS
  if args.tiny:
    count = 1
  row = lambda *cells: add_row(args, part, *cells)
  row(name, f"{what}/s", count / seconds)
  row(f"{name}: compiling", "s", compiled.seconds)
  row(f"{name}: peak memory", "GiB", compiled.peak_bytes / 2**30)
  if part != "glide" or "step" in name:  # a loop's FLOPs are counted once
    speed = compiled.flops / seconds
    row(f"{name}: speed", "TFLOP/s", speed / 1e12)
    if peak := devices.peak_of(jax.devices()[0].device_kind):
      row(f"{name}: of the peak speed", "%", 100 * speed / peak)


def timed(jax, run: Callable, *inputs: Any) -> float:
  """Returns the median seconds of a call, after one that warms up."""
  from benchmarks.timing import medians

  wait = lambda: jax.block_until_ready(run(*inputs))
  return medians({"ours": wait}, ROUNDS)["ours"]


def against_torch(
  name: str, *flags: str
) -> Callable[[argparse.Namespace], None]:
  """Returns the part that takes its rows from a benchmark of both sides."""

  def run(args) -> None:
    path = pathlib.Path(args.out) / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--json={path}"]
    command += TINY_FLAGS[name] if args.tiny else flags
    subprocess.run(command, check=True)
    for row in json.loads(path.read_text()):
      more = {key: row[key] for key in ("reference", "ratio", "device")}
      add_row(args, name, row["name"], row["unit"], row["ours"], **more)

  return run


TINY_FLAGS = {
  "sample": ["--tiny", "--batch=1", "--rounds=1", "--matmul=64", "--eager"],
  "train": [
    "--tiny",
    "--image=32",
    "--batch=4",
    "--rounds=1",
    "--steps=1",
    "--matmul=64",
    "--eager",
  ],
}
PARTS = {
  "env": Part(40, environment),
  "check": Part(200, check),
  "glide": Part(200, speed("glide")),
  "train": Part(170, speed("train")),
  "encode": Part(60, speed("encode")),
  "detect": Part(130, speed("detect")),
  "tune": Part(30, speed("tune")),
  "glide_torch": Part(
    180, against_torch("sample", "--preset=paper", "--batch=64", "--rounds=1")
  ),
  "train_torch": Part(150, against_torch("train", "--batch=256")),
  "embedded": Part(330, train_embedded),
}


if __name__ == "__main__":
  main()
