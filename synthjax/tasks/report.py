"""Writes one page about all that a workdir holds."""

import json
import platform
from importlib import metadata

import jax
from etils import epath
from ml_collections import ConfigDict

from synthjax import __version__
from synthjax.config import validate
from synthjax.report import checked_files, page, paper, paper_comparison
from synthjax.report import results as gather
from synthjax.report.sections import costs, detection_drawings, gallery_images
from synthjax.report.sections import run as run_sections
from synthjax.runtime import artifacts, timings
from synthjax.runtime.errors import NOT_NEGATIVE, TEXT, WHOLE, Kind

KNOWN = {
  "title": TEXT,
  "samples_per_class": WHOLE,  # images that are shown, 8 by default
  "price_per_device_hour": NOT_NEGATIVE,  # in any money
  # Tables of the paper to compare with, of report/paper_tables.json.
  "paper": Kind(lambda x: True, ""),  # see paper.check
}
# Encoders of the paper, by the start of their weights.
ENCODERS = {
  "released:clip_rn50/": paper.RN50,
  "released:clip_vit_b16/": paper.VIT_B16,
}
_LIBRARIES = ("jax", "flax", "numpy")


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the block's fields; the block itself may be left out."""
  del workdir
  block = config.get("report", {})
  validate(block, KNOWN, name="report")
  paper.check(block.get("paper", ()))


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `report.html` and `results.json`.

  A report is about the artifacts that are there: when a task has been added or
  made anew since, the page is written again in its place. So what it read
  stands in the summary of the manifest, not in the specification. All that it
  says can be had again from the artifacts.
  """
  if jax.process_index():
    return  # one page is enough
  block = config.get("report", {})
  title = block.get("title") or "What the drawn images taught"
  samples = block.get("samples_per_class", 8)
  folder = epath.Path(workdir) / "report"
  spec = {"title": title, "samples_per_class": samples}
  states = checked_files.task_states(workdir)
  exported, records = run_sections.read(workdir), timings.read(workdir)
  config_read = checked_files.plain(config.to_dict())
  read = {
    "inputs": {task: state.get("digest") for task, state in states.items()},
    "exports": {entry["folder"]: entry["digest"] for entry in exported},
    "runs": sum(record["task"] != "report" for record in records),
    "config": config_read,
  }
  if artifacts.begin(folder, spec):
    if artifacts.load(folder).get("summary") == read:
      return
    (folder / artifacts.MANIFEST).unlink()  # no longer complete

  results = {
    "title": title,
    "config": config_read,
    "versions": {
      "synthjax": __version__,
      "python": platform.python_version(),
      **{name: metadata.version(name) for name in _LIBRARIES},
    },
    "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "tasks": checked_files.plain(states),
    **gather.gather(workdir, states),
  }
  results["exports"] = exported
  results["cost"] = costs.measure(
    records, states, results["curves"], block.get("price_per_device_hour")
  )
  results["paper"] = [
    paper_comparison.compare(
      key, results, space=config.get("space"), encoder=_encoder(config)
    )
    for key in block.get("paper", ())
  ]
  album = gallery_images.choose(workdir, states, samples)
  examples = detection_drawings.choose(workdir, states)
  texts = {
    "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
    "report.html": page.build(results, album, examples),
  }
  for name, text in texts.items():
    with artifacts.replace(folder, name) as path:
      # A prompt may hold half of a character, which UTF-8 has no bytes for.
      path.write_bytes(text.encode("utf-8", "replace"))
  artifacts.finish(folder, spec, dict.fromkeys(texts, 1), **read)


def _encoder(config: ConfigDict) -> str | None:
  """Returns which encoder of the paper a config tunes, if it is one of them."""
  weights = str(config.get("encoder", {}).get("weights", ""))
  starts = (of for of in ENCODERS if weights.startswith(of))
  return ENCODERS.get(next(starts, ""))
