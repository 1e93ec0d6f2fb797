"""The README of an image set: a dataset card as Hugging Face's hub reads it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

BIASES = (
  "The images show what the generator learned from its own training images, "
  "with their biases: common views, colours and surroundings are drawn more "
  "often than rare ones. The filter prefers images that its model is sure of, "
  "which makes the kept ones more alike."
)
LIMITATIONS = (
  "A label says what the model was asked to draw, not what a person saw: some "
  "images do not show their class. Near duplicates and images near those of an "
  "evaluation set are counted in the card, by the features of one encoder, "
  "which does not see every likeness."
)
USES = (
  "Training and studying image classifiers. Not meant as evidence of what "
  "things look like, nor for measuring a classifier: real images are for that."
)
IMPACT = (
  "Whoever passes the images on should keep them marked as generated, so that "
  "they are not taken for photographs or for works of people."
)
PERSONAL = (
  "None was collected. A model may reproduce parts of its training images."
)
_SIZES = (
  (1_000, "n<1K"),
  (10_000, "1K<n<10K"),
  (100_000, "10K<n<100K"),
  (1_000_000, "100K<n<1M"),
  (10_000_000, "1M<n<10M"),
)
_ACT = (
  "Every image of this set was drawn by a text-to-image model. Article 50(2) "
  "of the EU's AI Act (Regulation (EU) 2024/1689) asks for outputs that are "
  "marked as generated in a machine-readable way. "
)
MARKED_SET = (
  f"{_ACT}This set is marked as a "
  "whole: here, by `digitalSourceType` in `croissant.json`, and by `generated` "
  "in each row of `images.jsonl`. The image files hold pixels alone: "
  "whoever takes single images out of the set has to pass the mark on."
)
MARKED_FILES = (
  f"{_ACT}Each image file is, in its metadata (IPTC's digital source type), as "
  "is each row of `images.jsonl` by `generated`."
)


class Place(NamedTuple):
  """What a README says of the files that it lies beside."""

  head: Mapping[str, Any]  # fields of its YAML, beside those of the card
  note: str  # to follow the description
  marking: str  # how the images are marked as generated
  opening: str  # how to open them


# The folder of the task `card`.
CARD = Place(
  {},
  "",
  MARKED_SET,
  "Put these files and those of the folder `generate` into one folder. "
  "`tensorflow_datasets.builder_from_directory(folder)` opens the images, "
  "and `mlcroissant.Dataset('croissant.json')` what is known of them.",
)


def build(card: Mapping[str, Any], place: Place = CARD) -> str:
  """Returns README.md: YAML about the set, then Markdown.

  Args:
    card: all that `card.json` holds; and `kept_only`, whether the images that
      the filter has not kept are left out.
    place: where it lies.
  """
  parts = [
    f"---\n{_front_matter(card, place.head)}---\n",
    f"# {plain(card['name'])}\n",
    f"{description(card)} {place.note}".strip() + "\n",
    "![Some images of each class](samples.png)\n",
    "## These images are generated\n",
    place.marking + "\n",
    "## What made them\n",
    collection(card) + "\n",
    _models(card),
    _settings(card),
    "## Labels and filter\n",
    annotation(card) + "\n",
    _classes(card),
    "## Quality\n",
    quality(card),
    "## Duplicates and neighbours\n",
    _neighbours(card),
    "## Use\n",
    f"{USES} {LIMITATIONS} {BIASES}\n",
    place.opening + "\n",
  ]
  return "\n".join(part for part in parts if part)


def description(card: Mapping[str, Any]) -> str:
  """Describes the set in a few sentences."""
  height, width = card["image_size"]
  start = f"{card['description'].strip()} " if card["description"] else ""
  return (
    f"{start}{card['num_images']:,} generated images of {len(card['classes'])} "
    f"classes, {width} x {height} pixels, drawn by synthjax with a "
    "text-to-image model. None is a photograph or the work of a person."
  )


def collection(card: Mapping[str, Any]) -> str:
  """Describes how the images were drawn."""
  seeds = ", ".join(map(str, card["seeds"]))
  count = f"{card['images_per_class']} images a class and prompt strategy with"
  if "top_up" in card["asked"]:
    count = "as many as classes of real images lacked, with"
  text = (
    "A text-to-image diffusion model drew each image from a prompt about its "
    f"class: {count} each of the seeds {seeds}."
  )
  if written := card.get("prompts"):
    strategies = ", ".join(written["settings"]["strategies"])
    text += f" {written['count']:,} prompts were written ({strategies})."
  guidance = card["generator"].get("guidance_scale")
  if guidance is not None:
    text += f" Classifier-free guidance has the scale {guidance:g}."
  return text


def annotation(card: Mapping[str, Any]) -> str:
  """Describes where the labels come from, and the filter."""
  text = (
    "The label of an image is the class that its prompt is about; nobody has "
    "looked at the images one by one."
  )
  if chosen := card.get("filter"):
    kept, images = (
      sum(counts[key] for counts in chosen["kept"].values())
      for key in ("kept", "images")
    )
    most = chosen["settings"].get("max_per_class")
    if most is None:
      most = f"{chosen['settings']['share']:.0%}"
    others = "not here" if card.get("kept_only") else "part of the set, too"
    text += (
      f" A CLIP filter kept {kept:,} of {images:,}: at most "
      f"{most} of a class, strategy and seed, "
      "first those whose class is likelier than chance (`kept` in "
      f"`images.jsonl`; the others are {others})."
    )
  return text


def size(count: int) -> str:
  """Returns the hub's word for a number of images."""
  return next((word for most, word in _SIZES if count < most), "n>10M")


