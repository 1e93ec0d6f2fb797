"""Generators, guidance and prompts, ranked by what few images of each teach."""

from collections.abc import Mapping

import numpy as np

from synthjax.data.generated import shards
from synthjax.data.pipeline.codecs import shrink
from synthjax.evals import accuracy
from synthjax.report import charts, markup
from synthjax.report.checked_files import Run, files_of, read_json
from synthjax.report.sections import Tile
from synthjax.report.sections.cost import duration
from synthjax.report.sections.images import Picture, thumbs

PLACE, TITLE = 27, "Bake-off"


def pictures(run: Run, samples_per_class: int) -> dict[str, dict]:
  """Adds `bakeoff_pictures`: as many of each candidate, spread over all."""
  if not files_of(run, "bakeoff"):
    return {}
  found: dict[str, list[Picture]] = {}
  for row in read_json(run, "bakeoff", accuracy.FILE)["ranked"]:
    folder = run.workdir / row["folder"] / "generate"
    if not folder.exists():  # images may have been moved away
      continue
    source = shards.open_shards(folder)
    count = min(samples_per_class, len(source))
    found[row["arm"]] = [
      _picture(source[place])
      for place in np.linspace(0, len(source) - 1, count).astype(int).tolist()
    ]
  return {"bakeoff_pictures": found}


def _picture(row: Mapping) -> Picture:
  facts = {key: row.get(key) for key in ("id", "label", "prompt", "seed")}
  mime, data = shrink(row["image"])
  verdict = dict(strategy="", p_own=None, kept=None, reason=None)
  return Picture(**facts, **verdict, mime=mime, data=data)


def headline(results: Mapping) -> list[Tile]:
  """Shows the best on validation, and what it reaches on test."""
  if not (found := results.get("bakeoff")):
    return []
  best, test = found["ranked"][0], found.get("test")
  tiles = [
    Tile(
      markup.percent(best["mean"]).text,
      "%",
      f"{best['arm']}, the best of {len(found['ranked'])} on validation",
    )
  ]
  if test:
    tiles += [
      Tile(markup.percent(test["mean"]).text, "%", "the same on test"),
      Tile(markup.percent(test["zero_shot"]).text, "%", "zero-shot on test"),
    ]
  return tiles


def render(results: Mapping) -> str:
  """Shows the ranking, what an image costs, and images of each candidate."""
  if not (found := results.get("bakeoff")):
    return ""
  content = f"<p>{markup.escape(_words(found))}</p>{_chart(found)}"
  content += markup.table(
    _accuracies(found), found["ranked"], caption="Candidates, the best first"
  )
  content += markup.table(
    _IMAGES, found["ranked"], caption="Their images, and what these cost"
  )
  if found["refused"]:
    content += markup.grid(
      ("candidate", "why it was left out"),
      [*found["refused"].items()],
      caption="Left out",
    )
  for name, shown in results.get("bakeoff_pictures", {}).items():
    content += f'<p class="strategy">{markup.escape(name)}</p>'
    content += thumbs(shown, [found["classes"][p.label] for p in shown])
  return content


def _words(found: Mapping) -> str:
  best, *others = found["ranked"]
  near = [row["arm"] for row in others if row["over_images"]["high"] >= 0]
  text = (
    f"A head learned from what the filter kept of the images of each of "
    f"{len(found['ranked'])} candidates, and {found['validation']['images']:,} "
    f"validation images rank them. The best one is {best['arm']}. "
  )
  if near:
    text += (
      f"Other validation images could rank {len(near)} of the others as high "
      f"(95 % intervals of the difference, in pairs of an image): "
      f"{'; '.join(near)}. "
    )
  text += (
    "An accuracy that was chosen by is too high for the best of many. "
    "bakeoff/best.py is the config of a larger run with it. "
  )
  if test := found.get("test"):
    text += (
      f"Its heads alone were measured on the {test['images']:,} test images: "
      f"{markup.percent(test['mean'], 2).text} %, 95 % over seeds "
      f"{markup.interval(test)}, zero-shot "
      f"{markup.percent(test['zero_shot'], 2).text} %. "
    )
  return text + (
    "Vendi: different images in a class, the mean over classes, of the images "
    "of one seed, as is coverage: "
    "validation images that have a drawn one among their neighbours. Passed: "
    "drawn images that the filter finds more of their class than a guess. "
    "Seconds of an image are of drawing alone, without loading and compiling."
  )


def _chart(found: Mapping) -> str:
  return charts.arms(
    found["ranked"],
    [(x["arm"], x["accuracy"]["validation"]) for x in found["rows"]],
    found["validation"]["zero_shot"],
    xlabel="accuracy on validation (%)",
    label="Accuracy of each candidate on validation, in percent",
  )


_IMAGES = {
  "candidate": lambda row: row["arm"],
  "Vendi": lambda row: markup.decimal(row["vendi"], 2),
  "coverage (%)": lambda row: markup.percent(row["coverage"]),
  "drawn": lambda row: markup.count(row["drawn"]),
  "passed (%)": lambda row: markup.percent(row["passed"]),
  "kept": lambda row: markup.count(row["kept"]),
  "s an image": lambda row: markup.short(row["seconds_per_image"]),
  "all tasks": lambda row: markup.Number(
    row["seconds"], duration(row["seconds"])
  ),
  "on": lambda row: row["devices"] or markup.NONE,
  "licence": lambda row: ", ".join(row["licences"]) or "not known",
}


def _accuracies(found: Mapping) -> dict:
  behind = lambda row, name: row[name] or {}
  columns = {
    "candidate": lambda row: row["arm"],
    "validation (%)": lambda row: markup.percent(row["mean"], 2),
    "95 %, seeds": markup.interval,
    "to the best": lambda row: markup.points(
      behind(row, "behind").get("mean"), 2
    ),
    "95 %, paired seeds": lambda row: markup.interval(
      behind(row, "behind"), markup.points
    ),
    "95 %, paired images": lambda row: markup.interval(
      behind(row, "over_images"), markup.points
    ),
  }
  if any("network" in row for row in found["ranked"]):
    columns["network (%)"] = lambda row: markup.percent(
      row.get("network", {}).get("mean"), 2
    )
  return columns
