"""A random sample of the drawn images, small enough for one page."""

import base64
import collections
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from synthjax.data.generated import shards
from synthjax.data.generated.filters import FILLED
from synthjax.data.generated.plan import ImageId
from synthjax.data.pipeline.codecs import shrink
from synthjax.data.pipeline.rows import Source
from synthjax.report import markup
from synthjax.report.checked_files import (
  Run,
  files_of,
  read_columns,
  selection_batches,
)
from synthjax.report.results import class_names

PLACE, TITLE = 90, "Drawn images"
_MAX_CANDIDATES = 8_000  # rows to choose from; a random part if there are more
_MAX_BYTES = 3_500_000  # of a page, for all images
_FACTS_BYTES = 700  # of a page, for the facts about an image


class Picture(NamedTuple):
  """An image of the page, with its prompt, score and verdict."""

  id: str
  label: int
  strategy: str
  prompt: str
  seed: int
  p_own: float | None  # of its own class
  kept: bool | None  # None: no filter has looked at it
  reason: str | None
  mime: str
  data: bytes


_FACTS = Picture._fields[:-2]


class Album(NamedTuple):
  """The images of the page: [] or label -> pictures."""

  count: int  # of images drawn, here or not
  samples: dict[int, list[Picture]]  # of all images
  kept: dict[int, list[Picture]]
  dropped: dict[int, list[Picture]]
  left_out: int  # chosen, but too many bytes for a page


def pictures(run: Run, samples_per_class: int) -> dict[str, Album]:
  """Chooses images at random, the same in every call, as `album`.

  Args:
    run: whose images they are.
    samples_per_class: images of each class and strategy, and as many kept and
      dropped ones of each class.

  Returns:
    The images, if any were drawn.

  Raises:
    UserError: if shards, scores or the selection are damaged.
  """
  if not files_of(run, "generate"):
    return {}
  folder = run.workdir / "generate"
  source = shards.open_shards(folder)
  positions = np.arange(len(source))
  if len(positions) > _MAX_CANDIDATES:
    rng = np.random.default_rng(0)
    positions = np.sort(rng.choice(positions, _MAX_CANDIDATES, replace=False))
  index = shards.read_index(folder, len(source), rows=positions)
  rows = [
    {"id": key, "label": label, "strategy": _strategy(key), "position": place}
    for key, label, place in zip(
      *(index[name].tolist() for name in ("id", "label")),
      positions.tolist(),
      strict=True,
    )
  ]
  verdicts = _verdicts(run, {row["id"] for row in rows})
  places = {row["id"]: row["position"] for row in rows}
  rows = [row | verdicts.get(row["id"], {}) for row in rows]
  of_verdict = lambda kept: [row for row in rows if row.get("kept") is kept]
  groups = {
    "samples": _first(rows, samples_per_class, ("label", "strategy")),
    "kept": _first(of_verdict(True), samples_per_class, ("label",)),
    "dropped": _first(of_verdict(False), samples_per_class, ("label",)),
  }
  shown, left_out = _read(source, groups)
  if not files_of(run, "select"):
    _add_scores(run, shown["samples"], places, len(source))
  return {"album": Album(len(source), **shown, left_out=left_out)}


def _strategy(image_id: str) -> str:
  try:
    return ImageId.parse(image_id).strategy
  except ValueError:  # the page also shows images of other programs
    return ""


def _verdicts(run: Run, ids: set[str]) -> dict[str, dict]:
  """Returns id -> the filter's verdict, if there is a filter."""
  if not files_of(run, "select"):
    return {}
  names = ("id", "strategy", "p_own", "kept", "reason")
  rows = (
    row
    for batch in selection_batches(run, names)
    for row in zip(*(batch[name].tolist() for name in names), strict=True)
    if row[0] in ids
  )
  return {
    key: {
      "strategy": strategy,
      "p_own": p_own if np.isfinite(p_own) else None,
      "kept": kept,
      "reason": reason,
    }
    for key, strategy, p_own, kept, reason in rows
  }


def _add_scores(
  run: Run,
  samples: Mapping[int, list[Picture]],
  places: Mapping[str, int],
  count: int,
) -> None:
  """Gives pictures their scores, from the parts that have these alone.

  Args:
    run: whose scores are read, if there are any.
    samples: label -> the pictures of the page.
    places: id -> the row of the image, among all.
    count: of all rows.
  """
  files = files_of(run, "score")
  parts = sorted(name for name in files if name.startswith("scores-"))
  shown = [picture.id for group in samples.values() for picture in group]
  ends = np.cumsum([files[name]["rows"] for name in parts])
  if parts and ends[-1] == count:
    rows = [places[key] for key in shown]
    found = np.unique(np.searchsorted(ends, rows, "right"))
    parts = [parts[i] for i in found]
  scores: dict[str, float | None] = dict.fromkeys(shown)
  for name in parts:
    columns = read_columns(run, "score", name, ("ids", "p_own"))
    p_own = columns["p_own"].tolist()
    for key, share in zip(columns["ids"].tolist(), p_own, strict=True):
      if key in scores and np.isfinite(share):
        scores[key] = share
  for group in samples.values():
    group[:] = [p._replace(p_own=scores[p.id]) for p in group]


