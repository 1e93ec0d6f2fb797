"""Describes the generated images for those who get them: a dataset card.

What made them, how good they are, which are nearly the same, and which are
near an image that something will be measured on.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets
from synthjax.config import validate
from synthjax.data.generated import clip_filter
from synthjax.data.generated import scores as stored
from synthjax.data.real import real_images
from synthjax.encoders import (
  Encoder,
  ImageEncoder,
  check_encoder,
  check_image_encoder,
  load_encoder,
  load_image_encoder,
)
from synthjax.labels import spaces
from synthjax.prompts import strategies as texts
from synthjax.report.card import figures as card_figures
from synthjax.report.card import files as card_files
from synthjax.runtime import artifacts
from synthjax.runtime.errors import (
  BLOCK,
  COUNT,
  INSIDE,
  SEVERAL,
  TEXT,
  WHOLE,
  Kind,
)
from synthjax.runtime.progress import say
from synthjax.weights import licences

DEFAULTS = {
  "real": None,  # images to compare with: those that results are measured on
  "name": "synthjax_images",
  "description": None,  # a sentence or two, before what is known anyway
  "license": None,  # SPDX's name of the one that the images are given under
  "creator": None,  # a name
  "url": None,  # of the published set
  "threshold": 0.95,  # the least cosine of near duplicates
  "neighbours": 5,  # k of precision, recall, density and coverage
  "pairs": 8,  # that are shown of near duplicates and of neighbours
  "max_images": 50_000,  # compared with one another; of more, by chance
  "encoders": card_figures.FETCHED,  # further ones to compare by
}
KNOWN = {
  "real": BLOCK,
  "name": TEXT,
  "description": TEXT,
  "license": TEXT,
  "creator": TEXT,
  "url": TEXT,
  "threshold": INSIDE,
  "neighbours": COUNT,
  "pairs": WHOLE,
  "max_images": SEVERAL,
  "encoders": Kind(lambda x: True, ""),  # see encoders.chosen
}
INPUTS = ("generate", "score")


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that images and scores are there or will be."""
  block = read_block(config)
  check_encoder(**config.encoder.to_dict())
  for weights in _further(block).weights:
    check_image_encoder(weights, field="card.encoders")
  space = spaces.load_space(config.space)
  if block["real"]:
    real_images.check_real(block["real"], space)
  artifacts.check_complete(workdir, INPUTS, planned=config.tasks)