def _front_matter(card: Mapping[str, Any], head: Mapping[str, Any]) -> str:
  count, names = card["num_images"], card["classes"]
  kinds = {"id": "string", "image": "image", "prompt": "string"}
  features = [{"name": name, "dtype": kind} for name, kind in kinds.items()]
  features.append({"name": "seed", "dtype": "int64"})
  classes = {str(i): name for i, name in enumerate(names)}
  features.append(
    {"name": "label", "dtype": {"class_label": {"names": classes}}}
  )
  fields = {
    "pretty_name": card["name"],
    "license": (card["license"] or "unknown").lower(),
    "language": ["en"],
    "task_categories": ["image-classification"],
    "annotations_creators": ["machine-generated"],
    "language_creators": ["machine-generated"],
    "source_datasets": ["original"],
    "size_categories": [size(count)],
    "tags": ["synthetic", "generated", "text-to-image", "croissant"],
    "dataset_info": {
      "features": features,
      "splits": [
        {
          "name": "train",
          "num_bytes": sum(
            about["bytes"]
            for name, about in card["files"].items()
            if ".array_record-" in name
          ),
          "num_examples": count,
        }
      ],
    },
  }
  fields |= head
  return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _models(card: Mapping[str, Any]) -> str:
  """Lists the models by name and hash."""
  rows = [
    [
      f"`{model['field']}`",
      called(model),
      model["licence"] or "not known",
      f"`{model['sha256'][:16]}`",
    ]
    for model in card["models"]
  ]
  text = table(("field", "file", "licence", "SHA-256"), rows)
  if card["artwork"]:
    lines = [
      f"- [{work['title']}]({work['url']}), by {work['author']}: "
      f"[{work['license']}]({work['license_url']})"
      for work in card["artwork"]
    ]
    text += (
      "\nThe embedded models were trained on these icon sets and word lists, "
      "or are measured on them:\n\n" + "\n".join(lines) + "\n"
    )
  if not card["license"]:
    text += "\nNo licence has been chosen for the images.\n"
  return text


def _settings(card: Mapping[str, Any]) -> str:
  """Shows the settings of the generator, the prompts and the filter."""
  settings = {"generator": card["generator"], "generate": card["asked"]}
  settings |= {
    key: card[key]["settings"] for key in ("prompts", "filter") if key in card
  }
  text = json.dumps(settings, indent=1, ensure_ascii=False)
  return f"```json\n{text}\n```\n"


