"""What was measured, as sections of the page: accuracies, curves, the run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from synthjax.report import charts, html_tables
from synthjax.report.checked_files import number

_DOTS = (
  "Large dots are means over seeds, with bars of ± one standard deviation; "
  "small dots are the seeds. The intervals are those of the mean (t "
  "distribution)."
)
_MAX_BARS = 60  # classes in a chart; of more, the ends


class Section(NamedTuple):
  """A part of the page; without content it is left out."""

  id: str
  title: str
  content: str  # HTML


def headline(results: Mapping) -> dict | None:
  """Chooses the split and the arm that stand for the run.

  The split is "test" if there is one. The arm is the best on validation; never
  the best on the test split itself, whose number would be too good.

  Returns:
    Dict of split, zero_shot, arm (an entry of `accuracy`) and chosen (why); or
    None without any arm.
  """
  entries = [e for e in results.get("accuracy", []) if e["arms"]]
  if not entries:
    return None
  is_validation = lambda entry: entry["split"].startswith("val")
  order = lambda e: (e["split"] != "test", is_validation(e))
  entry = min(entries, key=order)
  arm, chosen = entry["arms"][-1], "the last of the config"
  known = {a["arm"]: a for a in entry["arms"]}
  for other in filter(is_validation, entries):
    scored = [
      a for a in other["arms"] if a["mean"] is not None and a["arm"] in known
    ]
    if scored:
      best = max(scored, key=lambda a: a["mean"])
      arm, chosen = known[best["arm"]], f"the best on {other['split']}"
  return {
    "split": entry["split"],
    "zero_shot": entry["zero_shot"],
    "arm": arm,
    "chosen": chosen,
  }


def accuracy(results: Mapping) -> Section:
  """Shows zero-shot and every arm, on every split."""
  parts = []
  order = lambda e: (e["split"] != "test", e["split"].startswith("val"))
  for entry in sorted(results.get("accuracy", []), key=order):
    split, start = entry["split"], entry["zero_shot"]
    rows: list = [["zero-shot", html_tables.percent(start, 2), *[""] * 6]]
    rows += [
      [
        arm["arm"],
        html_tables.percent(arm["mean"], 2),
        html_tables.span(arm["low"], arm["high"]) or html_tables.NONE,
        html_tables.points(arm["gain"], 2),
        html_tables.percent(arm["gain_stderr"], 2),
        html_tables.percent(arm["std"], 2),
        html_tables.count(arm["n"]),
        html_tables.decimal(
          html_tables.ratio(arm["gain"], arm["gain_stderr"]), 1
        ),
      ]
      for arm in entry["arms"]
    ]
    chart = charts.dots(
      [
        charts.Dot(
          arm["arm"],
          hundred(arm["mean"]),
          hundred(arm["std"]),
          [100 * x for x in arm["values"]],
        )
        for arm in entry["arms"]
      ],
      xlabel=f"accuracy on {split} (%)",
      label=f"Accuracy of each arm on {split}, in percent",
      reference=hundred(start),
    )
    caption = f"Accuracy on {split}" + (
      f"; dashed: zero-shot, {html_tables.percent(start).text} %."
      if number(start) is not None
      else "."
    )
    head = (
      "arm",
      "mean (%)",
      "95 % interval",
      "gain (points)",
      "± std. error",
      "std",
      "seeds",
      "gain / error",
    )
    title = f"Accuracy on {split}"
    parts.append(
      f'<div class="pair lean">{charts.figure(chart, caption)}'
      f"{html_tables.table(head, rows, caption=title)}</div>"
    )
  if parts:
    parts.insert(0, f"<p>{_DOTS}</p>")
  parts.append(_best_epochs(results))
  return Section("accuracy", "Accuracy", "".join(parts))


def _best_epochs(results: Mapping) -> str:
  """Shows the paper's own number, where it was asked for."""
  arms: dict = {}
  for row in results.get("tune", {}).get("rows") or ():
    if number(row.get("best_epoch_on_test")) is not None:
      arms.setdefault(row["arm"], []).append(row["best_epoch_on_test"])
  rows = [
    [arm, html_tables.count(len(of)), html_tables.percent(sum(of) / len(of), 2)]
    for arm, of in arms.items()
  ]
  if not rows:
    return ""
  return html_tables.table(
    ("arm", "seeds", "mean (%)"),
    rows,
    caption="Best epoch, chosen on the test images: too high, as the released "
    "code of the paper prints it",
  )