def read_block(config: ConfigDict) -> dict[str, Any]:
  """Returns every field of `config.card`, which may be left out."""
  block = config.get("card") or ConfigDict()
  validate(block, KNOWN, name="card")
  return DEFAULTS | block.to_dict()


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `card.json`, `README.md`, `croissant.json` and what they name."""
  block, workdir = read_block(config), epath.Path(workdir)
  folder, space = workdir / "card", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  stored.check_inputs(
    workdir / "score", encoder=encoder.identity, classes=space.class_names
  )
  inputs = _inputs(workdir)
  further = _further(block)
  others = {
    weights: load_image_encoder(weights, field="card.encoders")
    for weights in further.weights
  }
  spec = {
    "card": {k: v for k, v in block.items() if k != "encoders"},
    "seed": config.seed,
    "encoder": encoder.identity,
    "classes": space.class_names,
    "inputs": {name: artifacts.digest(workdir / name) for name in inputs},
  }
  if block["real"]:
    spec["real"] = real_images.identify(block["real"])
  spec |= _spec_of_others(folder, block, others)
  if artifacts.begin(folder, spec):
    return
  if further.absent:
    say(
      f"card: no figures by {' and '.join(further.absent)}, whose weights are "
      "not here; `python -m synthjax.weights fetch "
      f"{' '.join(further.absent.values())}` gets them"
    )
  drawn = _open_drawn(workdir, block, space, inputs, config.seed)
  found, files = _open_real(block, space, encoder, folder, config.seed)
  texts_of_classes = stored.read_texts(workdir / "score").text_features[:, 0]
  card = _made(config, workdir, block, drawn, inputs)
  card["quality"] = card_figures.quality(
    drawn,
    found,
    encode_texts=encoder.encode_texts,
    class_texts=texts_of_classes,
    neighbours=block["neighbours"],
  )
  for weights, other in others.items():
    sets, more = card_figures.measure(
      drawn, found, other, neighbours=block["neighbours"], folder=folder
    )
    model = licences.describe(weights, other.identity["weights"])
    card["quality"].setdefault("encoders", []).append(
      {"identity": other.identity, "model": model, "sets": sets}
    )
    files |= more
  limits = {"threshold": block["threshold"], "limit": block["pairs"]}
  card["duplicates"], twins = card_figures.duplicates(drawn, **limits)
  pairs = {"duplicates": twins}
  if found:
    card["leakage"], pairs["leakage"] = card_figures.leakage(
      drawn, found, space.class_names, **limits
    )
  files |= card_files.write(folder, card, pairs, drawn, workdir / "generate")
  artifacts.finish(
    folder, spec, files, quality=card["quality"]["sets"]["all"]["figures"]
  )
  say(f"card: {card_figures.headline(card)}")


def _further(block: Mapping[str, Any]) -> card_figures.Chosen:
  """Chooses further encoders; by default none where nothing is to compare."""
  asked = block["encoders"]
  if asked == card_figures.FETCHED and not block["real"]:
    asked = card_figures.NONE
  return card_figures.choose(asked)


def _spec_of_others(
  folder: epath.Path,
  block: Mapping[str, Any],
  others: Mapping[str, ImageEncoder],
) -> dict[str, Any]:
  """Returns the further encoders' part of the specification.

  Weights that were fetched, or lost, since the card was made do not undo it,
  unless they were asked for by name.
  """
  asked = [other.identity for other in others.values()]
  if block["encoders"] == card_figures.FETCHED:
    if (folder / artifacts.MANIFEST).exists():
      before = artifacts.load(folder)["spec"].get("encoders", [])
      if before != artifacts.plain(asked):
        say(
          f"card: {folder} was made with the weights that were here then; "
          "delete it yourself to compare by those that are here now"
        )
      asked = before
  return {"encoders": asked} if asked else {}


def _inputs(workdir: epath.Path) -> list[str]:
  """Names the tasks that are read: `select` and `prompts` if they belong."""
  asked = artifacts.load(workdir / "generate")["spec"].get("prompts")
  belongs = {"select": lambda: True}  # reading it checks the rest
  belongs["prompts"] = lambda: artifacts.digest(workdir / "prompts") == asked
  there = [
    name
    for name, is_one in belongs.items()
    if (workdir / name / artifacts.MANIFEST).exists() and is_one()
  ]
  return [*INPUTS, *there]


def _open_drawn(
  workdir: epath.Path,
  block: Mapping[str, Any],
  space: spaces.LabelSpace,
  inputs: Sequence[str],
  seed: int,
) -> card_figures.Drawn:
  scores, kept = stored.read(workdir / "score"), None
  if "select" in inputs:
    kept = clip_filter.read_kept(workdir / "select", workdir / "score", scores)
  return card_figures.open_drawn(
    workdir / "generate",
    scores,
    kept,
    space.class_names,
    card_figures.some(len(scores.ids), block["max_images"], seed),
  )


def _open_real(
  block: Mapping[str, Any],
  space: spaces.LabelSpace,
  encoder: Encoder,
  folder: epath.Path,
  seed: int,
) -> tuple[card_figures.Real | None, dict[str, int]]:
  """Encodes the real images, of too many a random part."""
  if not block["real"]:
    return None, {}
  (features, labels), files = feature_sets.encode_real(
    block["real"], space, encoder, folder
  )
  rows = card_figures.some(len(labels), block["max_images"], seed)
  source = real_images.open_real(block["real"], space)
  found = card_figures.Real(source, features[rows], labels[rows], rows)
  return found, files


# --- what made them ---------------------------------------------------------


def _made(
  config: ConfigDict,
  workdir: epath.Path,
  block: Mapping[str, Any],
  drawn: card_figures.Drawn,
  inputs: Sequence[str],
) -> dict[str, Any]:
  """Tells the models, prompts, seeds and settings, from the manifests."""
  made = artifacts.load(workdir / "generate")
  identity, asked = made["spec"]["generator"], made["spec"]["generate"]
  # When the images were complete, so that the same set has the same card.
  manifest = workdir / "generate" / artifacts.MANIFEST
  when = datetime.datetime.fromtimestamp(manifest.stat().mtime, datetime.UTC)
  models = licences.identified(
    identity, config.get("generator") or {}, "generator"
  )
  scored = artifacts.load(workdir / "score")["spec"]
  models += licences.identified(scored["encoder"], config.encoder, "encoder")
  card = {key: block[key] for key in ("name", "description", "license")}
  card |= {key: block[key] for key in ("creator", "url")}
  card |= {
    "date": when.date().isoformat(),
    "num_images": len(drawn.about),
    "image_size": list(drawn.source[0]["image"].shape[:2]),
    "image_format": asked.get("image_format") or "png",
    "classes": scored["classes"],
    "seeds": asked["seeds"],
    "images_per_class": asked["images_per_class"],
    "generator": licences.settings(identity),
    "asked": {
      k: v for k, v in asked.items() if k not in ("seeds", "images_per_class")
    },
    "versions": made["versions"],
  }
  if "prompts" in inputs:
    written = artifacts.load(workdir / "prompts")
    made_by = written["spec"]["prompts"]
    card["prompts"] = {
      "count": written["files"][texts.FILE]["rows"],
      "settings": made_by,
      "digest": made["spec"]["prompts"],
    }
    writer = (config.get("prompts") or {}).get("writer") or {}
    if hasattr(made_by.get("writer"), "items"):
      models += licences.identified(made_by["writer"], writer, "prompts.writer")
  if "select" in inputs:
    chosen = artifacts.load(workdir / "select")
    card["filter"] = {
      "settings": chosen["spec"]["select"],
      "kept": chosen["summary"]["kept"],
    }
  embedded = any(str(m["name"]).startswith("embedded:") for m in models)
  card["models"] = models
  card["artwork"] = licences.artwork() if embedded else []
  return card
