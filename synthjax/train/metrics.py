"""What a training run tells while it works."""

import json
import math
import sys
import time
from typing import Any

import numpy as np
from etils import epath

from synthjax.errors import UserError
from synthjax.train.loop import Hook


def progress_hook(
  file: epath.PathLike,
  *,
  label: str,
  every: int,
  num_steps: int,
  first_step: int = 0,
  batch_size: int = 0,
) -> Hook:
  """Writes metrics to a file and to the terminal or log.

  Args:
    file: JSON lines, one for each `every` steps; later rows of a run that was
      interrupted are dropped, so that steps ascend.
    label: what is being trained, for people.
    every: steps.
    num_steps: of the whole training.
    first_step: where this run starts.
    batch_size: images of a step, for the rate.

  Returns:
    A hook, which raises UserError when a metric is not finite.
  """
  file = epath.Path(file)
  rows = read_rows(file)
  kept = [row for row in rows if row["step"] <= first_step]
  if len(kept) < len(rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
  began, waited = time.monotonic(), 0.0

  def hook(step: int, state: Any, metrics: dict) -> None:
    nonlocal began, waited
    del state
    if step == first_step + 1:
      float(next(iter(metrics.values())))  # waits: compiling is not training
      began = time.monotonic()
    if step % every and step != num_steps:
      return
    row = {"step": step} | {k: float(np.asarray(v)) for k, v in metrics.items()}
    if bad := [name for name, x in row.items() if not math.isfinite(x)]:
      raise UserError(
        f"{label}: {', '.join(bad)} is not finite at step {step}. The "
        "checkpoints before it are unharmed: lower the learning rate or clip "
        "gradients (lr, clip_norm) and start in another workdir."
      )
    with file.open("a") as f:
      f.write(json.dumps(row) + "\n")
    seconds = max(time.monotonic() - began, 1e-9)
    rate = max(step - first_step - 1, 0) / seconds
    left = (num_steps - step) / rate / 60 if rate else math.nan
    text = f"{label}: step {step}/{num_steps}  " + "  ".join(
      f"{name} {value:.4g}" for name, value in row.items() if name != "step"
    )
    if batch_size:
      text += f"  {rate * batch_size:.1f} images/s"
    say(f"{text}  {left:.1f} min left", last=step == num_steps)

  return hook


def say(line: str, *, last: bool = True) -> None:
  """Shows progress: one live line on a terminal, plain lines in a log."""
  if sys.stderr.isatty():
    sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
    sys.stderr.flush()
  else:
    print(line, file=sys.stderr, flush=True)


def read_rows(file: epath.PathLike) -> list[dict[str, float]]:
  """Reads metrics; a last line that a crash cut short is left out."""
  file = epath.Path(file)
  if not file.exists():
    return []
  rows = []
  for line in file.read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
