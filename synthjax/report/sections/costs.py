"""What a run cost: the time of each task, on how many devices, in money."""

import datetime
from collections.abc import Mapping, Sequence
from html import escape

from synthjax.report import charts, html_tables
from synthjax.report.checked_files import number
from synthjax.report.sections.accuracy import Section

_HOUR = 3600  # seconds
_AMOUNTS = {  # task -> what its files have in their names, and their rows are
  "generate": (".array_record-", "images"),
  "score": ("scores-", "images"),
}


def measure(
  records: Sequence[Mapping],
  states: Mapping[str, Mapping],
  curves: Sequence[Mapping],
  price: float | None,
) -> dict:
  """Adds up what runs of tasks have taken.

  Args:
    records: of `timings.read`; those of `report` are left out, as the page is
      written before its own time is known.
    states: of the tasks, as by `reading.task_states`.
    curves: as of `curves.curves`.
    price: of an hour of one device, or None.

  Returns:
    Dict of tasks, seconds, device_hours, unknown (runs whose length is not
    known), price_per_device_hour and price (or None). Each of `tasks` is a dict
    of task, runs, unknown, seconds (of the clock: runs at the same time count
    once), device_hours, devices (words), amount, unit and rate: how much the
    task did, and how much in a second, where known; and price.
  """
  of: dict[str, list[Mapping]] = {}
  for record in records:
    if record["task"] != "report":
      of.setdefault(record["task"], []).append(record)
  order = {task: i for i, task in enumerate(states)}
  tasks = [
    _task(task, of[task], states.get(task, {}), curves, price)
    for task in sorted(of, key=lambda task: order.get(task, len(order)))
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
  hours = sum(
    (end - start) * devices / _HOUR for start, end, devices, _ in spans
  )
  amount, unit = _amount(task, state, curves)
  last = _last(spans)
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
    "rate": None if unknown else html_tables.ratio(amount, _covered(last)),
    "price": None if price is None else hours * price,
  }


def _span(record: Mapping) -> tuple[float, float, int, bool] | None:
  """Returns start and end (seconds), devices, and whether it was completed."""
  seconds, devices = map(number, (record.get("seconds"), record.get("devices")))
  try:
    began = datetime.datetime.fromisoformat(record.get("began")).timestamp()
  except (TypeError, ValueError):
    return None
  if seconds is None or devices is None:
    return None
  return began, began + seconds, devices, record.get("ended") == "complete"


def _covered(spans: Sequence[tuple]) -> float:
  """Returns for how many seconds at least one of the runs was at work."""
  seconds, until = 0.0, float("-inf")
  for start, end, *_ in sorted(spans):
    seconds += max(0.0, end - max(start, until))
    until = max(until, end)
  return seconds


def _last(spans: Sequence[tuple]) -> list[tuple]:
  """Returns the runs that made what is there.

  A task whose folder was deleted has been completed more than once.
  """
  ends = [span for span in spans if span[3]]
  if not ends:
    return list(spans)
  start = max(ends, key=lambda span: span[1])[0]
  before = max((span[1] for span in ends if span[1] <= start), default=None)
  return [span for span in spans if before is None or span[0] >= before]


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


def cost(results: Mapping) -> Section:
  """Shows what each task took, its share, and how fast it was."""
  found = results.get("cost") or {"tasks": []}
  tasks = found["tasks"]
  if not tasks:
    return Section("cost", "Cost", "")
  columns = {
    "task": True,
    "runs": any(row["runs"] > 1 for row in tasks),
    "time": True,
    "share (%)": True,
    "done": True,
    "a second": True,
    "devices": len({row["devices"] for row in tasks}) > 1,  # else in the words
    "device-hours": True,
    "price": found["price"] is not None,
  }
  rows = [
    [
      cell
      for cell, shown in zip(_row(row, found), columns.values(), strict=True)
      if shown
    ]
    for row in tasks
  ]
  head = [name for name, shown in columns.items() if shown]
  table = html_tables.table(head, rows, caption="What each task took")
  chart = charts.bars(
    [
      (
        row["task"],
        100 * (html_tables.ratio(row["seconds"], found["seconds"]) or 0),
      )
      for row in tasks
    ],
    xlabel="share of the time (%)",
    label="Share of each task in the time of the run, in percent",
    signed=False,
  )
  pair = f"{charts.figure(chart, 'Where the time went.')}{table}"
  return Section(
    "cost", "Cost", f'{_words(found)}<div class="pair lean">{pair}</div>'
  )


def _words(found: Mapping) -> str:
  devices = dict.fromkeys(row["devices"] for row in found["tasks"])
  words = (
    f"The tasks took {duration(found['seconds'])} and "
    f"{_hours(found['device_hours']).text} device-hours on "
    f"{escape(', '.join(filter(None, devices)) or 'unknown devices')}: the "
    "time times all devices that the processes held, at work or waiting. "
    "Compiling, reading and measuring are part of it, so that what was done "
    "in a second is the mean over a whole task."
  )
  if found["price"] is not None:
    each = html_tables.short(found["price_per_device_hour"]).text
    price = f"{found['price']:,.2f}"
    words += f" At {each} for a device-hour that is {price}."
  if found["unknown"]:
    words += (
      f" Not counted, as their length is not known: {found['unknown']} of the "
      "runs of tasks, which were killed or are still at work."
    )
  return f"<p>{words}</p>"


def _row(row: Mapping, found: Mapping) -> list:
  unit = f" {row['unit']}" if row["unit"] else ""
  write = lambda x, text: html_tables.Number(
    x, html_tables.NONE if x is None else text
  )
  amount = html_tables.count(row["amount"])
  rate = html_tables.decimal(row["rate"], 1 if (row["rate"] or 0) >= 1 else 3)
  return [
    row["task"],
    html_tables.count(row["runs"]),
    html_tables.Number(row["seconds"], duration(row["seconds"])),
    html_tables.percent(html_tables.ratio(row["seconds"], found["seconds"])),
    write(row["amount"], f"{amount.text}{unit}"),
    write(row["rate"], f"{rate.text}{unit}"),
    row["devices"] or html_tables.NONE,
    _hours(row["device_hours"]),
    write(row["price"], f"{row['price'] or 0:,.2f}"),
  ]


def _hours(x: float) -> html_tables.Number:
  return html_tables.decimal(x, 3)


def duration(seconds: float) -> str:
  """Writes a time as "0.4 s", "40 s", "3 min 5 s" or "2 h 5 min"."""
  if seconds < 10:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours} h {minutes} min"
  return f"{minutes} min {rest} s" if minutes else f"{rest} s"