def classes(results: Mapping) -> Section:
  """Shows what each class gained, and what the filter made of it."""
  names = class_names(results)
  before, after = confusion_pair(results)
  gains, accuracies = {}, {}
  if before and after:
    of_both = zip(
      before["labels"], before["per_class"], after["per_class"], strict=True
    )
    for label, x, y in of_both:
      accuracies[label] = (x, y)
      if x is not None and y is not None:
        gains[label] = y - x
  filtered = {
    row["label"]: row
    for row in results.get("selection", {}).get("by_class", [])
  }
  head, rows = ["class"], []
  if accuracies:
    head += ["zero-shot (%)", f"{after['arm']} (%)", "gain (points)"]
  if filtered:
    head += ["images", "kept", "kept (%)", "mean p_own"]
  for label in dict.fromkeys([*names, *accuracies, *filtered]):
    row: list = [names.get(label, str(label))]
    if accuracies:
      x, y = accuracies.get(label, (None, None))
      row += [html_tables.percent(x), html_tables.percent(y)]
      row += [html_tables.points(gains.get(label))]
    if filtered:
      entry = filtered.get(label, {})
      images, kept = entry.get("images"), entry.get("kept")
      row += [html_tables.count(images), html_tables.count(kept)]
      row += [html_tables.percent(html_tables.ratio(kept, images), 0)]
      row += [html_tables.decimal(entry.get("mean_p_own"), 2)]
    rows.append(row)
  if len(head) == 1:
    return Section("classes", "Classes", "")
  chart = _gain_chart(gains, names, after) if gains else ""
  table = html_tables.table(head, rows, caption="Each class")
  return Section(
    "classes", "Classes", f'<div class="pair lean">{chart}{table}</div>'
  )


def _gain_chart(gains: Mapping, names: Mapping, after: Mapping) -> str:
  order = sorted(gains, key=gains.get, reverse=True)
  note = ""
  if len(order) > _MAX_BARS:
    half = _MAX_BARS // 2
    note = f" The {half} largest and the {half} smallest of {len(order)}."
    order = order[:half] + order[-half:]
  chart = charts.bars(
    [(names.get(label, str(label)), 100 * gains[label]) for label in order],
    xlabel=f"gain in accuracy on {after['split']} (points)",
    label="Gain of each class in accuracy",
  )
  caption = f"{after['arm']} against zero-shot, class by class.{note}"
  return charts.figure(chart, caption)


def confusion_pair(results: Mapping) -> tuple[Any, Any]:
  """Returns the matrices of zero-shot and of the arm of the headline."""
  entries, head = results.get("confusion", []), headline(results)
  split = head["split"] if head else entries[0]["split"] if entries else None
  entries = [e for e in entries if e["split"] == split]
  start = next((e for e in entries if is_zero_shot(e)), None)
  tuned = [e for e in entries if not is_zero_shot(e)]
  named = [e for e in tuned if head and e["arm"] == head["arm"]["arm"]]
  after = (named or tuned or [None])[-1]
  if start and after and len(start["counts"]) != len(after["counts"]):
    return start, None
  return start, after


def is_zero_shot(entry: Mapping) -> bool:
  """Tells the matrix of the untuned classifier, however it is spelt."""
  return entry["arm"].lower().replace("-", "_").replace(" ", "_") == "zero_shot"


def hundred(x: Any) -> float | None:
  """Returns a share as percent, for an axis."""
  x = number(x)
  return None if x is None else 100 * x


def class_names(results: Mapping) -> dict[int, str]:
  """Returns label -> name."""
  return {entry["label"]: entry["name"] for entry in results["classes"]}


# --- which classes are taken for which, as a section of the page -------------

_MAX_DRAWN = 200  # classes whose matrix is drawn
_MAX_CELLS = 50  # classes whose matrix is written out as numbers


def confusion(results: Mapping) -> Section:
  """Shows which classes are taken for which."""
  names = class_names(results)
  chosen = confusion_pair(results)
  entries = results.get("confusion", [])
  first = [e for e in entries if e in chosen]
  others = [e for e in entries if e not in chosen]
  parts = [_matrix(entry, names) for entry in first]
  content = f'<div class="pair">{"".join(parts)}</div>' if parts else ""
  for entry in others:
    title = f"{_arm_name(entry)} on {entry['split']}"
    content += html_tables.details(title, _matrix(entry, names))
  return Section("confusion", "Confusions", content)


def _matrix(entry: Mapping, names: Mapping) -> str:
  counts = entry["counts"]
  words = [names.get(label, str(label)) for label in entry["labels"]]
  title = f"{_arm_name(entry)} on {entry['split']}"
  chart = ""
  if len(counts) <= _MAX_DRAWN:
    chart = charts.figure(
      charts.heatmap(counts, words, label=f"Confusion matrix, {title}"),
      f"{title}: shares of each true class; full colour is 100 %.",
    )
  wrong = [
    (n, n / sum(row), words[i], words[j])
    for i, row in enumerate(counts)
    for j, n in enumerate(row)
    if n and i != j
  ]
  wrong.sort(reverse=True)
  rows = [
    [true, predicted, html_tables.count(n), html_tables.percent(share)]
    for n, share, true, predicted in wrong[:10]
  ]
  head = ("true class", "predicted", "times", "of the class (%)")
  worst = html_tables.table(
    head, rows, caption=f"Most frequent mistakes, {title}"
  )
  whole = ""
  if len(counts) <= _MAX_CELLS:
    table = html_tables.table(
      ["true class", *words],
      [
        [name, *map(html_tables.count, row)]
        for name, row in zip(words, counts, strict=True)
      ],
      caption=f"Counts, {title}, of all its seeds; columns are predictions",
    )
    whole = html_tables.details("All counts", table)
  return f"<div>{chart}{worst}{whole}</div>"


def _arm_name(entry: Mapping) -> str:
  return "zero-shot" if is_zero_shot(entry) else entry["arm"]