def _classes(card: Mapping[str, Any]) -> str:
  sets = card["quality"]["sets"]
  heads = ["label", "class", *(f"{SET_NAMES[name]}" for name in sets)]
  if card["quality"]["compared"] < card["num_images"]:
    heads = heads[:2] + [f"{head} (a part)" for head in heads[2:]]
  counts = [one["by_class"]["images"] for one in sets.values()]
  rows = [
    [str(i), plain(name), *(str(images[i]) for images in counts)]
    for i, name in enumerate(card["classes"])
  ]
  return table(heads, rows)


def which_compared(card: Mapping[str, Any]) -> str:
  """Says among which images near duplicates were looked for, if not among all.

  Returns:
    Words to follow the number of images, or "".
  """
  counts = card["duplicates"]
  if "cells" in counts:
    return (
      f"images compared within {counts['cells']:,} cells of features (each "
      "lies in two; pairs that share neither are missed)"
    )
  if counts["compared"] < card["num_images"]:
    return "images chosen at random"
  return ""


def _neighbours(card: Mapping[str, Any]) -> str:
  counts = card["duplicates"]
  text = (
    f"{counts['equal_files']:,} images are byte for byte equal to one before "
    f"them. Of {counts['compared']:,} {which_compared(card) or 'compared'}, "
    f"{counts['near_pairs']:,} pairs "
    f"have a cosine of {counts['threshold']:g} or more; "
    f"{counts['near_more_than_one']:,} images would go if one of each group of "
    "such pairs stayed.\n"
  )
  if leak := card.get("leakage"):
    cosine, among = leak["cosine"], leak.get("cosine_among_real")
    text += (
      f"\nAgainst {leak['real_images']:,} real images of the evaluation set, "
      f"{leak['near']:,} of {leak['compared']:,} generated ones reach a cosine "
      f"of {leak['threshold']:g}. The nearest real image has a cosine of "
      f"{cosine['median']:.3f} in the middle and {cosine['max']:.3f} at most"
    )
    if among:
      text += (
        f"; real images among themselves have {among['median']:.3f} and "
        f"{among['max']:.3f}. {100 * leak['nearer_than_real']:.1f} % of the "
        "generated images are nearer to their nearest real image than any "
        "other real one is"
      )
    text += ". `pairs.json` holds the nearest pairs.\n"
  return text


# --- figures and tables ------------------------------------------------------


class Figure(NamedTuple):
  """A figure of image sets."""

  key: str  # in `card.json`
  name: str
  better: str  # "lower" or "higher"
  source: str
  values: tuple = ()  # of each set, None where it was not measured


FIGURES = (
  Figure("frechet", "Fréchet distance", "lower", "Heusel et al. 2017"),
  Figure("kernel", "kernel distance", "lower", "Bińkowski et al. 2018"),
  Figure("precision", "precision", "higher", "Kynkäänniemi et al. 2019"),
  Figure("recall", "recall", "higher", "Kynkäänniemi et al. 2019"),
  Figure("density", "density", "higher", "Naeem et al. 2020"),
  Figure("coverage", "coverage", "higher", "Naeem et al. 2020"),
  Figure("vendi", "Vendi score", "higher", "Friedman & Dieng 2023"),
  Figure(
    "class_vendi", "Vendi score in a class", "higher", "mean over classes"
  ),
  Figure(
    "class_distance", "cosine distance in a class", "higher", "mean of pairs"
  ),
  Figure("clip_score", "CLIP score, class", "higher", "100 x mean cosine"),
  Figure(
    "prompt_clip_score", "CLIP score, prompt", "higher", "100 x mean cosine"
  ),
)
# Names of two of them by the features of Inception alone.
_INCEPTION = {
  "frechet": "Fréchet inception distance (FID)",
  "kernel": "kernel inception distance (KID)",
}
_PUBLISHED = 50_000  # images that published FIDs are of, as a rule
SET_NAMES = {"all": "all images", "kept": "kept", "real": "real images"}
# What is said of figures wherever they are shown.
ONE_ENCODER = (
  "Figures compare with those of other image sets only by the same encoder, "
  "the same pixels and the same real images."
)


