"""Our numbers beside the paper's, as a section of the page."""

from collections.abc import Mapping, Sequence
from html import escape

from synthjax.report import charts as plots
from synthjax.report import html_tables, interval_charts
from synthjax.report.interval_charts import Curve, Point
from synthjax.report.paper import ZERO_SHOT
from synthjax.report.sections import few_shot
from synthjax.report.sections.accuracy import Section, hundred
from synthjax.report.sections.few_shot import interval_words

_HOW = (
  "Numbers in %. Below ours: the 95 % interval of the mean over seeds (t "
  "distribution). With a sign: the difference to the row named above the "
  "table, in points; ours is paired by seed, with its 95 % interval in "
  "brackets."
)
_NOT_RUN = html_tables.Number(None, "not run")


def beside(results: Mapping) -> Section:
  """Shows each table that the config names, the paper's numbers and ours."""
  content = "".join(_one(found) for found in results.get("paper", []))
  if content:
    content = f"<p>{_HOW}</p>{content}"
  return Section("paper", "Ours beside the paper's", content)


def _one(found: Mapping) -> str:
  title = escape(f"{_title(found['key'])}: {found['title']}")
  if found["remark"]:
    title += f' <span class="remark">{escape(found["remark"])}</span>'
  several = len({cell["column"] for cell in found["cells"]}) > 1
  table = _wide(found) if several else _narrow(found)
  charts = _charts(found) if found["key"] == "figure1" else ""
  references = {c["reference"] for c in found["cells"]} - {None}
  words = []
  if references:
    to = f"to “{min(references)}”"
    if len(references) > 1:
      to = "to the row above, on the same images"
    words.append(f"Differences are those {to}.")
  if found["note"]:
    note = found["note"].rstrip(".")
    words.append(f"{note[:1].upper()}{note[1:]}.")
  note = f"<p>{escape(' '.join(words))}</p>" if words else ""
  return f"<h3>{title}</h3>{note}{charts}{table}"


def _title(key: str) -> str:
  """Writes "table2" as "Table 2" and "A13" as "Table A.13"."""
  if key.startswith("A") and key[1:].isdigit():
    return f"Table A.{key[1:]}"
  head = key.rstrip("0123456789")
  return f"{head.replace('_', '-').capitalize()} {key[len(head) :]}".strip()


def _narrow(found: Mapping) -> str:
  """Lays out a table of one column: the paper's data sets side by side."""
  rows = [
    [
      cell["row"],
      *(_paper(cell, name) for name in found["paper"]),
      _ours(cell),
      cell["arm"] or html_tables.NONE,
      _seeds(cell),
    ]
    for cell in found["cells"]
  ]
  head = [
    "row",
    *(f"paper, {name}" for name in found["paper"]),
    f"ours, {found['ours']}",
    "our arm",
    "seeds",
  ]
  return html_tables.table(head, rows, caption=_caption(found))


def _wide(found: Mapping) -> str:
  """Lays out a table of several columns: the paper's rows above ours."""
  cells = {(cell["row"], cell["column"]): cell for cell in found["cells"]}
  columns = list(dict.fromkeys(column for _, column in cells))
  rows = []
  for row in dict.fromkeys(row for row, _ in cells):
    of_row = [cells[row, column] for column in columns]
    for name in found["paper"]:
      of_paper = [_paper(cell, name) for cell in of_row]
      rows.append([row, f"paper, {name}", *of_paper])
    arms = dict.fromkeys(cell["arm"] for cell in of_row if cell["arm"])
    called = [arm for arm in arms if arm != row]
    who = f"ours, {found['ours']}"
    who += f" ({'; '.join(called)})" if called else ""
    rows.append([row, who, *map(_ours, of_row)])
  shots = all(column.isdigit() for column in columns)
  names = [f"{x} shot{'s' * (x != '1')}" for x in columns] if shots else columns
  return html_tables.table(
    ["row", "whose", *names], rows, caption=_caption(found)
  )


def _caption(found: Mapping) -> str:
  return f"{_title(found['key'])}, {found['metric']}"


def _seeds(cell: Mapping) -> html_tables.Number:
  seen = cell["ours"] and cell["arm"] != ZERO_SHOT
  return html_tables.count(cell["ours"]["n"] if seen else None)


def _paper(cell: Mapping, name: str) -> html_tables.Cell:
  number = html_tables.percent(cell["paper"][name], 2)
  if name in cell["approximate"]:
    number = html_tables.Number(number.value, f"≈ {number.text}")
  difference = cell["paper_difference"][name]
  below = [] if difference is None else [html_tables.points(difference, 2).text]
  return html_tables.Cell(number, below)


def _ours(cell: Mapping) -> html_tables.Cell:
  if cell["ours"] is None:
    known = any(share is not None for share in cell["paper"].values())
    return html_tables.Cell(_NOT_RUN if known else html_tables.percent(None))
  below = [] if cell["arm"] == ZERO_SHOT else [interval_words(cell["ours"])]
  if (difference := cell["difference"]) is not None:
    words = html_tables.points(difference["mean"], 2).text
    span = html_tables.span(
      difference["low"], difference["high"], html_tables.points
    )
    below.append(f"{words} ({span})" if span else words)
  return html_tables.Cell(html_tables.percent(cell["ours"]["mean"], 2), below)


# --- Figure 1 ---------------------------------------------------------------


def _charts(found: Mapping) -> str:
  """Draws our curves, and beside them those that the paper draws."""
  cells = found["cells"]
  names = [c for c in dict.fromkeys(c["row"] for c in cells) if c != ZERO_SHOT]
  colours = {name: colour for colour, name in enumerate(names)}
  own = [
    Curve(
      name,
      [
        Point(
          int(cell["column"]),
          *(hundred(cell["ours"][field]) for field in ("mean", "low", "high")),
        )
        for cell in cells
        if cell["row"] == name and cell["ours"]
      ],
      colours[name],
    )
    for name in names
  ]
  start = _start(cells, lambda cell: (cell["ours"] or {}).get("mean"))
  charts = [_chart(own, f"Ours, {found['ours']}", start)]
  for data in found["paper"]:
    printed = [
      Curve(
        name,
        [
          Point(int(cell["column"]), hundred(cell["paper"][data]))
          for cell in cells
          if cell["row"] == name and cell["paper"][data] is not None
        ],
        colours[name],
        printed=True,
      )
      for name in names
    ]
    start = _start(cells, lambda cell, data=data: cell["paper"][data])
    charts.append(_chart(printed, f"The paper's, {data}", start))
  return f'<div class="charts">{"".join(charts)}</div>'


def _start(cells: Sequence[Mapping], value) -> float | None:
  every = [value(cell) for cell in cells if cell["row"] == ZERO_SHOT]
  return hundred(next((x for x in every if x is not None), None))


def _chart(curves: Sequence[Curve], whose: str, start: float | None) -> str:
  drawn = [curve for curve in curves if curve.points]
  if not drawn:
    return ""
  shots = sorted({p.x for curve in drawn for p in curve.points})
  chart = few_shot.chart_of(drawn, shots, "accuracy (%)", start)
  key = interval_charts.legend(
    drawn, reference="" if start is None else "zero-shot"
  )
  return plots.figure(chart, whose, key)
