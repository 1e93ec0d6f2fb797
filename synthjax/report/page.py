"""One HTML page that needs nothing else: no network, no other file."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape

from synthjax.data.generated.clip_filter import FILLED
from synthjax.report import html_tables, look, script
from synthjax.report.sections import (
  accuracy,
  costs,
  detection,
  encoder_tuning,
  few_shot,
  gallery,
  image_quality,
  paper,
  transfer,
)
from synthjax.report.sections import run as run_sections
from synthjax.report.sections.detection_drawings import Example
from synthjax.report.sections.gallery_images import Album

_ZOOM = """<dialog id="zoom" aria-labelledby="zoom-title">
<h2 id="zoom-title"></h2>
<div class="drawing"></div>
<div class="buttons"><button type="button" class="previous">Previous</button>
<button type="button" class="next">Next</button>
<button type="button" class="close">Close</button></div>
</dialog>"""
_MISSING_WORDS = {"unfinished": "not finished", "missing": "not run"}


def build(
  results: Mapping, album: Album | None, examples: Sequence[Example] = ()
) -> str:
  """Builds the page.

  Args:
    results: all numbers, as in `results.json`: title, config, versions,
      devices, tasks, and what `gather.gather` returns.
    album: the images, if any were drawn.
    examples: detections to draw, if there are any.

  Returns:
    HTML.
  """
  parts = [
    accuracy.accuracy(results),
    few_shot.few_shot(results),
    encoder_tuning.tuned_encoder(results),
    paper.beside(results),
    accuracy.classes(results),
    accuracy.confusion(results),
    transfer.transfer(results),
    detection.detect(results, examples),
    gallery.images(results, album),
    gallery.selection(results, album),
    image_quality.quality(results),
    gallery.prompts(results),
    run_sections.curves(results),
    run_sections.export(results),
    costs.cost(results),
    run_sections.run(results),
  ]
  parts = [part for part in parts if part.content]
  nav = "".join(
    f'<a href="#{part.id}">{escape(part.title)}</a>' for part in parts
  )
  body = "\n".join(
    f'<section id="{part.id}" aria-labelledby="{part.id}-title">'
    f'<h2 id="{part.id}-title">{escape(part.title)}</h2>'
    f"{part.content}</section>"
    for part in parts
  )
  title = escape(str(results["title"]))
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{look.STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header>
<h1>{title}</h1>
{_summary(results)}
</header>
<nav aria-label="Sections">{nav}</nav>
<main id="main">
{body}
</main>
{_viewer() if album else ""}
{_ZOOM if examples else ""}
<script>{script.SCRIPT}</script>
</body>
</html>
"""


def _policy() -> str:
  """Forbids the page everything but its own style, script and images."""
  digest = hashlib.sha256(script.SCRIPT.encode()).digest()
  code = base64.b64encode(digest).decode()
  return (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{code}'; base-uri 'none'; form-action 'none'"
  )


def _summary(results: Mapping) -> str:
  """Says in a few numbers what came out, and what is not there."""
  tiles = _tiles(results)
  lines = [f'<ul class="tiles">{"".join(tiles)}</ul>'] if tiles else []
  lines += [f'<p class="note">{escape(line)}</p>' for line in _notes(results)]
  return "\n".join(lines)


def _tiles(results: Mapping) -> list[str]:
  tiles = []
  if head := accuracy.headline(results):
    arm, split = head["arm"], head["split"]
    chosen = f"{arm['arm']} on {split}, {head['chosen']}"
    tiles += [
      _tile(
        html_tables.percent(head["zero_shot"]).text,
        "%",
        f"zero-shot on {split}",
      ),
      _tile(html_tables.percent(arm["mean"]).text, "%", chosen),
    ]
    error = html_tables.percent(arm["gain_stderr"]).text
    seeds = html_tables.count(arm["n"]).text
    words = f"points of gain ± standard error, {seeds} seeds"
    tiles.append(
      _tile(html_tables.points(arm["gain"]).text, f"± {error}", words)
    )
  elif few := few_shot.headline(results):
    words = f"{few['method']}, {few['shots']:g} shots, {few['chosen']}"
    span = few_shot.interval_words(few)
    tiles += [
      _tile(
        html_tables.percent(few["zero_shot"]).text,
        "%",
        f"zero-shot on {few['split']}",
      ),
      _tile(html_tables.percent(few["mean"]).text, f"% ({span})", words),
    ]
  elif found := detection.headline(results):
    words = f"AP50 of {found['init']}"
    tiles.append(_tile(html_tables.percent(found["mean"]).text, "%", words))
    if (gain := found["difference"]) is not None:
      tiles.append(
        _tile(
          html_tables.points(gain["mean"]).text,
          f"± {html_tables.percent(gain['stderr']).text} points",
          f"AP50 against {gain['reference']} ± standard error",
        )
      )
  if found := results.get("selection"):
    share = html_tables.percent(
      html_tables.ratio(found["kept"], found["images"]), 0
    )
    tiles.append(
      _tile(html_tables.count(found["images"]).text, "", "images scored")
    )
    words = "kept by the filter"
    if filled := found["reasons"].get(FILLED):
      of = html_tables.percent(html_tables.ratio(filled, found["kept"]), 0).text
      words = f"kept, {of} % of them to fill up classes of too few"
    tiles.append(_tile(share.text, "%", words))
  if (found := results.get("cost")) and found["tasks"]:
    hours = html_tables.decimal(found["device_hours"], 3).text
    time = costs.duration(found["seconds"]).split(" ")
    words = f"{hours} device-hours, without this page"
    tiles.append(_tile(time[0], " ".join(time[1:]), words))
  return tiles


def _tile(number: str, unit: str, words: str) -> str:
  unit = f" <small>{escape(unit)}</small>" if unit else ""
  return (
    f"<li><strong>{escape(number)}{unit}</strong>"
    f"<span>{escape(words)}</span></li>"
  )


def _notes(results: Mapping) -> list[str]:
  versions, devices = results["versions"], results["devices"]
  made = ", ".join(f"{name} {version}" for name, version in versions.items())
  lines = [f"Written with {made}, on {devices}."]
  tasks, asked = results["tasks"], results["config"].get("tasks")
  absent = [
    f"{task} ({_MISSING_WORDS[state['state']]})"
    for task, state in tasks.items()
    if state["state"] == "unfinished"
    or state["state"] == "missing"
    and task in (asked or tasks)
  ]
  if absent:
    lines.append(f"Left out, as not complete: {', '.join(absent)}.")
  return lines


def _viewer() -> str:
  facts = {
    "prompt": "prompt",
    "seed": "seed",
    "p_own": "p_own",
    "filter": "filter",
    "strategy": "strategy",
    "id": "id",
  }
  entries = "".join(
    f'<dt>{word}</dt><dd data-of="{key}"></dd>' for key, word in facts.items()
  )
  return f"""<dialog id="viewer" aria-labelledby="viewer-title">
<h2 id="viewer-title">Image</h2>
<img class="large" alt="" width="320" height="320">
<dl>{entries}</dl>
<div class="buttons"><button type="button" class="previous">Previous</button>
<button type="button" class="next">Next</button>
<button type="button" class="close">Close</button></div>
</dialog>"""
