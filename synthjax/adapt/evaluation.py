"""Measures a classifier on labelled images that come later."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from synthjax.adapt.classifier import Classifier
from synthjax.data.pipeline import codecs
from synthjax.data.real import real_images
from synthjax.evals import accuracy
from synthjax.labels import space_schema, spaces
from synthjax.runtime.errors import UserError
from synthjax.runtime.progress import counter
from synthjax.runtime.text_files import parse_json

_CHUNK = 64  # images that are read and encoded at once


def evaluate(classifier: Classifier, source: Sequence[Any]) -> dict[str, Any]:
  """Measures a classifier on labelled images.

  Args:
    classifier: of a run.
    source: rows of image and label, as of `real_images.open_real`.

  Returns:
    The number of `images`; `top1`, their share that is classified right;
    `mean_per_class`, the mean of the classes' shares; for each of the `classes`
    that have images, its `class`, `images`, `top1`, and the class that is
    `mistaken_for` most often, or None; and the names of classes that are
    `missing`, as no image is of them.
  """
  names, count_on = classifier.classes, counter("evaluate", len(source))
  labels, predictions = [], []
  for first in range(0, len(source), _CHUNK):
    rows = [source[i] for i in range(first, min(first + _CHUNK, len(source)))]
    images = [classifier.fit(codecs.pixels(row)) for row in rows]
    predictions += classifier.classify(images).argmax(-1).tolist()
    labels += [int(row["label"]) for row in rows]
    count_on(len(rows))
  counts = accuracy.confusion_matrix(labels, predictions, len(names))
  shares, wrong = accuracy.per_class_accuracy(counts), counts.copy()
  np.fill_diagonal(wrong, 0)
  of_class = [
    {
      "class": name,
      "images": int(counts[i].sum()),
      "top1": float(shares[i]),
      "mistaken_for": names[wrong[i].argmax()] if wrong[i].any() else None,
    }
    for i, name in enumerate(names)
    if counts[i].any()
  ]
  return {
    "images": len(labels),
    "top1": float(np.trace(counts) / counts.sum()),
    "mean_per_class": float(np.nanmean(shares)),
    "classes": of_class,
    "missing": [n for i, n in enumerate(names) if not counts[i].any()],
  }


def open_images(given: str, space: spaces.LabelSpace) -> Sequence[Any]:
  """Opens labelled images that a command line names.

  Args:
    given: a path, as `photographs.open_photographs` takes it; or fields of a
      block of `real_images`.
    space: of the labels.

  Raises:
    UserError: about what the source finds wrong.
  """
  return real_images.open_real(block_of(given), space)


def block_of(given: str) -> dict[str, Any]:
  """Returns the block of a config for images that a command line names.

  Of a place that is parted into splits, these are the test images.

  Raises:
    UserError: about an empty text.
  """
  if given.startswith("kind="):
    pairs = [pair.partition("=") for pair in given.split(",")]
    return {name.strip(): yaml.safe_load(value) for name, _, value in pairs}
  if not given:  # as an unset variable of the shell leaves it
    raise UserError("The path of the images is an empty text.")
  return {"kind": "folder", "path": given, "split": "test"}


def space_of(classifier: Any) -> spaces.LabelSpace:
  """Returns the label space of a run, whose keys may name folders, too.

  A user's own file is not looked for: its class names are the space.

  Args:
    classifier: or detector, of the run.
  """
  path, names = classifier.arm.path, classifier.classes
  results = path.parent / accuracy.FILE
  network = getattr(classifier, "network", None)
  about = network.about if network else {}
  if "space" not in about and results.exists():
    about = parse_json(results.read_bytes(), dict)
  if about.get("space") in spaces.built_in_spaces():
    space = spaces.load_space(about["space"])
    if space.class_names == names:
      return space
  return space_schema.parse_space([*names], where=str(path))


def table(results: dict[str, Any]) -> str:
  """Lays out the results of `evaluate` as lines for a person."""
  rows = sorted(results["classes"], key=lambda row: row["top1"])
  width = max(map(len, ["mean over classes", *(row["class"] for row in rows)]))
  line = lambda name, count, share: f"{name:<{width}}{count:>9}{share:>8.1%}"
  lines = [f"{'':<{width}}{'images':>9}{'top-1':>8}"]
  lines.append(line("all images", f"{results['images']:,}", results["top1"]))
  lines.append(line("mean over classes", "", results["mean_per_class"]))
  for row in rows:
    most = row["mistaken_for"]
    end = f"  mistaken most often for {most}" if most else ""
    lines.append(line(row["class"], f"{row['images']:,}", row["top1"]) + end)
  if missing := results["missing"]:
    lines.append(
      f"No image is of {len(missing)} of the run's classes: "
      f"{', '.join(missing)}."
    )
  return "\n".join(lines)
