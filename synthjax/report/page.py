"""One HTML page that needs nothing else: no network, no other file."""

import base64
import functools
import hashlib
import pathlib
import string
from collections.abc import Mapping
from html import escape

from synthjax.report import sections
from synthjax.report.sections import Tile

_FOLDER = pathlib.Path(__file__).parent  # of HTML, style sheet and script
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
  links, content = [], []
  for module in sections.modules():
    if section := module.render(results):
      name = module.__name__.rpartition(".")[2].replace("_", "-")
      links.append(f'<a href="#{name}">{escape(module.TITLE)}</a>')
      content.append(
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{escape(module.TITLE)}</h2>{section}</section>'
      )
  dialogs = {"viewer.html": "album", "zoom.html": "examples"}
  script = _read("page.js")
  return string.Template(_read("page.html")).substitute(
    title=escape(str(results["title"])),
    policy=_policy(f"\n{script}"),
    style=_read("page.css"),
    summary=_summary(results),
    links="".join(links),
    sections="\n".join(content),
    dialogs="".join(_read(f) for f, key in dialogs.items() if results.get(key)),
    script=script,
  )


@functools.cache
def _read(name: str) -> str:
  return (_FOLDER / name).read_text("utf-8")


def _policy(script: str) -> str:
  """Forbids everything but the page's own style, images and this script."""
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
