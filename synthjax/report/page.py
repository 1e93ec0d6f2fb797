"""One HTML page that needs nothing else: no network, no other file."""

import base64
import functools
import hashlib
import pathlib
from collections.abc import Mapping
from html import escape

from synthjax.report import sections
from synthjax.report.sections import Tile

_FOLDER = pathlib.Path(__file__).parent  # of the style sheet and the script
_BUTTONS = """<div class="buttons">
<button type="button" class="previous">Previous</button>
<button type="button" class="next">Next</button>
<button type="button" class="close">Close</button></div>"""
_ZOOM = f"""<dialog id="zoom" aria-labelledby="zoom-title">
<h2 id="zoom-title"></h2>
<div class="drawing"></div>
{_BUTTONS}
</dialog>"""
_FACTS = "".join(
  f'<dt>{fact}</dt><dd data-of="{fact}"></dd>'
  for fact in ("prompt", "seed", "p_own", "filter", "strategy", "id")
)
_VIEWER = f"""<dialog id="viewer" aria-labelledby="viewer-title">
<h2 id="viewer-title">Image</h2>
<img class="large" alt="" width="320" height="320">
<dl>{_FACTS}</dl>
{_BUTTONS}
</dialog>"""
_STATES = {"unfinished": "not finished", "missing": "not run"}


def build(results: Mapping) -> str:
  """Builds the page.

  Args:
    results: all that `results.json` holds: title, config, versions, devices,
      tasks, cost, paper, and what `results.gather` returns. Besides, `album`
      and `examples`: the pictures to show, if there are any.

  Returns:
    HTML.
  """
  nav, body = [], []
  for module in sections.modules():
    if content := module.render(results):
      name = module.__name__.rpartition(".")[2].replace("_", "-")
      nav.append(f'<a href="#{name}">{escape(module.TITLE)}</a>')
      body.append(
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{escape(module.TITLE)}</h2>{content}</section>'
      )
  links, sections_html = "".join(nav), "\n".join(body)
  title, script = escape(str(results["title"])), _read("page.js")
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_read("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>
<header>
<h1>{title}</h1>
{_summary(results)}
</header>
<nav aria-label="Sections">{links}</nav>
<main id="main">
{sections_html}
</main>
{_VIEWER if results.get("album") else ""}
{_ZOOM if results.get("examples") else ""}
<script>{script}</script>
</body>
</html>
"""


@functools.cache
def _read(name: str) -> str:
  """Returns a file of this folder, as the body of a tag."""
  return "\n" + (_FOLDER / name).read_text("utf-8")


def _policy(script: str) -> str:
  """Forbids the page everything but its own style, script and images."""
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  return (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
  )


def _summary(results: Mapping) -> str:
  """Shows a few numbers of the run, and names the tasks that are absent."""
  tiles = "".join(map(_write, _tiles(results)))
  lines = [f'<ul class="tiles">{tiles}</ul>'] if tiles else []
  lines += [f'<p class="note">{escape(line)}</p>' for line in _notes(results)]
  return "\n".join(lines)


def _tiles(results: Mapping) -> list[Tile]:
  """Returns the first headline of the sections, and all further tiles."""
  modules = sections.modules()
  headlines = [m.headline(results) for m in modules if hasattr(m, "headline")]
  tiles = [*next(filter(None, headlines), [])]
  for module in modules:
    tiles += module.tiles(results) if hasattr(module, "tiles") else []
  return tiles


def _write(tile: Tile) -> str:
  unit = f" <small>{escape(tile.unit)}</small>" if tile.unit else ""
  return (
    f"<li><strong>{escape(tile.number)}{unit}</strong>"
    f"<span>{escape(tile.words)}</span></li>"
  )


def _notes(results: Mapping) -> list[str]:
  versions = results["versions"].items()
  made = ", ".join(f"{name} {version}" for name, version in versions)
  lines = [f"Written with {made}, on {results['devices']}."]
  absent = [
    f"{task} ({_STATES[state['state']]})"
    for task, state in results["tasks"].items()
    if state["state"] in _STATES
  ]
  if absent:
    lines.append(f"Left out, as not complete: {', '.join(absent)}.")
  return lines
