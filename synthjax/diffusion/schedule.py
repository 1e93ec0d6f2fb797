"""Noise schedules and their respacing, as float64 tables (Ho et al. 2020)."""

import re
from typing import NamedTuple

import numpy as np

from synthjax.runtime.errors import UserError

# GLIDE's schedule for upsampling: the step counts of five equal sections.
FAST27 = "fast27"
LOGSNR = "logsnr"
_RESPACING = re.compile(rf"(\d+(,\d+)*|ddim\d+|{FAST27}|{LOGSNR}\d*)(<\d+)?")


class Schedule(NamedTuple):
  """The kept steps, from nearly clean (0) to noise (S - 1).

  Every field is an array [S]; slicing all of them starts later.
  """

  # As the network was trained on: int32, or of flow matching float64.
  timestep: np.ndarray
  beta: np.ndarray
  alpha_bar: np.ndarray
  alpha_bar_prev: np.ndarray  # one kept step cleaner; 1 at step 0
  # The posterior q(x_{t-1} | x_t, x_0), Eq. 7 of Ho et al.
  mean_coef_x0: np.ndarray
  mean_coef_x: np.ndarray
  variance: np.ndarray
  log_variance: np.ndarray  # clipped: step 0, where it is -inf, has step 1's


def squared_cosine(num_steps: int = 1000) -> np.ndarray:
  """Returns betas [T] of Nichol & Dhariwal (2021), capped at 0.999."""

  def alpha_bar(s):
    return np.cos((s + 0.008) / 1.008 * np.pi / 2) ** 2

  s = np.arange(num_steps + 1) / num_steps
  return np.minimum(1 - alpha_bar(s[1:]) / alpha_bar(s[:-1]), 0.999)


def linear(num_steps: int = 1000) -> np.ndarray:
  """Returns betas [T] of Ho et al. (2020), whatever the number of steps."""
  scale = 1000 / num_steps
  return np.linspace(scale * 1e-4, scale * 0.02, num_steps)


BETAS = {"squared_cosine": squared_cosine, "linear": linear}


def kept_timesteps(
  respacing: str | int,
  num_steps: int = 1000,
  betas: np.ndarray | None = None,
) -> np.ndarray:
  """Chooses which of `num_steps` steps a sampler walks.

  Args:
    respacing: "100" or 100 for so many steps over the whole range; "10,5" for
      so many in each of equal sections; "ddim50" for a whole stride of at
      most 50 steps; "fast27" for GLIDE's upsampler; "logsnr10" for 10 that lie
      evenly in log(signal / noise), which suits few steps of a solver;
      "20<900" for 20 of the first 900, and "logsnr10<900" likewise, as the
      noisiest say least and are learned last.
    num_steps: steps that the network was trained on.
    betas: [num_steps] of the training schedule, which "logsnr" reads; by
      default the base's. The number of steps kept does not depend on it.

  Returns:
    int [S], ascending.

  Raises:
    UserError: when there are fewer steps than asked for.
  """
  respacing = str(respacing)
  if not _RESPACING.fullmatch(respacing):
    raise UserError(
      f"respacing={respacing!r}: needed a number of steps, as 100, or '10,5', "
      "'ddim50', 'fast27' or 'logsnr10', and '<900' behind it for those of the "
      "first 900."
    )
  if betas is None:
    betas = squared_cosine(num_steps)
  if "<" in respacing:
    respacing, _, limit = respacing.partition("<")
    if not 1 <= int(limit) <= num_steps:
      raise UserError(
        f"respacing={respacing}<{limit}: only {num_steps} steps were trained."
      )
    num_steps = int(limit)
  if respacing.startswith(LOGSNR):
    return _even_in_logsnr(respacing, betas[:num_steps])
  if respacing == FAST27:
    steps = kept_timesteps("10,10,3,2,2", num_steps).tolist()
    # The authors found the very last step to be harmful.
    steps[-1] -= 2
    return np.array(steps)
  if respacing.startswith("ddim"):
    return _whole_stride(respacing, num_steps)
  return _in_sections(respacing, num_steps)


def _whole_stride(respacing: str, num_steps: int) -> np.ndarray:
  count = int(respacing.removeprefix("ddim"))
  for stride in range(1, num_steps):
    if len(range(0, num_steps, stride)) == count:
      return np.arange(0, num_steps, stride)
  raise UserError(
    f"respacing={respacing!r}: no whole stride over {num_steps} steps keeps "
    f"{count} of them. Use {count} without 'ddim', which rounds."
  )


