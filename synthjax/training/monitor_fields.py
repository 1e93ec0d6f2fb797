"""The fields of a monitor: what is measured of a network while it trains.

They are those of `monitor` of the task `pretrain`; `evals.monitor` has the
probes.
"""

from collections.abc import Mapping
from typing import Any

from synthjax.runtime.errors import UserError, unknown_names

# name -> options and their defaults. All are numbers above 0.
PROBES = {
  # The vote of the nearest; see evals.knn.
  "knn": dict(k=20, temperature=0.07),
  # Of standardised features; see train.linear_probe.classify.
  "linear_probe": dict(strength=10.0, max_steps=100),
}
FIELDS = (
  "every",  # steps; the last step is monitored too
  *PROBES,  # options, or True for the defaults
  "num_images",  # of the pool, and of the held-out images, at most
  "pool",  # real images to learn from; the generated ones where none is given
)
NUM_IMAGES = 2000


def options_of(monitor: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the options of the probes that are asked for, by their names."""
  asked = {name: monitor.get(name) for name in PROBES}
  return {
    name: PROBES[name] | (given if isinstance(given, Mapping) else {})
    for name, given in asked.items()
    if given not in (None, False)
  }


def num_images(monitor: Mapping[str, Any]) -> int:
  """Returns how many images of either kind are enough."""
  return monitor.get("num_images", NUM_IMAGES)


def pool_of(fields: Mapping[str, Any]) -> Any:
  """Returns the real images that a block's monitor learns from, or None."""
  return (fields.get("monitor") or {}).get("pool")


def check(fields: Mapping[str, Any], *, name: str) -> None:
  """Checks the monitor of a block, if it has one.

  Args:
    fields: of the block; `validation` and `test` are looked at as well.
    name: of the block, for the message, such as "pretrain".

  Raises:
    UserError: about all names that are not known, or all that does not fit.
  """
  monitor = fields.get("monitor")
  if monitor is None:
    return
  where = f"config.{name}.monitor"
  if not isinstance(monitor, Mapping):
    raise UserError(
      f"{where}={monitor!r} is not a block: give dict(every=1000, knn=True)."
    )
  if unknown := monitor.keys() - set(FIELDS):
    raise unknown_names(f"{where} field", sorted(unknown), FIELDS)
  for probe, known in PROBES.items():
    given = monitor.get(probe)
    if isinstance(given, Mapping) and (unknown := given.keys() - known.keys()):
      raise unknown_names(f"{where}.{probe} field", sorted(unknown), known)
  if problems := _problems(monitor, fields):
    raise UserError(f"{where}: {'; '.join(problems)}.")


def _problems(monitor: Mapping, fields: Mapping) -> list[str]:
  problems = []
  counts = {"every": monitor.get("every"), "num_images": num_images(monitor)}
  for name, value in counts.items():
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
      problems.append(f"{name} must be a whole number above 0, not {value!r}")
  for name in PROBES:
    if not isinstance(monitor.get(name), Mapping | bool | None):
      problems.append(
        f"{name}={monitor[name]!r} are not options: give "
        f"{name}=dict({', '.join(PROBES[name])}), or True for the defaults"
      )
  asked = options_of(monitor)
  for probe, options in asked.items():
    problems += [
      f"{probe}.{name} must be a number above 0, not {value!r}"
      for name, value in options.items()
      if not isinstance(value, int | float) or value <= 0
    ]
  if not asked:
    problems.append(f"nothing to measure: ask for {' or '.join(PROBES)}")
  if not fields.get("validation"):
    problems.append(
      "it measures on held-out real images: give validation, such as "
      "dict(split='validation'); test is opened at the end alone"
    )
  pool = monitor.get("pool")
  for split in ("validation", "test"):
    if pool is not None and pool == fields.get(split):
      problems.append(
        f"pool and {split} are the same images, {pool}: choose another split "
        "for one of them"
      )
  return problems
