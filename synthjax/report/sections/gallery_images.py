"""Chooses the images that the page shows, and makes them small."""

import collections
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from synthjax.data.generated import shards
from synthjax.data.generated.plan import ImageId
from synthjax.data.pipeline.codecs import shrink
from synthjax.data.pipeline.rows import Source
from synthjax.report import checked_files
from synthjax.report.checked_files import number

_MAX_CANDIDATES = 8_000  # rows to choose from; of more, a random part
_MAX_BYTES = 3_500_000  # of a page, for all images
_FACTS_BYTES = 700  # of a page, for what is known about an image


class Picture(NamedTuple):
  """An image of the page and what is known about it."""

  id: str
  label: int
  strategy: str
  prompt: str
  seed: int
  p_own: float | None  # of its own class
  kept: bool | None  # None: no filter has looked at it
  reason: str
  mime: str
  data: bytes


class Album(NamedTuple):
  """The images of the page: [] or label -> pictures."""

  count: int  # of images drawn, here or not
  samples: dict[int, list[Picture]]  # of all images
  kept: dict[int, list[Picture]]
  dropped: dict[int, list[Picture]]
  left_out: int  # chosen, but too many bytes for a page


def choose(
  workdir: epath.PathLike,
  states: Mapping[str, dict],
  samples_per_class: int,
) -> Album | None:
  """Chooses images at random, the same in every call.

  Args:
    workdir: of the run.
    states: of its tasks, as by `reading.task_states`.
    samples_per_class: images of each class and strategy, and as many kept and
      dropped ones of each class.

  Returns:
    The images, or None if none were drawn.

  Raises:
    UserError: if shards, scores or the selection are damaged.
  """
  if states["generate"]["state"] != "complete":
    return None
  source = shards.open_shards(epath.Path(workdir) / "generate")
  positions = np.arange(len(source))
  if len(positions) > _MAX_CANDIDATES:
    rng = np.random.default_rng(0)
    positions = np.sort(rng.choice(positions, _MAX_CANDIDATES, replace=False))
  rows = [_without_image(source[i]) | {"position": i} for i in positions]
  verdicts = _verdicts(workdir, states, {row["id"] for row in rows})
  rows = [row | verdicts.get(row["id"], {}) for row in rows]
  groups = {
    "samples": _first(rows, samples_per_class, ("label", "strategy")),
    "kept": _first(
      [row for row in rows if row.get("kept") is True],
      samples_per_class,
      ("label",),
    ),
    "dropped": _first(
      [row for row in rows if row.get("kept") is False],
      samples_per_class,
      ("label",),
    ),
  }
  pictures, left_out = _read(source, groups)
  return Album(len(source), **pictures, left_out=left_out)


def _without_image(row: dict) -> dict:
  kept = {key: row[key] for key in ("id", "label", "prompt", "seed")}
  try:
    return kept | {"strategy": ImageId.parse(row["id"]).strategy}
  except ValueError:  # a page is made of damaged results, too
    return kept | {"strategy": ""}


def _verdicts(
  workdir: epath.PathLike,
  states: Mapping[str, dict],
  ids: set[str],
) -> dict[str, dict]:
  """Returns id -> what the filter says, or else the score alone."""
  if states["select"]["state"] == "complete":
    return {
      row["id"]: {
        "strategy": str(row.get("strategy", "")),
        "p_own": number(row.get("p_own")),
        "kept": bool(row.get("kept")),
        "reason": str(row.get("reason", "")),
      }
      for row in checked_files.read_rows(
        epath.Path(workdir) / "select",
        "selection.jsonl",
        states["select"]["files"],
      )
      if row.get("id") in ids
    }
  verdicts = {}
  if states["score"]["state"] == "complete":
    files = states["score"]["files"]
    for name in files:
      if not name.startswith("scores-"):
        continue
      arrays = checked_files.read_arrays(
        epath.Path(workdir) / "score", name, files
      )
      own = arrays["p_own"].tolist()
      for key, p_own in zip(arrays["ids"].tolist(), own, strict=True):
        if key in ids:
          verdicts[key] = {"p_own": number(p_own)}
  return verdicts


def _first(rows: list[dict], count: int, by: Sequence[str]) -> list[list[dict]]:
  """Returns a random `count` rows of each group, as lists of equal rank."""
  groups = collections.defaultdict(list)
  for row in rows:
    groups[tuple(row[key] for key in by)].append(row)
  # The hash of the id is random, and the same tomorrow.
  salt = "".join(by).encode()
  order = lambda row: hashlib.blake2b(
    row["id"].encode(), salt=salt[:16]
  ).digest()
  # In the order of the rows, which is that of the strategies.
  chosen = [sorted(group, key=order)[:count] for group in groups.values()]
  return [
    [group[rank] for group in chosen if rank < len(group)]
    for rank in range(count)
  ]


def _read(
  source: Source, groups: Mapping[str, list[list[dict]]]
) -> tuple[dict[str, dict[int, list[Picture]]], int]:
  """Reads the images, the first of every class and group before the second.

  Where a page would get too large, all classes lose the same.
  """
  pictures: dict = {name: collections.defaultdict(list) for name in groups}
  size = left_out = 0
  ranks = max((len(ranks) for ranks in groups.values()), default=0)
  for rank in range(ranks):
    for name, by_rank in groups.items():
      for row in by_rank[rank] if rank < len(by_rank) else ():
        if size > _MAX_BYTES:
          left_out += 1
          continue
        mime, data = shrink(source[row["position"]]["image"])
        size += len(data) * 4 // 3 + _FACTS_BYTES  # as base64
        pictures[name][row["label"]].append(
          Picture(
            row["id"],
            row["label"],
            row["strategy"],
            row["prompt"],
            row["seed"],
            row.get("p_own"),
            row.get("kept"),
            row.get("reason", ""),
            mime,
            data,
          )
        )
  best_first = lambda p: -1 if p.p_own is None else -p.p_own
  for name in ("kept", "dropped"):
    for of_class in pictures[name].values():
      of_class.sort(key=best_first)
  for label, of_class in pictures["samples"].items():
    strategies = dict.fromkeys(p.strategy for p in of_class)
    pictures["samples"][label] = [
      p for name in strategies for p in of_class if p.strategy == name
    ]
  return {name: dict(of) for name, of in pictures.items()}, left_out
