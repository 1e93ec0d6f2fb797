"""What a run cost: the time of each task, on how many devices, in money."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from synthjax.report import charts, markup
from synthjax.report.checked_files import Run
from synthjax.report.sections import Tile
from synthjax.runtime import timings

PLACE, TITLE = 150, "Cost"
_HOUR = 3600  # seconds
_AMOUNTS = {  # task -> what its files have in their names, and their rows are
  "generate": (".array_record-", "images"),
  "score": ("scores-", "images"),
}


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Adds `cost`, of `measure`, with the tasks of a bake-off's candidates."""
  candidates = results.get("bakeoff", {}).get("ranked", ())
  workdirs = [run.workdir, *(run.workdir / row["folder"] for row in candidates)]
  records = [record for each in workdirs for record in timings.read(each)]
  price = run.price_per_device_hour
  return {"cost": measure(records, run.states, results["curves"], price)}


def measure(
  records: Sequence[Mapping],
  states: Mapping[str, Mapping],
  curves: Sequence[Mapping],
  price: float | None,
) -> dict:
  """Adds up what runs of tasks have taken.

  Args:
    records: of `timings.read`; tasks come in the order in which they ended.
      Those of `report` are left out, as the page is written before its own
      time is known.
    states: of the tasks, as of `checked_files.Run`.
    curves: as of `curves.curves`.
    price: of an hour of one device, or None.

  Returns:
    Dict of tasks, seconds, device_hours, unknown (runs of unknown length),
    price_per_device_hour and price (or None). Each of `tasks` is a dict of
    task, runs, unknown, seconds (of the clock: runs at the same time count
    once), device_hours, devices (words), amount, unit and rate (how much the
    task did, and how much in a second, or None), and price.
  """
  by_task: dict[str, list[Mapping]] = {}
  # Names of records have whole seconds, in which several tasks may begin.
  ends = lambda record: getattr(_span(record), "end", math.inf)
  for record in sorted(records, key=ends):
    if record["task"] != "report":
      by_task.setdefault(record["task"], []).append(record)
  tasks = [
    _task(task, of_task, states.get(task, {}), curves, price)
    for task, of_task in by_task.items()
  ]
  total = lambda key: sum(row[key] for row in tasks)
  hours = total("device_hours")
  return {
    "tasks": tasks,
    "seconds": total("seconds"),
    "device_hours": hours,
    "unknown": total("unknown"),
    "price_per_device_hour": price,
    "price": None if price is None else hours * price,
  }


def _task(
  task: str,
  records: Sequence[Mapping],
  state: Mapping,
  curves: Sequence[Mapping],
  price: float | None,
) -> dict:
  spans = [span for span in map(_span, records) if span]
  hours = sum((s.end - s.start) * s.devices / _HOUR for s in spans)
  amount, unit = _amount(task, state, curves)
  kinds = [
    f"{r['devices']} x {r['device']}" for r in records if r.get("devices")
  ]
  unknown = len(records) - len(spans)
  return {
    "task": task,
    "runs": len(records),
    "unknown": unknown,
    "seconds": _covered(spans),
    "device_hours": hours,
    "devices": ", ".join(dict.fromkeys(kinds)),
    "amount": amount,
    "unit": unit,
    "rate": None if unknown else markup.ratio(amount, _covered(_last(spans))),
    "price": None if price is None else hours * price,
  }


class _Span(NamedTuple):
  """When a run of a task was at work."""

  start: float  # seconds
  end: float
  devices: int
  complete: bool


def _span(record: Mapping) -> _Span | None:
  """Reads a record; None for a run of unknown length."""
  seconds, devices = record.get("seconds"), record.get("devices")
  try:
    began = datetime.datetime.fromisoformat(record.get("began")).timestamp()
  except (TypeError, ValueError):
    return None
  if seconds is None or devices is None:
    return None
  complete = record.get("ended") == "complete"
  return _Span(began, began + seconds, devices, complete)


def _covered(spans: Sequence[_Span]) -> float:
  """Returns for how many seconds at least one of the runs was at work."""
  seconds, until = 0.0, float("-inf")
  for span in sorted(spans):
    seconds += max(0.0, span.end - max(span.start, until))
    until = max(until, span.end)
  return seconds


def _last(spans: Sequence[_Span]) -> list[_Span]:
  """Returns the runs that made the artifact.

  A task whose folder was deleted has been completed more than once.
  """
  ends = sorted((s for s in spans if s.complete), key=lambda s: s.end)
  before = [s.end for s in ends if s.end <= ends[-1].start]
  since = before[-1] if before else float("-inf")
  return [span for span in spans if span.start >= since]


