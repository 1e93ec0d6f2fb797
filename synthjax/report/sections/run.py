"""How the run went, as sections of the page: training curves, tasks, config."""

import json
from collections.abc import Mapping
from html import escape

from etils import epath

from synthjax.report import charts, html_tables
from synthjax.report.sections.accuracy import Section
from synthjax.runtime import artifacts

_MAX_LINES = 12  # in one chart


def curves(results: Mapping) -> Section:
  """Shows the losses of each training, and other metrics behind a line."""
  groups: dict = {}
  for curve in results["curves"]:
    groups.setdefault((curve["task"], curve["metric"]), []).append(curve)
  losses, others = [], []
  for (task, metric), of in groups.items():
    chart = _chart(task, metric, of)
    (losses if "loss" in metric else others).append(chart)
  rows = [
    [
      f"{curve['task']}: {curve['label']}",
      curve["metric"],
      html_tables.count(curve["seeds"]),
      html_tables.count(curve["steps"][-1]),
      html_tables.short(curve["first"]),
      html_tables.short(curve["last"]),
      html_tables.short(curve["least"]),
    ]
    for curve in results["curves"]
  ]
  if not rows:
    return Section("curves", "Training", "")
  table = html_tables.table(
    ("training", "metric", "seeds", "steps", "first", "last", "least"),
    rows,
    caption="Where each curve starts and ends (means over seeds)",
  )
  content = f'<div class="charts">{"".join(losses)}</div>' if losses else ""
  if others:
    grid = f'<div class="charts">{"".join(others)}</div>'
    content += html_tables.details("Other metrics", grid, opened=not losses)
  content += html_tables.details("As a table", table)
  return Section("curves", "Training", content)


def _chart(task: str, metric: str, curves: list) -> str:
  shown = curves[:_MAX_LINES]
  names = [curve["label"] for curve in shown]
  more = len(curves) - len(shown)
  caption = f"{task}: {metric}" + (
    f" (the first {len(shown)} of {len(curves)})" if more else ""
  )
  if any(curve["seeds"] > 1 for curve in shown):
    caption += ", mean over seeds"
  chart = charts.lines(
    [(c["label"], c["steps"], c["values"]) for c in shown],
    xlabel="step",
    ylabel=metric,
    label=f"{metric} of {task} over its steps",
  )
  return charts.figure(chart, caption, charts.legend(names))


def run(results: Mapping) -> Section:
  """Shows the tasks, what they left, versions and the config."""
  rows = []
  for task, state in results["tasks"].items():
    if state["state"] == "missing":
      continue
    files = state.get("files", {})
    rows.append(
      [
        task,
        state["state"],
        html_tables.count(len(files)),
        html_tables.count(sum(f.get("rows", 0) for f in files.values())),
        html_tables.short(sum(f.get("bytes", 0) for f in files.values()) / 1e6),
        (state.get("digest") or "")[:12],
      ]
    )
  head = ("task", "state", "files", "rows", "size (MB)", "digest")
  content = html_tables.table(head, rows, caption="Tasks") if rows else ""
  content += _versions(results)
  content += html_tables.details("Config", _json(results["config"]))
  specs = {
    task: {"spec": state["spec"], "summary": state["summary"]}
    for task, state in results["tasks"].items()
    if state["state"] == "complete"
  }
  if specs:
    content += html_tables.details("Specifications of the tasks", _json(specs))
  return Section("run", "Run", content)


def _versions(results: Mapping) -> str:
  """Shows the versions each task ran with, where they are known."""
  runs = {
    task: state["versions"]
    for task, state in results["tasks"].items()
    if state["state"] == "complete"
  } | {"report": results["versions"]}
  libraries = list(dict.fromkeys(key for of in runs.values() for key in of))
  rows = [
    [task, *(str(of.get(name, html_tables.NONE)) for name in libraries)]
    for task, of in runs.items()
  ]
  table = html_tables.table(["task", *libraries], rows, caption="Versions")
  return html_tables.details("Versions", table)


def _json(value) -> str:
  from html import escape

  text = json.dumps(value, indent=2, ensure_ascii=False)
  return (
    '<pre class="scroll" tabindex="0" role="region" aria-label="JSON">'
    f"{escape(text)}</pre>"
  )


# --- the data sets that a run has exported, as a section of the page ---------

# What a folder of each format holds.
FORMATS = {
  "webdataset": "WebDataset: tar files",
  "png_folder": "a folder of images for each class",
  "parquet": "Parquet, for Hugging Face",
  "coco": "COCO: images, and boxes in JSON",
  "voc": "PASCAL VOC: images, and boxes in XML",
}


def read(workdir: epath.PathLike) -> list[dict]:
  """Returns what `export` has left, format by format.

  Returns:
    Dicts of format, folder (in the workdir), images (how many, of all splits),
    split (words), selection (whether the filter has chosen them, or None where
    nothing could be filtered), files, bytes and digest.

  Raises:
    UserError: if a manifest is damaged.
  """
  folder, found = epath.Path(workdir) / "export", []
  for path in sorted(folder.iterdir()) if folder.exists() else ():
    if not (path / artifacts.MANIFEST).exists():
      continue
    manifest = artifacts.load(path)
    spec, images = manifest["spec"], manifest["summary"].get("images", 0)
    splits = images if isinstance(images, Mapping) else {}
    found.append(
      {
        "format": spec.get("format", path.name),
        "folder": f"export/{path.name}",
        "images": sum(splits.values()) if splits else images,
        "split": ", ".join(splits) or spec.get("split", ""),
        "selection": spec["selection"] is not None
        if "selection" in spec
        else None,
        "files": len(manifest["files"]),
        "bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "digest": artifacts.digest(path),
      }
    )
  return found


def export(results: Mapping) -> Section:
  """Shows which formats there are, where they lie and how large they are."""
  rows = [
    [
      entry["folder"],
      FORMATS.get(entry["format"], entry["format"]),
      {True: "kept", False: "all drawn", None: "scenes"}[entry["selection"]],
      entry["split"],
      html_tables.count(entry["images"]),
      html_tables.count(entry["files"]),
      html_tables.short(entry["bytes"] / 1e6),
    ]
    for entry in results.get("exports") or ()
  ]
  if not rows:
    return Section("export", "Exports", "")
  head = ("folder", "format", "which", "split", "images", "files", "size (MB)")
  table = html_tables.table(head, rows, caption="Folders of the workdir")
  manifest = f"<code>{escape(artifacts.MANIFEST)}</code>"
  return Section(
    "export",
    "Exports",
    "<p>The images for other programs, each format in a folder of its own; "
    f"its {manifest} has the SHA-256 of every file.</p>{table}",
  )
