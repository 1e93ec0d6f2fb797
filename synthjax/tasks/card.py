"""Describes the generated images for those who get them: a dataset card.

What made them, how good they are, which are nearly the same, and which are
near an image that something will be measured on.
"""

import dataclasses
import datetime
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax.adapt import feature_sets
from synthjax.config import schema
from synthjax.config.schema import Block, Count, Inside, Rule, Several, Whole
from synthjax.data.generated import filters, shards
from synthjax.data.generated import scores as stored
from synthjax.data.pipeline.image_files import Labelled
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
from synthjax.prompts import strategies
from synthjax.report.card import figures
from synthjax.report.card import files as card_files
from synthjax.runtime import (
  artifacts,
  buckets,
  cache,
  engine,
  locks,
  specifications,
)
from synthjax.runtime.engine import Work
from synthjax.runtime.errors import gathered
from synthjax.runtime.progress import say
from synthjax.weights import files as weight_files

INPUTS = ("generate", "score")
PROCESSES = "shared"  # each encodes the images that no other one does
FETCHED, NONE = "fetched", "none"
# Released weights; of each family, the first that is fetched is used. Published
# figures by DINOv2 are those of ViT-L/14 (Stein et al. 2023), those called FID
# are by Inception.
FAMILIES = {
  "Inception": ("inception_fid",),
  "DINOv2": ("dinov2_vitl14", "dinov2_vitb14", "dinov2_vits14"),
}
_NAMES = Rule(
  lambda names: (
    isinstance(names, str)
    or isinstance(names, list | tuple)
    and all(isinstance(name, str) for name in names)
  ),
  f"'{FETCHED}' (those of {' and '.join(FAMILIES)} that are fetched), "
  f"'{NONE}', or weights such as 'released:dinov2_vits14', with commas between "
  "them",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
  """Fields of config.card, which may be left out."""

  real: Block | None = None  # images to compare with: those of the evaluation
  name: str = "synthjax_images"
  description: str | None = None  # a sentence or two, to begin with
  license: str | None = None  # of the images, by its SPDX name
  creator: str | None = None  # a name
  url: str | None = None  # of the published set
  threshold: Inside = 0.95  # the least cosine of near duplicates
  neighbours: Count = 5  # k of precision, recall, density and coverage
  pairs: Whole = 8  # shown of near duplicates and of neighbours
  # Compared with one another, chosen at random. If there are more, near
  # duplicates are looked for among all with FAISS (the extra `index`).
  max_images: Several = 50_000
  encoders: Annotated[Any, _NAMES] = FETCHED  # to compare by, besides the run's


FIELDS = Card


def check(config: ConfigDict, workdir: str) -> None:
  """Checks the fields, and that images and scores are there or will be."""
  fields = schema.read(Card, config.get("card"), "config.card")
  with gathered() as attempt:
    attempt(check_encoder, **config.encoder.to_dict())
    for weights in _further_encoders(fields).weights:
      attempt(check_image_encoder, weights, field="card.encoders")
    attempt(artifacts.check_complete, workdir, INPUTS, planned=config.tasks)
    if fields.real:
      space = spaces.load_space(config.space)
      attempt(real_images.check_real, fields.real, space, "config.card.real")


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `card.json`, `README.md`, `croissant.json` and what they name."""
  import jax

  works = prepare(config, workdir)
  if locks.is_shared() or jax.process_count() > 1:
    engine.do_here(works)
    return
  for work in works:
    work.begin()
    work.finish()  # encodes what is not encoded: one pass over the images


def prepare(config: ConfigDict, workdir: str) -> Iterator[Work]:
  """Loads the encoders, and yields the images to encode, in parts.

  The features of a part are in a file that their content names. So the file of
  a part is an empty one, which says that they are there, and goes at the end.
  """
  fields = schema.read(Card, config.get("card"), "config.card")
  workdir = epath.Path(workdir)
  folder, space = workdir / "card", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  stored.check_inputs(
    workdir / "score", encoder=encoder.identity, classes=space.class_names
  )
  inputs, further = _inputs(workdir), _further_encoders(fields)
  others = {
    weights: load_image_encoder(weights, field="card.encoders")
    for weights in further.weights
  }
  card_spec = dataclasses.asdict(fields)
  del card_spec["encoders"]
  spec = {
    "card": card_spec,
    "seed": config.seed,
    "encoder": encoder.identity,
    "classes": space.class_names,
    "inputs": {
      name: artifacts.digest(workdir / name, repairable=True) for name in inputs
    },
  }
  if fields.real:
    spec["real"] = real_images.identify(fields.real)
    spec |= real_images.identify_files({"real": fields.real}, space)
  spec |= _spec_of_others(folder, fields, others)
  if artifacts.begin(folder, spec):
    return

  def begin():
    if further.missing:
      say(
        f"card: no figures by {' and '.join(further.missing)}, whose weights "
        "are not here; `python -m synthjax.weights fetch "
        f"{' '.join(further.missing.values())}` gets them"
      )

  real = real_images.open_real(fields.real, space) if fields.real else None
  parts = _parts(workdir, fields, real, encoder, others, config.seed)

  def do(numbers):
    names = list(parts)
    for number in numbers:
      if (folder / artifacts.MANIFEST).exists():
        continue  # another process has completed it, and removed these files
      figures.encode(*parts[names[number]], folder=folder)
      with artifacts.replace(folder, names[number]) as path:
        path.touch()

  def finish():
    rows, card = _write(
      config, workdir, folder, fields, space, real, encoder, others, inputs
    )
    quality = card["quality"]["sets"]["all"]["figures"]
    artifacts.finish(folder, spec, rows, quality=quality)
    say(f"card: {figures.headline(card)}")
    for name in parts:
      (folder / name).unlink(missing_ok=True)

  sizes = {name: len(part.rows) for name, part in parts.items()}
  yield Work(folder, sizes, do, finish, begin)


def _write(
  config: ConfigDict,
  workdir: epath.Path,
  folder: epath.Path,
  fields: Card,
  space: spaces.LabelSpace,
  source: Labelled | None,
  encoder: Encoder,
  others: Mapping[str, ImageEncoder],
  inputs: Sequence[str],
) -> tuple[dict[str, int], dict[str, Any]]:
  """Writes all files; returns the rows of each, and what `card.json` says."""
  drawn, all_features = _open_drawn(
    workdir, folder, fields, space, inputs, config.seed
  )
  real, rows = _encode_real(source, fields, encoder, folder, config.seed)
  card = _description(config, workdir, fields, drawn, inputs)
  card["quality"] = figures.quality(
    drawn,
    real,
    encode_texts=encoder.encode_texts,
    class_texts=stored.read_texts(workdir / "score").text_features[:, 0],
    neighbours=fields.neighbours,
  )
  for weights, other in others.items():
    sets, more_rows = figures.measure(
      drawn, real, other, neighbours=fields.neighbours, folder=folder
    )
    model = weight_files.describe(weights, other.identity["weights"])
    card["quality"].setdefault("encoders", []).append(
      {"identity": other.identity, "model": model, "sets": sets}
    )
    rows |= more_rows
  limits = {"threshold": fields.threshold, "limit": fields.pairs}
  card["duplicates"], twins = figures.duplicates(
    drawn, **limits, all_features=all_features
  )
  pairs = {"duplicates": twins}
  if real:
    card["leakage"], pairs["leakage"] = figures.leakage(
      drawn, real, space.class_names, **limits
    )
  rows |= card_files.write(folder, card, pairs, drawn, workdir / "generate")
  return rows, card


# --- what is encoded, in parts -----------------------------------------------


class Part(NamedTuple):
  """Images that one call encodes; arguments of `figures.encode`."""

  source: Sequence[Mapping[str, Any]]
  rows: np.ndarray  # int: where they are in the source
  encoder: Encoder | ImageEncoder
  kind: str


def _parts(
  workdir: epath.Path,
  fields: Card,
  real: Labelled | None,
  encoder: Encoder,
  others: Mapping[str, ImageEncoder],
  seed: int,
) -> dict[str, Part]:
  """Returns the parts, one for each file of features, by hidden names."""
  sets = []
  if real is not None:
    sets.append(Part(real, np.arange(len(real)), encoder, figures.REAL))
  if others:
    drawn = shards.open_shards(workdir / "generate")
    rows = figures.some(len(drawn), fields.max_images, seed)
    sets += [Part(drawn, rows, o, figures.DRAWN) for o in others.values()]
  if others and real is not None:
    rows = figures.some(len(real), fields.max_images, seed)
    sets += [Part(real, rows, o, figures.REAL) for o in others.values()]
  size, parts = stored.CHUNK_SIZE, {}
  for number, each in enumerate(sets):
    for first in range(0, len(each.rows), size):
      name = f".{each.kind}-{number}-{first}"
      parts[name] = each._replace(rows=each.rows[first : first + size])
  return parts


# --- further encoders --------------------------------------------------------


class FurtherEncoders(NamedTuple):
  """Which encoders to load besides the run's, and which cannot be."""

  weights: tuple[str, ...]
  missing: dict[str, str]  # a family -> the released weights to fetch


def choose_encoders(names: str | Sequence[str]) -> FurtherEncoders:
  """Finds the weights of further encoders.

  Args:
    names: of `Card.encoders`. "fetched" stands for those of FAMILIES that are
      there, "none" for none.
  """
  if names == FETCHED:
    first = {
      family: next(filter(_is_fetched, members), None)
      for family, members in FAMILIES.items()
    }
    return FurtherEncoders(
      tuple(f"{cache.RELEASED}{name}" for name in first.values() if name),
      {family: FAMILIES[family][0] for family in first if not first[family]},
    )
  names = names.split(",") if isinstance(names, str) else names
  names = tuple(name.strip() for name in names)
  return FurtherEncoders(() if names == (NONE,) else names, {})


def _is_fetched(name: str) -> bool:
  return (cache.weights_folder(name) / "encoder.safetensors").is_file()


def _further_encoders(fields: Card) -> FurtherEncoders:
  """Chooses further encoders; the default is none without real images."""
  without = fields.encoders == FETCHED and not fields.real
  return choose_encoders(NONE if without else fields.encoders)


def _spec_of_others(
  folder: epath.Path, fields: Card, others: Mapping[str, ImageEncoder]
) -> dict[str, Any]:
  """Returns the further encoders' part of the specification.

  Weights that were fetched, or lost, since the card was made do not undo it,
  unless they were asked for by name.
  """
  identities = [other.identity for other in others.values()]
  if fields.encoders == FETCHED and (folder / artifacts.MANIFEST).exists():
    before = artifacts.load(folder)["spec"].get("encoders", [])
    if before != specifications.plain(identities):
      say(
        f"card: {folder} was made with the weights that were here then; "
        "delete it yourself to compare by those that are here now"
      )
    identities = before
  return {"encoders": identities} if identities else {}


# --- the images --------------------------------------------------------------


def _inputs(workdir: epath.Path) -> list[str]:
  """Names the tasks to read: `select` and `prompts` if they belong."""
  inputs = [*INPUTS]
  if (workdir / "select" / artifacts.MANIFEST).exists():
    inputs.append("select")  # reading it checks the rest
  drawn_by = artifacts.load(workdir / "generate")["spec"].get("prompts")
  if (workdir / "prompts" / artifacts.MANIFEST).exists():
    if artifacts.digest(workdir / "prompts") == drawn_by:
      inputs.append("prompts")
  return inputs


def _open_drawn(
  workdir: epath.Path,
  folder: epath.Path,
  fields: Card,
  space: spaces.LabelSpace,
  inputs: Sequence[str],
  seed: int,
) -> tuple[figures.Drawn, np.ndarray | None]:
  """Reads the images once, and leaves the list of them.

  Returns:
    What is known of them, and the features [n, d] of all, mapped from a file
    without a name, if they are more than are compared with one another and
    FAISS can look for near duplicates among them.
  """
  count, kept = len(shards.open_shards(workdir / "generate")), None
  if "select" in inputs:
    parts = stored.read_parts(workdir / "score", ("ids",))
    ids = (image_id for part in parts for image_id in part.ids.tolist())
    kept = filters.read_kept(workdir / "select", workdir / "score", ids)
  indexed = count > fields.max_images and bool(find_spec("faiss"))
  with (
    artifacts.replace(folder, card_files.IMAGES) as path,
    path.open("wb") as lines,
    tempfile.TemporaryFile(dir=path.parent) as file,
  ):
    drawn = figures.open_drawn(
      workdir / "generate",
      stored.read_parts(
        workdir / "score", ("ids", "labels", "features", "p_own")
      ),
      kept,
      space.class_names,
      figures.some(count, fields.max_images, seed),
      write=lines.write,
      write_features=file.write if indexed else None,
    )
    if not indexed:
      return drawn, None
    file.flush()
    shape = count, drawn.features.shape[1]
    return drawn, np.memmap(file, np.float16, "r", shape=shape)


def _encode_real(
  source: Labelled | None,
  fields: Card,
  encoder: Encoder,
  folder: epath.Path,
  seed: int,
) -> tuple[figures.Real | None, dict[str, int]]:
  """Encodes the real images, or a random part if they are too many."""
  if source is None:
    return None, {}
  (features, labels), files = feature_sets.encode_rows(source, encoder, folder)
  rows = figures.some(len(labels), fields.max_images, seed)
  return figures.Real(source, features[rows], labels[rows], rows), files


# --- what made them ----------------------------------------------------------


def _description(
  config: ConfigDict,
  workdir: epath.Path,
  fields: Card,
  drawn: figures.Drawn,
  inputs: Sequence[str],
) -> dict[str, Any]:
  """Describes models, prompts, seeds and settings, from the manifests."""
  made = artifacts.load(workdir / "generate")
  identity, asked = made["spec"]["generator"], made["spec"]["generate"]
  # When the images were complete, so that the same set has the same card.
  manifest = workdir / "generate" / artifacts.MANIFEST
  written = buckets.modified(manifest)
  when = datetime.datetime.fromtimestamp(written, datetime.UTC)
  models = weight_files.identified(
    identity, config.get("generator") or {}, "generator"
  )
  scored = artifacts.load(workdir / "score")["spec"]
  models += weight_files.identified(
    scored["encoder"], config.encoder, "encoder"
  )
  card = {
    "name": fields.name,
    "description": fields.description,
    "license": fields.license,
    "creator": fields.creator,
    "url": fields.url,
    "date": when.date().isoformat(),
    "num_images": len(drawn.labels),
    "image_size": list(drawn.source[0]["image"].shape[:2]),
    "image_format": asked.get("image_format") or "png",
    "classes": scored["classes"],
    "seeds": asked["seeds"],
    "images_per_class": asked.get("images_per_class"),
    "generator": weight_files.settings(identity),
    "asked": {
      k: v for k, v in asked.items() if k not in ("seeds", "images_per_class")
    },
    "versions": made["versions"],
  }
  if "prompts" in inputs:
    written = artifacts.load(workdir / "prompts")
    prompt_spec = written["spec"]["prompts"]
    card["prompts"] = {
      "count": written["files"][strategies.FILE]["rows"],
      "settings": prompt_spec,
      "digest": made["spec"]["prompts"],
    }
    writer = (config.get("prompts") or {}).get("writer") or {}
    if hasattr(prompt_spec.get("writer"), "items"):
      models += weight_files.identified(
        prompt_spec["writer"], writer, "prompts.writer"
      )
  if "select" in inputs:
    chosen = artifacts.load(workdir / "select")
    card["filter"] = {
      "settings": chosen["spec"]["select"],
      "kept": chosen["summary"]["kept"],
    }
  embedded = any(str(m["name"]).startswith("embedded:") for m in models)
  card["models"] = models
  card["artwork"] = weight_files.artwork() if embedded else []
  return card
