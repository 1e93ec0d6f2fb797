"""What generated images are worth for classes that have few real ones."""

from collections.abc import Mapping

from synthjax.evals import accuracy
from synthjax.report import charts, markup
from synthjax.report.sections import Tile

PLACE, TITLE = 25, "Top-up of rare classes"


def headline(results: Mapping) -> list[Tile]:
  """Shows oversampling, the mix that validation chose, and its gain."""
  if not (found := results.get("top_up")):
    return []
  means = {row["arm"]: row["mean"] for row in found["summary"]}
  gain, *_ = found["gains"]
  mean = lambda arm: markup.percent(means[arm]).text
  ends = markup.interval(gain["over_images"], markup.points)
  return [
    Tile(mean(gain["reference"]), "%", f"{gain['reference']}, mean of classes"),
    Tile(mean(gain["arm"]), "%", f"{gain['arm']}, chosen on validation"),
    Tile(markup.points(gain["mean"]).text, f"({ends})", "points of gain"),
  ]


def render(results: Mapping) -> str:
  """Shows the arms, what validation chose, and the gain of each class."""
  if not (found := results.get("top_up")):
    return ""
  chosen = found["validation"]
  return (
    f"<p>{markup.escape(_words(found))}</p>"
    f'<div class="pair lean">{_chart(found)}{_arms(found)}</div>'
    + markup.table(
      {
        "difference": lambda row: f"{row['arm']} − {row['reference']}",
        "points": lambda row: markup.points(row["mean"], 2),
        "95 %, over images": lambda row: markup.interval(
          row["over_images"], markup.points
        ),
        "95 %, over seeds": lambda row: markup.interval(row, markup.points),
        "seeds": lambda row: markup.count(row["n"]),
      },
      found["gains"],
      caption="Gains on test, paired by seed",
    )
    + _classes(found, chosen["mix"])
  )


def _words(found: Mapping) -> str:
  chosen = found["validation"]
  source = (
    "no validation images were given, so that a part of the real ones chose, "
    "another one for each seed; what was chosen learned from those, too"
    if chosen["is_held_out"]
    else "the validation images that were given chose"
  )
  return (
    f"{sum(found['real']):,} real images of {len(found['classes'])} classes, "
    f"and {sum(found['generated']):,} generated ones for what classes lack. In "
    "mix W, a generated image counts W times as much as a real one of its "
    f"class; oversampling is mix 0. Of the mixes, {source}: {chosen['mix']}. "
    f"The run's classifier is of {chosen['best']}: a mix is only where it is "
    "clearly better there, by the interval over images. "
    "Accuracies are means over the classes. An interval over seeds is of the "
    "training alone; one over images is of other test images, too."
  )


def _chart(found: Mapping) -> str:
  return charts.arms(
    found["summary"],
    [(row["arm"], row["mean_per_class"]) for row in found["rows"]],
    found["zero_shot"]["mean_per_class"],
    xlabel="mean accuracy over classes, test (%)",
    label="Mean accuracy over classes of each arm, in percent",
  )


def _arms(found: Mapping) -> str:
  tested = {row["arm"]: row for row in found["summary"]}
  tried = found["validation"]["tried"]
  return markup.table(
    {
      "arm": lambda arm: arm,
      "validation (%)": lambda arm: markup.percent(
        accuracy.summarize(tried[arm]).mean, 2
      ),
      "test (%)": lambda arm: markup.percent(
        tested.get(arm, {}).get("mean"), 2
      ),
      "95 % interval": lambda arm: markup.interval(tested.get(arm, {})),
    },
    tried,
    caption="Mean accuracy over classes",
  )


def _classes(found: Mapping, mix: str) -> str:
  of_class = found["per_class"]
  share = lambda arm, i: markup.percent(of_class["accuracy"][arm][i])
  gain = lambda i: of_class["gain"][i] or {}
  return markup.table(
    {
      "class": lambda i: found["classes"][i],
      "real": lambda i: markup.count(found["real"][i]),
      "generated": lambda i: markup.count(found["generated"][i]),
      "test": lambda i: markup.count(of_class["test"][i]),
      "zero-shot (%)": lambda i: share("zero_shot", i),
      "oversampling (%)": lambda i: share("oversampling", i),
      f"{mix} (%)": lambda i: share(mix, i),
      "gain (points)": lambda i: markup.points(gain(i).get("mean")),
      "95 % interval": lambda i: markup.interval(gain(i), markup.points),
    },
    sorted(range(len(found["classes"])), key=found["real"].__getitem__),
    caption=f"Each class, the smallest first; gain of {mix} over oversampling",
  )
