"""Images and prompts, as sections of the page."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

from synthjax.data.generated.clip_filter import FILLED
from synthjax.report import charts, html_tables
from synthjax.report.results import NUM_BINS
from synthjax.report.sections.accuracy import Section, class_names
from synthjax.report.sections.gallery_images import Album, Picture

_MAX_OPEN = 20  # rows of prompts that are shown without being asked for
_FILLED = (
  "Filled: kept although they do not pass, as the best of a class in which too "
  "few do."
)


def images(results: Mapping, album: Album | None) -> Section:
  """Shows a random sample of each class."""
  if album is None or not album.samples:
    return Section("images", "Drawn images", "")
  names = class_names(results)
  content = (
    f"<p>{html_tables.count(album.count).text} images were drawn; these are a "
    "random part of each class, whatever the filter said of them. Below an "
    "image is the probability of its own class (p_own). Press an image to "
    "enlarge it; the arrow keys go on from there.</p>"
  )
  if album.left_out:
    content += (
      f"<p>{album.left_out} more were chosen and left out, to keep the page "
      "small.</p>"
    )
  counts = {
    row["label"]: row
    for row in results.get("selection", {}).get("by_class", [])
  }
  cards, of = [], [p for pictures in album.samples.values() for p in pictures]
  several = len({picture.strategy for picture in of}) > 1
  for label, pictures in sorted(album.samples.items()):
    name = names.get(label, str(label))
    note = ""
    if label in counts:
      kept, of = counts[label]["kept"], counts[label]["images"]
      note = f' <span class="note">{kept} of {of} kept</span>'
    rows = "".join(
      (f'<p class="strategy">{escape(strategy)}</p>' if several else "")
      + _thumbs([p for p in pictures if p.strategy == strategy], name)
      for strategy in dict.fromkeys(p.strategy for p in pictures)
    )
    title = f"<h3>{escape(name)}{note}</h3>"
    cards.append(f'<section class="class">{title}{rows}</section>')
  content += f'<div class="classes">{"".join(cards)}</div>'
  return Section("images", "Drawn images", content)


def selection(results: Mapping, album: Album | None) -> Section:
  """Shows what the filter kept, what it dropped and why."""
  found = results.get("selection")
  if not found:
    return Section("filter", "Filter", "")
  kept, dropped = found["histogram"]["kept"], found["histogram"]["dropped"]
  # Above it an image may pass: p_own > 1/N.
  chance = 1 / len(results["classes"]) if results["classes"] else None
  chart = charts.histogram(
    [kept, dropped],
    xlabel="p_own, the probability of the own class",
    ylabel="images",
    label="Kept and dropped images by p_own",
    reference=chance,
  )
  caption = "Images by p_own. Dashed: 1/N, the threshold of the CLIP filter."
  bins = [
    [
      f"{i / NUM_BINS:.2f} to {(i + 1) / NUM_BINS:.2f}",
      html_tables.count(a),
      html_tables.count(b),
    ]
    for i, (a, b) in enumerate(zip(kept, dropped, strict=True))
  ]
  histogram = charts.figure(chart, caption, charts.legend(["kept", "dropped"]))
  total = found["images"]
  reasons = [
    [reason or "no reason given", html_tables.count(n), _share(n, total)]
    for reason, n in sorted(found["reasons"].items(), key=lambda x: -x[1])
  ]
  strategies = [
    [
      name or "all",
      html_tables.count(of["images"]),
      html_tables.count(of["kept"]),
      _share(of["kept"], of["images"]),
    ]
    for name, of in found["by_strategy"].items()
  ]
  content = (
    f'<div class="pair">{histogram}<div>'
    + html_tables.table(
      ("reason", "images", "of all (%)"),
      reasons,
      caption="What the filter said",
    )
    + (f'<p class="note">{_FILLED}</p>' if FILLED in found["reasons"] else "")
    + html_tables.table(
      ("strategy", "images", "kept", "kept (%)"),
      strategies,
      caption="Kept by strategy",
    )
    + html_tables.details(
      "Histogram as a table",
      html_tables.table(
        ("p_own", "kept", "dropped"), bins, caption="Images by p_own"
      ),
    )
    + "</div></div>"
  )
  return Section(
    "filter", "Filter", content + _kept_and_dropped(results, album)
  )


def _kept_and_dropped(results: Mapping, album: Album | None) -> str:
  if album is None:
    return ""
  names, parts = class_names(results), []
  by_class = {row["label"]: row for row in results["selection"]["by_class"]}
  for label in sorted({*album.kept, *album.dropped}):
    name, row = names.get(label, str(label)), by_class.get(label, {})
    reasons = sorted(row.get("reasons", {}).items(), key=lambda x: -x[1])
    why = ", ".join(f"{n} {reason}" for reason, n in reasons)
    kept, dropped = album.kept.get(label, []), album.dropped.get(label, [])
    parts.append(
      f'<section class="class"><h4>{escape(name)} '
      f'<span class="note">{escape(why)}</span></h4>'
      f'<div class="versus"><div><p class="strategy">kept</p>'
      f"{_thumbs(kept, name) or '<p>none</p>'}</div>"
      f'<div><p class="strategy">dropped</p>'
      f"{_thumbs(dropped, name) or '<p>none</p>'}</div></div></section>"
    )
  if not parts:
    return ""
  return (
    "<h3>Kept against dropped</h3><p>Random images of both kinds, the highest "
    f'p_own first.</p><div class="classes">{"".join(parts)}</div>'
  )


def prompts(results: Mapping) -> Section:
  """Shows what the generator was asked for."""
  found = results.get("prompts")
  if not found:
    return Section("prompts", "Prompts", "")
  names = class_names(results)
  rows = [
    [
      names.get(entry["label"], str(entry["label"])),
      entry["strategy"],
      html_tables.count(entry["count"]),
      " · ".join(entry["texts"]),
    ]
    for entry in found["examples"]
  ]
  parts = ", ".join(
    f"{html_tables.count(n).text} {name}"
    for name, n in found["by_strategy"].items()
  )
  table = html_tables.table(
    ("class", "strategy", "prompts", "examples"), rows, caption="Prompts"
  )
  intro = (
    f"<p>{html_tables.count(found['count']).text} prompts: {escape(parts)}.</p>"
  )
  return Section(
    "prompts",
    "Prompts",
    intro
    + html_tables.details(
      "Examples of each class", table, opened=len(rows) <= _MAX_OPEN
    ),
  )


def _thumbs(pictures: Sequence[Picture], name: str) -> str:
  if not pictures:
    return ""
  return (
    f'<div class="thumbs">{"".join(_thumb(p, name) for p in pictures)}</div>'
  )


def _thumb(picture: Picture, name: str) -> str:
  """Returns an image that shows more when hovered over or pressed."""
  p_own = html_tables.NONE if picture.p_own is None else f"{picture.p_own:.2f}"
  verdict, kind, mark = "not filtered", "", ""
  if picture.kept is not None:
    word = "kept" if picture.kept else "dropped"
    mark = "✓ " if picture.kept else "✗ "
    kind, reason = f" {word}", picture.reason
    verdict = word if reason in ("", word) else f"{word}: {reason}"
  facts = {
    "class": name,
    "prompt": picture.prompt,
    "seed": picture.seed,
    "p_own": html_tables.NONE
    if picture.p_own is None
    else f"{picture.p_own:.4f}",
    "filter": verdict,
    "strategy": picture.strategy or html_tables.NONE,
    "id": picture.id,
  }
  data = "".join(f' data-{k}="{escape(str(v))}"' for k, v in facts.items())
  hover = f"{picture.prompt}\nseed {picture.seed}, p_own {p_own}, {verdict}"
  code = base64.b64encode(picture.data).decode()
  return (
    f'<button type="button" class="thumb{kind}" title="{escape(hover)}"{data}>'
    f'<img src="data:{picture.mime};base64,{code}" alt="{escape(name)}" '
    f'width="64" height="64"><span>{mark}{p_own}</span></button>'
  )


def _share(part, whole) -> html_tables.Number:
  return html_tables.percent(html_tables.ratio(part, whole))
