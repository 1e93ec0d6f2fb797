"""Our numbers beside the paper's."""

from collections.abc import Callable, Mapping, Sequence

from synthjax.report import interval_charts, markup
from synthjax.report.charts import hundred
from synthjax.report.interval_charts import Curve, Point
from synthjax.report.paper_comparison import ZERO_SHOT

PLACE, TITLE = 40, "Ours beside the paper's"

_HOW = (
  "Numbers in %. Below ours: the 95 % interval of the mean over seeds (t "
  "distribution). With a sign: the difference to the row named above the "
  "table, in points; ours is paired by seed, with its 95 % interval in "
  "brackets."
)
_NOT_RUN = markup.Number(None, "not run")


def render(results: Mapping) -> str:
  """Shows each table that the config names, the paper's numbers and ours."""
  content = "".join(_show(one, results) for one in results.get("paper", []))
  if content:
    content = f"<p>{_HOW}</p>{content}"
  return content


def _show(compared: Mapping, results: Mapping) -> str:
  """Shows a table as `paper_comparison.compare` returns it."""
  title = markup.escape(f"{_title(compared['key'])}: {compared['title']}")
  if compared["remark"]:
    title += f' <span class="remark">{markup.escape(compared["remark"])}</span>'
  several = len({cell["column"] for cell in compared["cells"]}) > 1
  rows = _wide(compared) if several else _narrow(compared)
  is_drawn = compared["key"] == "figure1"
  charts = _charts(compared, results) if is_drawn else ""
  references = {cell["reference"] for cell in compared["cells"]} - {None}
  notes = []
  if references:
    to = f"to “{min(references)}”"
    if len(references) > 1:
      to = "to the row above, on the same images"
    notes.append(f"Differences are those {to}.")
  if compared["note"]:
    note = compared["note"].rstrip(".")
    notes.append(f"{note[:1].upper()}{note[1:]}.")
  note = f"<p>{markup.escape(' '.join(notes))}</p>" if notes else ""
  return f"<h3>{title}</h3>{note}{charts}{rows}"


def _title(key: str) -> str:
  """Writes "table2" as "Table 2" and "A13" as "Table A.13"."""
  if key.startswith("A") and key[1:].isdigit():
    return f"Table A.{key[1:]}"
  head = key.rstrip("0123456789")
  return f"{head.replace('_', '-').capitalize()} {key[len(head) :]}".strip()


def _narrow(compared: Mapping) -> str:
  """Lays out a table of one column: the paper's data sets side by side."""
  of_paper = {
    f"paper, {name}": lambda cell, name=name: _paper(cell, name)
    for name in compared["paper"]
  }
  columns = {"row": lambda cell: cell["row"]} | of_paper
  columns |= {
    f"ours, {compared['ours']}": _ours,
    "our arm": lambda cell: cell["arm"] or markup.NONE,
    "seeds": lambda cell: markup.count(
      cell["ours"]["n"] if cell["ours"] and cell["arm"] != ZERO_SHOT else None
    ),
  }
  return markup.table(columns, compared["cells"], caption=_caption(compared))


def _wide(compared: Mapping) -> str:
  """Lays out a table of several columns: the paper's rows above ours."""
  cells = {(cell["row"], cell["column"]): cell for cell in compared["cells"]}
  columns = list(dict.fromkeys(column for _, column in cells))
  rows = []
  for row in dict.fromkeys(row for row, _ in cells):
    of_row = [cells[row, column] for column in columns]
    for name in compared["paper"]:
      printed = [_paper(cell, name) for cell in of_row]
      rows.append([row, f"paper, {name}", *printed])
    arms = dict.fromkeys(cell["arm"] for cell in of_row if cell["arm"])
    others = [arm for arm in arms if arm != row]
    whose = f"ours, {compared['ours']}"
    whose += f" ({'; '.join(others)})" if others else ""
    rows.append([row, whose, *map(_ours, of_row)])
  if all(column.isdigit() for column in columns):
    columns = [f"{x} shot{'s' * (x != '1')}" for x in columns]
  return markup.grid(
    ["row", "whose", *columns], rows, caption=_caption(compared)
  )


def _caption(compared: Mapping) -> str:
  return f"{_title(compared['key'])}, {compared['metric']}"


def _paper(cell: Mapping, name: str) -> markup.Cell:
  share = markup.percent(cell["paper"][name], 2)
  if name in cell["approximate"]:
    share = markup.Number(share.value, f"≈ {share.text}")
  difference = cell["paper_difference"][name]
  return markup.Cell(
    share, [] if difference is None else [markup.points(difference, 2).text]
  )


def _ours(cell: Mapping) -> markup.Cell:
  if cell["ours"] is None:
    in_paper = any(share is not None for share in cell["paper"].values())
    return markup.Cell(_NOT_RUN if in_paper else markup.percent(None))
  below = (
    [] if cell["arm"] == ZERO_SHOT else [markup.interval_or_seed(cell["ours"])]
  )
  if (difference := cell["difference"]) is not None:
    gain = markup.points(difference["mean"], 2).text
    span = markup.interval(difference, markup.points)
    below.append(gain if span == markup.NONE else f"{gain} ({span})")
  return markup.Cell(markup.percent(cell["ours"]["mean"], 2), below)


# --- Figure 1 ---------------------------------------------------------------


def _charts(compared: Mapping, results: Mapping) -> str:
  """Draws our curves, and beside them those that the paper draws."""
  cells = compared["cells"]
  names = (cell["row"] for cell in cells if cell["row"] != ZERO_SHOT)
  colours = interval_charts.method_colours(results, names)
  # A row that is called otherwise than our method has the method's colour.
  rows = {cell["row"]: cell["arm"] for cell in cells if cell["arm"] in colours}
  colours |= {row: colours[arm] for row, arm in rows.items()}
  ours = _chart(
    cells,
    colours,
    lambda cell: cell["ours"],
    f"Ours, {compared['ours']}",
    printed=False,
  )
  printed = [
    _chart(
      cells,
      colours,
      lambda cell, data=data: {"mean": cell["paper"][data]},
      f"The paper's, {data}",
      printed=True,
    )
    for data in compared["paper"]
  ]
  return f'<div class="charts">{ours}{"".join(printed)}</div>'


def _chart(
  cells: Sequence[Mapping],
  colours: Mapping[str, int],
  summary_of: Callable[[Mapping], Mapping | None],
  whose: str,
  *,
  printed: bool,
) -> str:
  """Draws a curve for each row, and zero-shot as a line across."""
  points_of: dict[str, list[Point]] = {}
  start = None
  for cell in cells:
    summary = summary_of(cell) or {}
    mean, low, high = (
      hundred(summary.get(key)) for key in ("mean", "low", "high")
    )
    if cell["row"] == ZERO_SHOT:
      start = mean if start is None else start
      continue
    curve = points_of.setdefault(cell["row"], [])
    if mean is not None:
      curve.append(Point(int(cell["column"]), mean, low, high))
  curves = [
    Curve(name, curve, colours[name], printed)
    for name, curve in points_of.items()
    if curve
  ]
  if not curves:
    return ""
  return interval_charts.over_shots(
    curves,
    sorted({p.x for curve in curves for p in curve.points}),
    ylabel="accuracy (%)",
    zero_shot=start,
    caption=whose,
  )
