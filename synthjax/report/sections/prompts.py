"""The prompts that the generator was given."""

from collections.abc import Mapping

from synthjax.report import markup
from synthjax.report.results import class_names

PLACE, TITLE = 120, "Prompts"
_MAX_OPEN = 20  # rows that are shown without being asked for


def render(results: Mapping) -> str:
  """Counts the prompts, and shows examples of each class."""
  prompts = results.get("prompts")
  if not prompts:
    return ""
  names = class_names(results)
  counts = ", ".join(
    f"{markup.count(n)} {name}" for name, n in prompts["by_strategy"].items()
  )
  examples = markup.table(
    {
      "class": lambda row: names.get(row["label"], str(row["label"])),
      "strategy": lambda row: row["strategy"],
      "prompts": lambda row: markup.count(row["count"]),
      "examples": lambda row: " · ".join(row["texts"]),
    },
    prompts["examples"],
    caption="Prompts",
  )
  total, is_short = prompts["count"], len(prompts["examples"]) <= _MAX_OPEN
  return (
    f"<p>{markup.count(total)} prompts: {markup.escape(counts)}.</p>"
    + markup.details("Examples of each class", examples, opened=is_short)
  )