def _in_sections(respacing: str, num_steps: int) -> np.ndarray:
  counts = [int(count) for count in respacing.split(",")]
  size, extra = divmod(num_steps, len(counts))
  kept, start = [], 0
  for i, count in enumerate(counts):
    length = size + (i < extra)
    if not 1 <= count <= length:
      raise UserError(
        f"respacing={respacing!r} asks for {count} steps of a section that has "
        f"{length}: allowed are 1 to {length}."
      )
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    # A running sum, and rounding half to even, as in the reference: a product
    # rounds elsewhere.
    position = 0.0
    for _ in range(count):
      kept.append(start + round(position))
      position += stride
    start += length
  return np.array(kept)


def _even_in_logsnr(respacing: str, betas: np.ndarray) -> np.ndarray:
  """Keeps the first and the last step and those nearest to an even spacing."""
  text = respacing.removeprefix(LOGSNR)
  count = int(text) if text.isdecimal() else 0
  if not 1 <= count <= len(betas):
    raise UserError(
      f"respacing={respacing!r}: {LOGSNR!r} is followed by a number of steps, "
      f"1 to {len(betas)}."
    )
  alpha_bar = np.cumprod(1 - betas)
  logsnr = np.log(alpha_bar) - np.log1p(-alpha_bar)  # falls with the step
  # One step alone is the noisiest, from which a walk starts.
  even = np.linspace(logsnr[-1], logsnr[0], count)[::-1]
  steps = np.arange(len(betas))
  kept = np.round(np.interp(even, logsnr[::-1], steps[::-1])).astype(int)
  # Where steps are few, several positions may be nearest to one step: they take
  # different ones.
  order = np.arange(count)
  return np.minimum(
    np.maximum.accumulate(kept - order) + order, len(betas) - count + order
  )


def respace(betas: np.ndarray, respacing: str | int | None = None) -> Schedule:
  """Builds the tables of the kept steps.

  Args:
    betas: float64 [T] of the training schedule.
    respacing: as for `kept_timesteps`; None keeps every step.

  Returns:
    float64 tables [S].
  """
  betas = np.asarray(betas, np.float64)
  if respacing is None:
    # The betas as they are, to their last bits.
    return tables(np.arange(len(betas), dtype=np.int32), betas)
  return keep(betas, kept_timesteps(respacing, len(betas), betas))


def keep(betas: np.ndarray, timesteps: np.ndarray) -> Schedule:
  """Builds the tables of chosen steps.

  Args:
    betas: float64 [T] of the training schedule.
    timesteps: int [S], ascending.

  Returns:
    float64 tables [S].
  """
  full = np.cumprod(1 - np.asarray(betas, np.float64))
  timesteps = np.asarray(timesteps, np.int32)
  # The cumulative products are rebuilt from the rounded betas, so that the
  # last bits agree with the reference.
  before = np.append(1.0, full[timesteps[:-1]])
  return tables(timesteps, 1 - full[timesteps] / before)


def tables(timesteps: np.ndarray, beta: np.ndarray) -> Schedule:
  """Builds the tables of kept steps [S] from their betas, float64 [S]."""
  alpha_bar = np.cumprod(1 - beta)
  alpha_bar_prev = np.append(1.0, alpha_bar[:-1])
  variance = beta * (1 - alpha_bar_prev) / (1 - alpha_bar)
  clipped = np.append(variance[1:2], variance[1:]) if len(beta) > 1 else beta
  return Schedule(
    timestep=timesteps,
    beta=beta,
    alpha_bar=alpha_bar,
    alpha_bar_prev=alpha_bar_prev,
    mean_coef_x0=beta * np.sqrt(alpha_bar_prev) / (1 - alpha_bar),
    mean_coef_x=(1 - alpha_bar_prev) * np.sqrt(1 - beta) / (1 - alpha_bar),
    variance=variance,
    log_variance=np.log(clipped),
  )


def start_at(schedule: Schedule, num_steps: int) -> Schedule:
  """Keeps the `num_steps` cleanest steps, for real guidance.

  Raises:
    UserError: when the schedule has fewer.
  """
  if not 1 <= num_steps <= len(schedule.timestep):
    raise UserError(
      f"Cannot start {num_steps} steps from the end of a schedule of "
      f"{len(schedule.timestep)}: allowed are 1 to {len(schedule.timestep)}."
    )
  return Schedule(*(table[:num_steps] for table in schedule))
