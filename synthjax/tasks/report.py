"""Writes one page about all that a workdir holds."""

import dataclasses
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Annotated

import jax
from etils import epath
from ml_collections import ConfigDict

from synthjax import __version__
from synthjax.config import schema
from synthjax.config.schema import NotNegative, Whole, one_of
from synthjax.report import page, paper_comparison, sections
from synthjax.report import results as result_numbers
from synthjax.report.checked_files import exports_of, json_data, open_run
from synthjax.runtime import artifacts, timings

# Encoders of the paper, by the start of their weights.
ENCODERS = {
  "released:clip_rn50/": paper_comparison.RN50,
  "released:clip_vit_b16/": paper_comparison.VIT_B16,
}
_LIBRARIES = ("jax", "flax", "numpy")
PaperTable = Annotated[str, one_of(paper_comparison.keys())]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Fields of config.report, which may be left out."""

  title: str | None = None  # of the page
  samples_per_class: Whole = 8  # images that are shown
  price_per_device_hour: NotNegative | None = None  # in any money
  # Tables of report/paper_tables.json to compare with.
  paper: tuple[PaperTable, ...] = ()
  # Our arms, methods or first weights -> the row (or "row, column") of those
  # tables that they stand beside, where names do not say it.
  paper_rows: Mapping[str, str] = dataclasses.field(default_factory=dict)


FIELDS = Report


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields."""
  del workdir
  schema.read(Report, config.get("report"), "config.report")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `report.html` and `results.json`.

  A report is about the artifacts that are there: if a task was added or made
  anew since, the page is written again in its place. So its inputs stand in the
  summary of the manifest, not in the specification. All that the page shows can
  be had again from the artifacts.
  """
  if jax.process_index():
    return  # one page is enough
  fields = schema.read(Report, config.get("report"), "config.report")
  title = fields.title or "What the drawn images taught"
  folder = epath.Path(workdir) / "report"
  spec = {"title": title, "samples_per_class": fields.samples_per_class}
  price = fields.price_per_device_hour
  task_run = open_run(workdir, config.tasks, price)
  config_data = json_data(config.to_dict())
  inputs = {
    "inputs": {t: s.get("digest") for t, s in task_run.states.items()},
    "exports": {
      name: artifacts.digest(path)
      for name, path in exports_of(task_run).items()
    },
    "runs": sum(record["task"] != "report" for record in timings.read(workdir)),
    "config": config_data,
  }
  if artifacts.begin(folder, spec):
    # Older versions also list tasks that have left nothing, with None.
    before = artifacts.load(folder).get("summary") or {}
    if _complete(before) == _complete(inputs):
      return
    (folder / artifacts.MANIFEST).unlink()  # no longer complete

  numbers = result_numbers.gather(task_run)
  results = {
    "title": title,
    "config": config_data,
    "versions": {
      "synthjax": __version__,
      "python": platform.python_version(),
      **{name: metadata.version(name) for name in _LIBRARIES},
    },
    "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "tasks": task_run.states,
    **numbers,
  }
  results["paper"] = [
    paper_comparison.compare(
      key,
      results,
      space=config.get("space"),
      encoder=_encoder(config),
      rows=fields.paper_rows,
    )
    for key in fields.paper
  ]
  pictures = {}
  for section in sections.modules():
    if hasattr(section, "pictures"):
      pictures |= section.pictures(task_run, fields.samples_per_class)
  texts = {
    "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
    "report.html": page.build(results | pictures),
  }
  for name, text in texts.items():
    with artifacts.replace(folder, name) as path:
      # A prompt may hold half of a character, which UTF-8 has no bytes for.
      path.write_bytes(text.encode("utf-8", "replace"))
  artifacts.finish(folder, spec, dict.fromkeys(texts, 1), **inputs)


def _complete(summary: dict) -> dict:
  """Returns the summary of a report without tasks that have left nothing."""
  digests = summary.get("inputs") or {}
  return summary | {"inputs": {k: v for k, v in digests.items() if v}}


def _encoder(config: ConfigDict) -> str | None:
  """Returns which encoder of the paper a config tunes, if it is one of them."""
  weights = str(config.get("encoder", {}).get("weights", ""))
  starts = (start for start in ENCODERS if weights.startswith(start))
  return ENCODERS.get(next(starts, ""))
