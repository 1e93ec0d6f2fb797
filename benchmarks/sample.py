"""Times GLIDE against PyTorch: images/s, at the paper's setting and faster.

  python -m benchmarks.sample [--json FILE] [--preset paper|fast|both]
    [--batch N] [--eager] [--whole]

Both networks have the sizes of the release and random weights, which cost as
much as trained ones: 100 base steps at 64 px, guided without a classifier and
so each on a doubled batch, then 27 of the upsampler to 256 px; or fewer steps
of a multistep solver. All is float32 on a CPU; on a GPU the torso is bfloat16
and PyTorch's float16, as released. PyTorch runs as it is and, where that works,
through torch.compile. After compilation they take turns, so that other work on
the machine slows all; the figures are the medians of the rounds, with one
thread of a CPU (--threads 1) of the process's own time.

An accelerator walks every step, from prompts to uint8 images, and compiles each
network once, in its walk: there are no rows of single steps. As a CPU would
take half an hour for an image, it runs one step of either network, and images/s
are those of all steps at that pace, as the rows say. Reading the prompts, which
takes 0.05 % of the FLOPs, is left out there.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks import devices, glide_stages, table
from benchmarks.timing import Compiled, medians
from synthjax.config import PRESETS

# The sampler and the respacing of either network, as configs have them.
PRESETS = {
  name: dict(zip(("base", "upsampler"), walks, strict=True))
  for name, walks in PRESETS.items()
}


class Sides(NamedTuple):
  """One step of a network on both sides."""

  ours: Compiled
  theirs: Any  # torch_timing.Ways, or None
  seconds: dict[str, float]  # of "ours" and PyTorch's ways; 0 if not timed


def main(argv: list[str] | None = None) -> None:
  args = parser().parse_args(argv)
  device, has_torch = devices.set_up(args.threads)
  on_cpu = device.startswith("CPU")
  args.batch = args.batch or (1 if on_cpu else 16)
  args.whole = args.whole or not on_cpu
  table.show(measure(args, device, has_torch), args.json)


def parser() -> argparse.ArgumentParser:
  flags, add = devices.make_parser(__doc__, tiny=True, peak=True)
  flags.add_argument(
    "--preset", choices=(*PRESETS, "both"), default="both", help="one of them"
  )
  flags.add_argument(
    "--whole", action="store_true", help="walk every step on a CPU, too"
  )
  add("rounds", 3, "of which the median is taken")
  add("batch", 0, "images drawn at once; 0 is 16, on a CPU 1")
  return flags


def measure(args, device: str, has_torch: bool) -> list[dict]:
  """Times the chosen presets; returns the rows."""
  stages = glide_stages.TINY if args.tiny else glide_stages.RELEASED
  args.dtype = "float32" if device.startswith("CPU") else "bfloat16"
  args.clock = devices.clock_of(device)
  sides = {
    name: time_step(name, stage, args, has_torch)
    for name, stage in stages.items()
  }
  args.peaks = devices.peaks_of(
    device, has_torch, peak=args.peak, side=args.matmul
  )
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    if args.whole:
      glide_stages.write_weights(pathlib.Path(folder), stages)
    for preset in PRESETS if args.preset == "both" else (args.preset,):
      whole = None
      if args.whole:
        whole = time_whole(PRESETS[preset], stages, sides, folder, args)
      rows += preset_rows(preset, sides, whole, args, device)
    if not args.whole:
      for name, side in sides.items():
        rows += stage_rows(name, stages[name], side, args, device)
  return rows


def time_step(name: str, stage: Any, args, has_torch: bool) -> Sides:
  """Compiles a step of a network's walk on both sides, and times it.

  Where whole walks are timed, its FLOPs are counted and no more.
  """
  from synthjax.diffusion import schedule

  sampler, respacing = PRESETS["paper"][name]
  steps = schedule.respace(schedule.BETAS[stage.betas](), respacing)
  steps = glide_stages.keep_one(steps)
  ours = glide_stages.our_step(
    *(stage, steps, sampler),
    batch=args.batch,
    dtype=args.dtype,
    compiled=not args.whole,  # each network is compiled once, in its walk
  )
  timed, theirs = {"ours": ours.run}, None
  if has_torch:
    from benchmarks import torch_sampling

    theirs = torch_sampling.make_steps(
      torch_sampling.make_model(stage.sizes, upsampler=name == "upsampler"),
      steps,
      sampler,
      batch=args.batch,
      image_size=stage.image_size,
      low_res=stage.low_res,
      guidance_scale=stage.guidance_scale,
      compiled=not args.eager,
    )
    timed |= theirs.runs
  if args.whole:
    return Sides(ours, theirs, dict.fromkeys(timed, 0.0))
  return Sides(ours, theirs, medians(timed, args.rounds, args.clock))


def time_whole(
  preset: Mapping[str, tuple[str, str]],
  stages: Mapping[str, Any],
  sides: Mapping[str, Sides],
  folder: str,
  args,
) -> tuple[dict[str, float], float]:
  """Times whole walks; returns seconds, and those of our first call."""
  import jax

  from synthjax.diffusion import schedule
  from synthjax.generators import load_generator

  blocks = {
    name: dict(
      weights=f"{folder}/{name}.safetensors",
      sampler=sampler,
      respacing=respacing,
    )
    for name, (sampler, respacing) in preset.items()
  }
  generator = load_generator(
    "glide",
    **blocks,
    tokenizer="embedded:tokenizer.json",
    batch_size=args.batch,
    guidance_scale=glide_stages.GUIDANCE_SCALE,
    dtype=args.dtype,
  )
  prompts = ["a photo of a dog"] * args.batch
  rngs = jax.random.split(jax.random.key(0), args.batch)
  timed = {"ours": lambda: generator.draw(prompts, rngs)}
  began = time.perf_counter()
  timed["ours"]()
  first = time.perf_counter() - began
  theirs = {name: side.theirs for name, side in sides.items()}
  if all(theirs.values()):
    from benchmarks import torch_sampling

    walks = {
      name: (schedule.respace(schedule.BETAS[stages[name].betas](), kept), walk)
      for name, (walk, kept) in preset.items()
    }
    for way in shared_ways(sides) - {"ours"}:
      timed[way] = torch_sampling.make_draw(
        {name: ways.forwards["PyTorch"] for name, ways in theirs.items()},
        {name: ways.forwards[way] for name, ways in theirs.items()},
        walks,
        batch=args.batch,
        image_sizes={name: stage.image_size for name, stage in stages.items()},
        guidance_scale=glide_stages.GUIDANCE_SCALE,
      )
  return medians(timed, args.rounds, args.clock), first


def shared_ways(sides: Mapping[str, Sides]) -> set[str]:
  """Returns the ways in which both networks were run."""
  return set.intersection(*(set(side.seconds) for side in sides.values()))


# --- rows -------------------------------------------------------------------


def preset_rows(preset, sides, whole, args, device: str) -> list[dict]:
  """Returns the rows of a preset: images/s, FLOPs and the share of a peak."""
  from synthjax.diffusion import schedule

  counts = {
    name: len(schedule.kept_timesteps(respacing))
    for name, (_, respacing) in PRESETS[preset].items()
  }

  def total(of_step):
    return sum(counts[name] * of_step(side) for name, side in sides.items())

  seconds, first = whole or (None, None)
  walks = (f"{counts[k]} {PRESETS[preset][k][0]}" for k in sides)
  title = f"GLIDE, {preset} ({' + '.join(walks)} steps), batch {args.batch}"
  title += f", {args.dtype}"
  if seconds is None:
    title += ", of one step each"
    seconds = {
      way: total(lambda side, way=way: side.seconds[way])
      for way in sorted(shared_ways(sides))
    }
  row = table.titled(title, device)
  rates = {way: args.batch / s for way, s in seconds.items()}
  has_theirs = len(seconds) > 1
  rows = table.rows_against(
    row, "drawing", "images/s", rates, more_is_better=True
  ) + devices.speed_rows(
    row,
    (
      total(lambda side: side.ours.flops),
      total(lambda side: side.theirs.flops) if has_theirs else None,
    ),
    rates,
    batch=args.batch,
    peaks=args.peaks,
  )
  if first is not None:
    rows.append(row("the first call, which compiles", "s", first, None))
  return rows


def stage_rows(name, stage, side: Sides, args, device: str) -> list[dict]:
  """Returns the rows of one step of a network."""
  guided = "" if stage.guidance_scale is None else ", guided"
  title = f"GLIDE's {name}, a step at {stage.image_size} px{guided}, batch "
  row = table.titled(f"{title}{args.batch}, {args.dtype}", device)
  ours, theirs = side.ours, side.theirs
  return [
    *table.rows_against(row, "", "s", side.seconds),
    row("compiling", "s", ours.seconds, theirs and theirs.seconds),
    row(
      "peak memory",
      "GiB",
      table.gib(ours.peak_bytes),
      theirs and table.gib(theirs.peak_bytes),
    ),
  ]


if __name__ == "__main__":
  main()
