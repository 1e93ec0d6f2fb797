"""Keeps the generated images that show their class, by the scores of CLIP."""

import dataclasses
from collections.abc import Iterable

from etils import epath
from ml_collections import ConfigDict

from synthjax.config import schema
from synthjax.data.generated import filters, scores
from synthjax.data.generated.drawn_images import SELECTION
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.progress import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Select:
  """config.select."""

  max_per_class: schema.Count | None = None  # 800 in the paper
  # Of the images of each class, in place of a number: where classes have
  # different numbers of images, or some have none.
  share: schema.Inside | None = None

  def problems(self) -> Iterable[str]:
    if (self.max_per_class is None) == (self.share is None):
      found = "lacks" if self.share is None else "has"
      yield f"it {found} max_per_class and share: give one of the two"


FIELDS = Select


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the field, and that there are scores or will be."""
  schema.read(Select, config.select, "config.select")
  if "score" not in config.tasks:
    artifacts.load(epath.Path(workdir) / "score")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `selection.parquet`, a row for each image."""
  fields = schema.read(Select, config.select, "config.select")
  workdir = epath.Path(workdir)
  folder, space = workdir / "select", spaces.load_space(config.space)
  scores.check_inputs(workdir / "score", classes=space.class_names)
  spec = {
    "select": config.select.to_dict(),
    "seed": config.seed,
    "scores": artifacts.digest(workdir / "score", repairable=True),
    "classes": space.class_names,
  }
  # The selection is one file, which the new one replaces.
  if artifacts.begin(folder, spec, renew=lambda: None):
    return
  names = ("ids", "labels", "p_own")
  scored = scores.read(workdir / "score", names, ids_on_disk=True)
  selected = filters.select(
    scored,
    class_names=space.class_names,
    max_per_class=fields.max_per_class,
    share=fields.share,
    seed=config.seed,
  )
  filters.write(folder, scored, selected)
  counts = _counts(selected)
  artifacts.finish(folder, spec, {SELECTION: len(scored.ids)}, kept=counts)
  for name, count in counts.items():
    say(
      f"select: {name}: kept {count['kept']:,} of {count['images']:,} images; "
      f"{count['filled']:,} of them do not pass (1/N), and fill up classes in "
      "which too few do"
    )


def _counts(selected: filters.Selection) -> dict[str, dict[str, int]]:
  """Counts the images, those that pass and those that are kept, by strategy."""
  strategies = selected.strategies
  filled = selected.reasons == filters.FILLED
  passed = (selected.reasons == filters.KEPT) | (
    selected.reasons == filters.OVER
  )
  return {
    str(name): {
      "images": int((strategies == name).sum()),
      "pass": int((passed & (strategies == name)).sum()),
      "kept": int((selected.kept & (strategies == name)).sum()),
      "filled": int((filled & (strategies == name)).sum()),
    }
    for name in sorted(set(strategies.tolist()))
  }
