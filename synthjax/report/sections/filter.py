"""Which images the filter kept, and why it dropped the others."""

from collections.abc import Mapping

from synthjax.data.generated.filters import FILLED
from synthjax.report import charts, markup
from synthjax.report.results import NUM_BINS, class_names
from synthjax.report.sections import Tile
from synthjax.report.sections.images import Album, thumbs

PLACE, TITLE = 100, "Filter"
_FILLED = (
  "Fills up: kept although it does not pass, as one of the best of a class in "
  "which too few do."
)
_WORDS = {FILLED: "fills up"}


def tiles(results: Mapping) -> list[Tile]:
  """Shows how many images were scored, and the share that was kept."""
  selection = results.get("selection")
  if not selection:
    return []
  kept, images = selection["kept"], selection["images"]
  meaning = "kept by the filter"
  if filled := selection["reasons"].get(FILLED):
    share = markup.percent(markup.ratio(filled, kept), 0).text
    meaning = f"kept, {share} % of them to fill up classes of too few"
  return [
    Tile(markup.count(images).text, "", "images scored"),
    Tile(markup.percent(markup.ratio(kept, images), 0).text, "%", meaning),
  ]


def render(results: Mapping) -> str:
  """Shows the share that the filter kept, its reasons, and images of both."""
  selection = results.get("selection")
  if not selection:
    return ""
  kept, dropped = (selection["histogram"][key] for key in ("kept", "dropped"))
  chart = charts.histogram(
    [kept, dropped],
    xlabel="p_own, the probability of the own class",
    ylabel="images",
    label="Kept and dropped images by p_own",
    # Above it an image may pass: p_own > 1/N.
    reference=1 / len(results["classes"]) if results["classes"] else None,
  )
  caption = "Images by p_own. Dashed: 1/N, the threshold of the CLIP filter."
  figure = charts.figure(chart, caption, charts.legend(["kept", "dropped"]))
  total = selection["images"]
  reasons = [
    [
      _WORDS.get(reason, reason) or "no reason given",
      markup.count(n),
      markup.percent(markup.ratio(n, total)),
    ]
    for reason, n in sorted(selection["reasons"].items(), key=lambda x: -x[1])
  ]
  strategies = markup.table(
    {
      "strategy": lambda item: item[0] or "all",
      "images": lambda item: markup.count(item[1]["images"]),
      "kept": lambda item: markup.count(item[1]["kept"]),
      "kept (%)": lambda item: markup.percent(
        markup.ratio(item[1]["kept"], item[1]["images"])
      ),
    },
    selection["by_strategy"].items(),
    caption="Kept by strategy",
  )
  bins = [
    [
      f"{i / NUM_BINS:.2f} to {(i + 1) / NUM_BINS:.2f}",
      markup.count(a),
      markup.count(b),
    ]
    for i, (a, b) in enumerate(zip(kept, dropped, strict=True))
  ]
  content = (
    f'<div class="pair">{figure}<div>'
    + markup.grid(
      ("reason", "images", "of all (%)"),
      reasons,
      caption="What the filter said",
    )
    + (
      f'<p class="note">{_FILLED}</p>' if FILLED in selection["reasons"] else ""
    )
    + strategies
    + markup.details(
      "Histogram as a table",
      markup.grid(
        ("p_own", "kept", "dropped"), bins, caption="Images by p_own"
      ),
    )
    + "</div></div>"
  )
  if album := results.get("album"):
    content += _kept_and_dropped(album, selection, class_names(results))
  return content


def _kept_and_dropped(album: Album, selection: Mapping, names: Mapping) -> str:
  """Shows images of both kinds side by side, class by class."""
  parts, by_class = [], {row["label"]: row for row in selection["by_class"]}
  for label in sorted({*album.kept, *album.dropped}):
    name = names.get(label, str(label))
    reasons = by_class.get(label, {}).get("reasons", {}).items()
    counts = sorted(reasons, key=lambda item: -item[1])
    why = ", ".join(f"{n} {_WORDS.get(word, word)}" for word, n in counts)
    sides = "".join(
      f'<div><p class="strategy">{word}</p>'
      f"{thumbs(pictures.get(label, ()), name) or '<p>none</p>'}</div>"
      for word, pictures in (("kept", album.kept), ("dropped", album.dropped))
    )
    parts.append(
      f'<section class="class"><h4>{markup.escape(name)} '
      f'<span class="note">{markup.escape(why)}</span></h4>'
      f'<div class="versus">{sides}</div></section>'
    )
  if not parts:
    return ""
  return (
    "<h3>Kept against dropped</h3><p>Random images of both kinds, the highest "
    f'p_own first.</p><div class="classes">{"".join(parts)}</div>'
  )