def _first(rows: list[dict], count: int, by: Sequence[str]) -> list[list[dict]]:
  """Returns a random `count` rows of each group, as lists of equal rank."""
  groups = collections.defaultdict(list)
  for row in rows:
    groups[tuple(row[key] for key in by)].append(row)
  # The hash of the id is random, and the same tomorrow.
  salt = "".join(by).encode()[:16]
  order = lambda row: hashlib.blake2b(row["id"].encode(), salt=salt).digest()
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

  If a page gets too large, all classes lose the same.
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
        drawn = source[row["position"]]
        mime, data = shrink(drawn["image"])
        size += len(data) * 4 // 3 + _FACTS_BYTES  # as base64
        facts = {key: (row | drawn).get(key) for key in _FACTS}
        picture = Picture(**facts, mime=mime, data=data)
        pictures[name][row["label"]].append(picture)
  best_first = lambda p: -1 if p.p_own is None else -p.p_own
  for name in ("kept", "dropped"):
    for of_class in pictures[name].values():
      of_class.sort(key=best_first)
  for label, of_class in pictures["samples"].items():
    strategies = dict.fromkeys(p.strategy for p in of_class)
    pictures["samples"][label] = [
      p for name in strategies for p in of_class if p.strategy == name
    ]
  return {name: dict(group) for name, group in pictures.items()}, left_out


def render(results: Mapping) -> str:
  """Shows a random sample of each class."""
  album = results.get("album")
  if not album or not album.samples:
    return ""
  names = class_names(results)
  content = (
    f"<p>{markup.count(album.count)} images were drawn; these are a "
    "random part of each class, whatever the filter said of them. Below an "
    "image is the probability of its own class (p_own), or that it fills up a "
    "class of which too few pass the filter. Press an image to enlarge it; the "
    "arrow keys go on from there.</p>"
  )
  if album.left_out:
    content += (
      f"<p>{album.left_out} more were chosen and left out, to keep the page "
      "small.</p>"
    )
  by_class = results.get("selection", {}).get("by_class", [])
  counts = {row["label"]: row for row in by_class}
  several = (
    len({p.strategy for group in album.samples.values() for p in group}) > 1
  )
  cards = []
  for label, pictures in sorted(album.samples.items()):
    name, note = names.get(label, str(label)), ""
    if label in counts:
      kept, images = counts[label]["kept"], counts[label]["images"]
      note = f' <span class="note">{kept} of {images} kept</span>'
    rows = "".join(
      (f'<p class="strategy">{markup.escape(strategy)}</p>' if several else "")
      + thumbs([p for p in pictures if p.strategy == strategy], name)
      for strategy in dict.fromkeys(p.strategy for p in pictures)
    )
    title = f"<h3>{markup.escape(name)}{note}</h3>"
    cards.append(f'<section class="class">{title}{rows}</section>')
  content += f'<div class="classes">{"".join(cards)}</div>'
  return content


def thumbs(pictures: Sequence[Picture], names: str | Sequence[str]) -> str:
  """Returns images that show more when hovered over or pressed.

  Args:
    pictures: of one class, or of any.
    names: of the class, or of that of each picture.
  """
  if isinstance(names, str):
    names = [names] * len(pictures)
  buttons = "".join(map(_thumb, pictures, names))
  return f'<div class="thumbs">{buttons}</div>' if buttons else ""


def _thumb(picture: Picture, name: str) -> str:
  write = lambda digits: (
    markup.NONE if picture.p_own is None else f"{picture.p_own:.{digits}f}"
  )
  verdict, kind, mark, score = "not filtered", "", "", write(2)
  if picture.kept is not None:
    word = "kept" if picture.kept else "dropped"
    kind, mark = f" {word}", "✓ " if picture.kept else "✗ "
    verdict = word
    if picture.reason == FILLED:  # its low score would look like a mistake
      verdict, score = "kept: fills up a class of too few", "fills up"
    elif picture.reason not in (None, "", word):
      verdict += f": {picture.reason}"
  facts = {
    "class": name,
    "prompt": picture.prompt,
    "seed": picture.seed,
    "p_own": write(4),
    "filter": verdict,
    "strategy": picture.strategy or markup.NONE,
    "id": picture.id,
  }
  data = "".join(
    f' data-{k}="{markup.escape(str(v))}"' for k, v in facts.items()
  )
  hover = f"{picture.prompt}\nseed {picture.seed}, p_own {write(2)}, {verdict}"
  code = base64.b64encode(picture.data).decode()
  return (
    f'<button type="button" class="thumb{kind}" title="{markup.escape(hover)}"'
    f"{data}>"
    f'<img src="data:{picture.mime};base64,{code}" alt="{markup.escape(name)}" '
    f'width="64" height="64"><span>{mark}{score}</span></button>'
  )
