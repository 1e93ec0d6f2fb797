"""Accuracies of the arms of `tune` or `practice`, beside zero-shot."""

from collections.abc import Mapping
from typing import Any

from synthjax.evals.arms import ZERO_SHOT
from synthjax.report import charts, markup
from synthjax.report.charts import hundred
from synthjax.report.checked_files import Run
from synthjax.report.sections import Tile

PLACE, TITLE = 10, "Accuracy"
_DOTS = (
  "Large dots are means over seeds, with bars of ± one standard deviation; "
  "small dots are the seeds. The intervals are those of the mean (t "
  "distribution)."
)
_COLUMNS = {
  "arm": lambda arm: arm["arm"],
  "mean (%)": lambda arm: markup.percent(arm["mean"], 2),
  "95 % interval": markup.interval,
  "gain (points)": lambda arm: markup.points(arm["gain"], 2),
  "± std. error": lambda arm: markup.percent(arm["gain_stderr"], 2),
  "std": lambda arm: markup.percent(arm["std"], 2),
  "seeds": lambda arm: markup.count(arm["n"]),
  "gain / error": lambda arm: markup.decimal(
    markup.ratio(arm["gain"], arm["gain_stderr"]), 1
  ),
}


def gather(run: Run, results: Mapping) -> dict[str, Any]:
  """Adds `accuracy`, of `by_split`."""
  del run
  found = results.get("tune") or results.get("practice")
  return {"accuracy": by_split(found)} if found else {}


def by_split(compared: Mapping) -> list[dict]:
  """Sorts the results of a task that compares arms by the split.

  Args:
    compared: as of `arms.compare`.

  Returns:
    Dicts of split, zero_shot (a share or None) and arms: the summaries of this
    split, with the `values` of their seeds.
  """
  values: dict = {}
  for row in compared["rows"]:
    for split, share in row["accuracy"].items():
      if share is not None:
        values.setdefault((split, row["arm"]), []).append(share)
  return [
    {
      "split": split,
      "zero_shot": zero_shot,
      "arms": [
        {**summary, "values": values.get((split, summary["arm"]), [])}
        for summary in compared["summary"]
        if summary["split"] == split
      ],
    }
    for split, zero_shot in compared["zero_shot"].items()
  ]


def choose_arm(results: Mapping) -> dict | None:
  """Chooses the split and the arm that stand for the run.

  The split is "test" if there is one. The arm is the best on validation; never
  the best on the test split itself, whose number would be too good.

  Returns:
    Dict of split, zero_shot, arm (an entry of `by_split`) and chosen (why); or
    None without any arm.
  """
  entries = [e for e in results.get("accuracy", []) if e["arms"]]
  if not entries:
    return None
  entry = min(entries, key=_order)
  arm, chosen = entry["arms"][-1], "the last of the config"
  arms = {arm["arm"]: arm for arm in entry["arms"]}
  for other in filter(_is_validation, entries):
    measured = [
      a for a in other["arms"] if a["mean"] is not None and a["arm"] in arms
    ]
    if measured:
      best = max(measured, key=lambda a: a["mean"])
      arm, chosen = arms[best["arm"]], f"the best on {other['split']}"
  return {
    "split": entry["split"],
    "zero_shot": entry["zero_shot"],
    "arm": arm,
    "chosen": chosen,
  }


def choose_matrices(results: Mapping) -> tuple[Any, Any]:
  """Returns the matrices of zero-shot and of the arm that stands for the run.

  Either is None where there is none, or none of as many classes.
  """
  matrices, choice = results.get("confusion", []), choose_arm(results)
  if choice:
    matrices = [m for m in matrices if m["split"] == choice["split"]]
  before = next((m for m in matrices if m["arm"] == ZERO_SHOT), None)
  tuned = [m for m in matrices if m["arm"] != ZERO_SHOT]
  chosen = [m for m in tuned if choice and m["arm"] == choice["arm"]["arm"]]
  after = (chosen or tuned or [None])[-1]
  if before and after and len(before["counts"]) != len(after["counts"]):
    return before, None
  return before, after


def _order(entry: Mapping) -> tuple:
  """Sorts "test" first and validation last."""
  return entry["split"] != "test", _is_validation(entry)


def _is_validation(entry: Mapping) -> bool:
  return entry["split"].startswith("val")


def headline(results: Mapping) -> list[Tile]:
  """Shows zero-shot, the chosen arm and its gain."""
  if not (choice := choose_arm(results)):
    return []
  arm, split = choice["arm"], choice["split"]
  error, seeds = (
    markup.percent(arm["gain_stderr"]).text,
    markup.count(arm["n"]).text,
  )
  return [
    Tile(
      markup.percent(choice["zero_shot"]).text, "%", f"zero-shot on {split}"
    ),
    Tile(
      markup.percent(arm["mean"]).text,
      "%",
      f"{arm['arm']} on {split}, {choice['chosen']}",
    ),
    Tile(
      markup.points(arm["gain"]).text,
      f"± {error}",
      f"points of gain ± standard error, {seeds} seeds",
    ),
  ]


def render(results: Mapping) -> str:
  """Shows zero-shot and every arm, on every split."""
  parts = []
  for entry in sorted(results.get("accuracy", []), key=_order):
    title, start = (
      f"Accuracy on {entry['split']}",
      markup.percent(entry["zero_shot"]),
    )
    chart = charts.dots(
      [charts.dot(arm["arm"], arm) for arm in entry["arms"]],
      xlabel=f"accuracy on {entry['split']} (%)",
      label=f"Accuracy of each arm on {entry['split']}, in percent",
      reference=hundred(start.value),
    )
    dashed = (
      "" if start.value is None else f"; dashed: zero-shot, {start.text} %"
    )
    rows = markup.table(
      _COLUMNS,
      entry["arms"],
      caption=title,
      first=[["zero-shot", markup.percent(start.value, 2), *[""] * 6]],
    )
    parts.append(
      '<div class="pair lean">'
      f"{charts.figure(chart, f'{title}{dashed}.')}{rows}</div>"
    )
  if parts:
    parts.insert(0, f"<p>{_DOTS}</p>")
  parts.append(_best_epochs(results))
  return "".join(parts)


def _best_epochs(results: Mapping) -> str:
  """Shows the paper's own number, if the config asked for it."""
  arms: dict = {}
  for row in results.get("tune", {}).get("rows") or ():
    if row.get("best_epoch_on_test") is not None:
      arms.setdefault(row["arm"], []).append(row["best_epoch_on_test"])
  rows = [
    [
      arm,
      markup.count(len(shares)),
      markup.percent(sum(shares) / len(shares), 2),
    ]
    for arm, shares in arms.items()
  ]
  caption = (
    "Best epoch, chosen on the test images: too high, as the released code of "
    "the paper prints it"
  )
  head = ("arm", "seeds", "mean (%)")
  return markup.grid(head, rows, caption=caption) if rows else ""
