"""Keeps the generated images that show their class, by the scores of CLIP."""

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.config import validate
from synthjax.data.generated import clip_filter
from synthjax.data.generated import scores as stored
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import COUNT
from synthjax.runtime.progress import say

KNOWN = {"max_per_class": COUNT}  # 800 in the paper


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the field, and that there are scores or will be."""
  validate(config.select, KNOWN, name="select", required=KNOWN)
  if "score" not in config.tasks:
    artifacts.load(epath.Path(workdir) / "score")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `selection.jsonl`, a row for each image."""
  block, workdir = config.select.to_dict(), epath.Path(workdir)
  folder, space = workdir / "select", spaces.load_space(config.space)
  stored.check_inputs(workdir / "score", classes=space.class_names)
  spec = {
    "select": block,
    "seed": config.seed,
    "scores": artifacts.digest(workdir / "score"),
    "classes": space.class_names,
  }
  if artifacts.begin(folder, spec):
    return
  scores = stored.read(workdir / "score")
  selected = clip_filter.select(
    scores,
    class_names=space.class_names,
    max_per_class=block["max_per_class"],
    seed=config.seed,
  )
  clip_filter.write(folder, scores, selected)
  counts = _counts(scores, selected)
  artifacts.finish(
    folder, spec, {clip_filter.FILE: len(scores.ids)}, kept=counts
  )
  for name, count in counts.items():
    say(
      f"select: {name}: kept {count['kept']:,} of {count['images']:,} images; "
      f"{count['filled']:,} of them do not pass (1/N), and fill up classes in "
      "which too few do"
    )


def _counts(
  scores: stored.Scores, selected: clip_filter.Selection
) -> dict[str, dict[str, int]]:
  """Counts what passed and what was kept, by strategy."""
  strategies, _ = stored.origin(scores.ids)
  filled = selected.reasons == clip_filter.FILLED
  passed = np.isin(selected.reasons, (clip_filter.KEPT, clip_filter.OVER))
  return {
    str(name): {
      "images": int((strategies == name).sum()),
      "pass": int((passed & (strategies == name)).sum()),
      "kept": int((selected.kept & (strategies == name)).sum()),
      "filled": int((filled & (strategies == name)).sum()),
    }
    for name in np.unique(strategies)
  }