def called(model: Mapping[str, Any]) -> str:
  """Names a model in one line."""
  name = model["name"] or "not named"
  return f"{name}, {model['what']}" if model["what"] else name


def figures_by(quality: Mapping[str, Any]) -> list[Figure]:
  """Returns the FIGURES that were measured, with their values.

  Args:
    quality: the `quality` of a card, or one of its `encoders`, whose features
      decide about names.
  """
  names = _INCEPTION if _is_inception(quality) else {}
  figures = [
    figure._replace(
      name=names.get(figure.key, figure.name),
      values=tuple(
        one_set["figures"].get(figure.key)
        for one_set in quality["sets"].values()
      ),
    )
    for figure in FIGURES
  ]
  return [f for f in figures if any(x is not None for x in f.values)]


def few_images(quality: Mapping[str, Any]) -> str:
  """Warns of an FID of few images; returns "" if there is nothing to say."""
  counts = {
    name: one_set["figures"]["images"]
    for name, one_set in quality["sets"].items()
  }
  drawn, real = counts["all"], counts.get("real")
  if not _is_inception(quality) or not real:
    return ""
  if min(counts.values()) >= _PUBLISHED:
    return ""
  return (
    "A Fréchet distance comes out larger of fewer images (Chong & Forsyth "
    f"2020), and published FIDs are of {_PUBLISHED:,} as a rule: this one, of "
    f"{drawn:,} generated and {real:,} real images, compares only with those "
    "of as many. The kernel distance has no such bias."
  )


def _is_inception(quality: Mapping[str, Any]) -> bool:
  return quality.get("identity", {}).get("encoder") == "inception"


def quality(card: Mapping[str, Any]) -> str:
  """Shows the figures of all sets, by each encoder."""
  measured = card["quality"]
  text = (
    f"By the features of {_encoder(card)}. Balls reach to neighbour "
    f"{measured['neighbours']}; {measured['compared']:,} of "
    f"{card['num_images']:,} images were compared. {ONE_ENCODER}\n\n"
    f"{_figures(measured)}"
  )
  for further in measured.get("encoders", []):
    model = further["model"]
    text += (
      f"\nBy the features of {called(model)} (licence "
      f"{model['licence'] or 'not known'}, SHA-256 `{model['sha256'][:16]}`):"
      f"\n\n{_figures(further)}"
    )
    if note := few_images(further):
      text += f"\n{note}\n"
  return text


def _figures(quality: Mapping[str, Any]) -> str:
  rows = [
    [
      f"{figure.name} ({figure.better} is better)",
      *("–" if x is None else f"{x:.4g}" for x in figure.values),
      figure.source,
    ]
    for figure in figures_by(quality)
  ]
  return table(["", *(SET_NAMES[name] for name in quality["sets"]), ""], rows)


def _encoder(card: Mapping[str, Any]) -> str:
  """Names the encoder of the features."""
  models = [m for m in card["models"] if m["field"] == "encoder.weights"]
  return f"the encoder {called(models[0])}" if models else "one encoder"


def plain(text: str) -> str:
  """Returns a text that Markdown shows as it is, such as a class's name."""
  line = " ".join(text.split())  # as a break would end a heading or a cell
  return re.sub(r"[\\`*_{}\[\]<>#+!~$&@:^=\"]", r"\\\g<0>", line)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Returns a Markdown table."""
  escape = lambda cell: str(cell).replace("|", "\\|").replace("\n", " ")
  lines = [heads, ["---"] * len(heads), *rows]
  return "".join(f"| {' | '.join(map(escape, line))} |\n" for line in lines)
