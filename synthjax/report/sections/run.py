"""The tasks of a run, their versions, and the config."""

import json
from collections.abc import Mapping
from typing import Any

from synthjax.report import markup

PLACE, TITLE = 160, "Run"


def render(results: Mapping) -> str:
  """Shows the tasks, what they left, versions and the config."""
  states = results["tasks"]
  sum_of = lambda state, key: sum(
    file.get(key, 0) for file in state.get("files", {}).values()
  )
  begun = [item for item in states.items() if item[1]["state"] != "missing"]
  content = ""
  if begun:
    content = markup.table(
      {
        "task": lambda item: item[0],
        "state": lambda item: item[1]["state"],
        "files": lambda item: markup.count(len(item[1].get("files", {}))),
        "rows": lambda item: markup.count(sum_of(item[1], "rows")),
        "size (MB)": lambda item: markup.short(sum_of(item[1], "bytes") / 1e6),
        "digest": lambda item: item[1].get("digest", "")[:12],
      },
      begun,
      caption="Tasks",
    )
  complete = {t: s for t, s in states.items() if s["state"] == "complete"}
  versions = {task: state["versions"] for task, state in complete.items()}
  content += _versions(versions | {"report": results["versions"]})
  content += markup.details("Config", _json(results["config"]))
  if complete:
    specs = {
      task: {"spec": state["spec"], "summary": state["summary"]}
      for task, state in complete.items()
    }
    content += markup.details("Specifications of the tasks", _json(specs))
  return content


def _versions(versions: Mapping[str, Mapping[str, str]]) -> str:
  """Shows task -> library -> the version that the task ran with."""
  libraries = [
    *dict.fromkeys(name for used in versions.values() for name in used)
  ]
  rows = [
    [task, *(str(used.get(library, markup.NONE)) for library in libraries)]
    for task, used in versions.items()
  ]
  return markup.details(
    "Versions", markup.grid(["task", *libraries], rows, caption="Versions")
  )


def _json(value: Any) -> str:
  text = json.dumps(value, indent=2, ensure_ascii=False)
  return (
    '<pre class="scroll" tabindex="0" role="region" aria-label="JSON">'
    f"{markup.escape(text)}</pre>"
  )