def _amount(
  task: str, state: Mapping, curves: Sequence[Mapping]
) -> tuple[float | None, str]:
  """Returns how much a complete task has done, and of what."""
  if state.get("state") != "complete":
    return None, ""
  if task in _AMOUNTS:
    part, unit = _AMOUNTS[task]
    rows = [
      file.get("rows", 0)
      for name, file in state["files"].items()
      if part in name
    ]
    return sum(rows), unit
  steps: dict[str, float] = {}
  for curve in curves:
    if curve["task"] == task:  # has a curve for each metric
      done = curve["seeds"] * curve["steps"][-1]
      steps[curve["label"]] = max(done, steps.get(curve["label"], 0))
  return (sum(steps.values()), "steps") if steps else (None, "")


# --- the page ---------------------------------------------------------------


def tiles(results: Mapping) -> list[Tile]:
  """Shows the time of the whole run."""
  cost = results.get("cost") or {"tasks": []}
  if not cost["tasks"]:
    return []
  hours = _hours(cost["device_hours"]).text
  number, *units = duration(cost["seconds"]).split(" ")
  without = f"{hours} device-hours, without this page"
  return [Tile(number, " ".join(units), without)]


def render(results: Mapping) -> str:
  """Shows what each task took, its share, and how fast it was."""
  cost = results.get("cost") or {"tasks": []}
  tasks = cost["tasks"]
  if not tasks:
    return ""
  share = lambda row: markup.ratio(row["seconds"], cost["seconds"])
  columns = {"task": lambda row: row["task"]}
  if any(row["runs"] > 1 for row in tasks):
    columns["runs"] = lambda row: markup.count(row["runs"])
  columns |= {
    "time": lambda row: markup.Number(row["seconds"], duration(row["seconds"])),
    "share (%)": lambda row: markup.percent(share(row)),
    "done": lambda row: _with_unit(markup.count(row["amount"]), row["unit"]),
    "a second": lambda row: _with_unit(
      markup.decimal(row["rate"], 1 if (row["rate"] or 0) >= 1 else 3),
      row["unit"],
    ),
  }
  if len({row["devices"] for row in tasks}) > 1:  # else the text names them
    columns["devices"] = lambda row: row["devices"] or markup.NONE
  columns["device-hours"] = lambda row: _hours(row["device_hours"])
  if cost["price"] is not None:
    columns["price"] = lambda row: markup.Number(
      row["price"], f"{row['price']:,.2f}"
    )
  chart = charts.bars(
    [(row["task"], 100 * (share(row) or 0)) for row in tasks],
    xlabel="share of the time (%)",
    label="Share of each task in the time of the run, in percent",
    signed=False,
  )
  pair = charts.figure(chart, "Where the time went.")
  pair += markup.table(columns, tasks, caption="What each task took")
  return f'{_summary(cost)}<div class="pair lean">{pair}</div>'


def _summary(cost: Mapping) -> str:
  devices = filter(None, dict.fromkeys(row["devices"] for row in cost["tasks"]))
  text = (
    f"The tasks took {duration(cost['seconds'])} and "
    f"{_hours(cost['device_hours'])} device-hours on "
    f"{markup.escape(', '.join(devices) or 'unknown devices')}: the time times "
    "all devices that the processes held, at work or waiting. Compiling, "
    "reading and measuring are part of it, so that what was done in a second "
    "is the mean over a whole task."
  )
  if cost["price"] is not None:
    hour = markup.short(cost["price_per_device_hour"]).text
    text += f" At {hour} for a device-hour that is {cost['price']:,.2f}."
  if cost["unknown"]:
    text += (
      f" Not counted, as their length is not known: {cost['unknown']} of the "
      "runs of tasks, which were killed or are still at work."
    )
  return f"<p>{text}</p>"


def _with_unit(number: markup.Number, unit: str) -> markup.Number:
  text = f"{number.text} {unit}" if unit else number.text
  return number if number.value is None else markup.Number(number.value, text)


def _hours(x: float) -> markup.Number:
  return markup.decimal(x, 3)


def duration(seconds: float) -> str:
  """Writes a time as "0.4 s", "40 s", "3 min 5 s" or "2 h 5 min"."""
  if seconds < 10:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours} h {minutes} min"
  return f"{minutes} min {rest} s" if minutes else f"{rest} s"
