"""Learns recognisers from a few real images, with generated ones or without.

All methods, numbers of shots and seeds are trained before the test images are
opened, in one place; nothing that they show is used to choose anything.
"""

import datetime
import functools
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from synthjax import artifacts
from synthjax.config import validate
from synthjax.data import few_shot, real, selection, spaces, views
from synthjax.data import scores as stored
from synthjax.encoders import Encoder, check_encoder, load_encoder
from synthjax.errors import UserError, unknown_names
from synthjax.evals import arms
from synthjax.train import classifier
from synthjax.train import few_shot_methods as methods
from synthjax.train.metrics import say

REQUIRED = (
  "methods",  # what is compared
  "shots",  # of each class, several counts
  "seeds",  # of the shots, of the images, and of all orders
  "pool",  # real images that the shots are drawn from
  "test",  # real images, opened once, at the end
)
OPTIONAL = (
  "test_parts",  # name -> real images reported beside them
  "validation",  # real images, of which each class lends min(shots, 4)
  "num_views",  # of each shot, for methods that augment; 10 by default
  "real_filter_margin",  # of filter="real"
  "max_per_class",  # that filter="real" keeps; 800 by default
)
METHOD_FIELDS = (
  "strategy",  # of the generated images; "rg{shots}" is that of real guidance
  "filter",  # None, "clip" or "real"
  "options",  # of the function of METHODS
)
FILTERS = (None, "clip", "real")
# Methods that look at augmented shots, and at validation images.
AUGMENTED, SEARCHING = ("tip_adapter", "coop"), ("tip_adapter", "linear_probe")
Features = methods.Features


class Method(NamedTuple):
  """One way of learning."""

  name: str
  kind: str  # of METHODS
  strategy: str | None = None
  filter: str | None = None
  options: Mapping[str, Any] = {}


def check(config: ConfigDict, workdir: str) -> None:
  """Checks fields and methods, and that their images are there or will be."""
  block = config.few_shot.to_dict()
  validate(block, OPTIONAL, name="few_shot", required=REQUIRED)
  wanted = read_methods(block["methods"])
  kinds = {method.kind for method in wanted}
  searching = sorted(kinds & set(SEARCHING))
  if searching and not block.get("validation"):
    raise UserError(
      f"config.few_shot has methods of the kinds {searching}, which search on "
      "`validation`: give real images for it."
    )
  check_encoder(**config.encoder.to_dict())
  space = spaces.load_space(config.space)
  for each in _splits(block).values():
    real.check_real(each, space)
  labels = few_shot.labels_of(real.open_real(block["pool"], space))
  for shots in block["shots"]:
    few_shot.draw(labels, num_classes=len(space.classes), shots=shots, seed=0)
  for name in _inputs(wanted):
    if name not in config.tasks:
      artifacts.load(epath.Path(workdir) / name)


def read_methods(blocks: Sequence[Mapping[str, Any]]) -> list[Method]:
  """Reads the methods of a config.

  Raises:
    UserError: about misspelt or missing fields, names that are not unique, or
      images that a method needs and does not name.
  """
  for i, block in enumerate(blocks):
    name = f"few_shot.methods[{i}]"
    validate(block, METHOD_FIELDS, name=name, required=("name", "kind"))
    if block["kind"] not in methods.METHODS:
      raise unknown_names("kind of method,", [block["kind"]], methods.METHODS)
    function = methods.METHODS[block["kind"]]
    known = [*inspect.signature(function).parameters][1:]
    if block["kind"] == "classifier":
      known.remove("options")
      known += ["weight_decay", "clip_norm", "temperature"]
    validate(block.get("options") or {}, known, name=f"{name}.options")
  read = [Method(**block) for block in blocks]
  names = [arms.ZERO_SHOT, *(method.name for method in read)]
  if not read or len(set(names)) < len(names):
    raise UserError(
      f"config.few_shot.methods has the names {names[1:]}: at least one is "
      f"needed, each once, and {arms.ZERO_SHOT!r} is taken."
    )
  for method in read:
    order = method.options.get("order", "mix")
    if method.kind == "classifier" and order not in methods.ORDERS:
      raise unknown_names("order", [order], methods.ORDERS)
    needs = method.kind == "classifier" and order != "real"
    if needs != (method.strategy is not None):
      raise UserError(
        f"The method {method.name!r} ({method.kind}) learns from "
        f"{'generated' if needs else 'real'} images: "
        f"{'give' if needs else 'leave out'} its strategy."
      )
    if method.filter not in FILTERS or (method.filter and not method.strategy):
      raise UserError(
        f"The method {method.name!r} has filter={method.filter!r}: 'clip' and "
        "'real' filter the images of a strategy."
      )
  return read


def run(config: ConfigDict, workdir: str) -> None:
  """Leaves `results.json`."""
  block, workdir = config.few_shot.to_dict(), epath.Path(workdir)
  folder, space = workdir / "few_shot", spaces.load_space(config.space)
  encoder = load_encoder(**config.encoder.to_dict())
  wanted = read_methods(block["methods"])
  splits = _splits(block)
  spec = {
    "few_shot": block,
    "encoder": encoder.identity,
    "real": {name: real.identify(each) for name, each in splits.items()},
    "inputs": {n: artifacts.digest(workdir / n) for n in _inputs(wanted)},
    "classes": space.class_names,
  }
  if artifacts.begin(folder, spec):
    return
  files: dict[str, int] = {}
  encode = functools.partial(_encode, space, encoder, folder, files)
  zero_shot, make = _problem_maker(
    block, space, encoder, workdir, encode, _inputs(wanted)
  )
  began, trained = time.monotonic(), []
  for shots in block["shots"]:
    for method in wanted:
      for seed in block["seeds"]:
        problem, num_images = make(method, shots, seed)
        about = {
          "arm": arms.label(method.name, shots),
          "method": method.name,
          "shots": shots,
          "seed": seed,
          "num_images": num_images,
        }
        learn = methods.METHODS[method.kind]
        trained.append((about, learn(problem, **method.options)))
      say(
        f"few_shot: {shots} shots, {method.name}: {len(block['seeds'])} seeds"
      )
  seconds = time.monotonic() - began

  # Nothing is trained for, or chosen by, what is opened from here on.
  opened_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  tested = {
    name: encode(each)
    for name, each in splits.items()
    if name not in ("pool", "validation")
  }
  results = {
    "space": space.name,
    "classes": list(space.class_names),
    "shots": list(block["shots"]),
    "methods": [method.name for method in wanted],
    **arms.compare(
      lambda predict, features: np.asarray(predict(features)),
      functools.partial(classifier.logits_fn, zero_shot),
      trained,
      tested,
      len(space.classes),
    ),
  }
  with artifacts.replace(folder, "results.json") as path:
    path.write_text(json.dumps(results, indent=1) + "\n")
  files["results.json"] = len(results["rows"])
  artifacts.finish(
    folder,
    spec,
    files,
    test_opened_at=opened_at,
    training_seconds=round(seconds, 1),
    summary=results["summary"],
  )
  print(arms.shots_table(results), flush=True)


def _inputs(wanted: Sequence[Method]) -> tuple[str, ...]:
  filtered = any(method.filter == "clip" for method in wanted)
  drawn = any(method.strategy for method in wanted)
  return ("score", "select") if filtered else ("score",) if drawn else ()


def _splits(block: Mapping[str, Any]) -> dict[str, dict]:
  own = {k: block[k] for k in ("pool", "validation", "test") if block.get(k)}
  return own | dict(block.get("test_parts") or {})


def _encode(
  space: Any,
  encoder: Encoder,
  folder: epath.Path,
  files: dict[str, int],
  block: Mapping[str, Any],
) -> Features:
  """Opens and encodes real images, and notes the files of their features."""
  features, labels, cached = stored.encode_source(
    real.open_real(block, space),
    encoder.encode_images,
    identity=json.dumps(encoder.identity, sort_keys=True),
    folder=folder,
  )
  files.update(cached)
  return features, labels


def _problem_maker(
  block: Mapping[str, Any],
  space: Any,
  encoder: Encoder,
  workdir: epath.Path,
  encode: Callable[[Mapping[str, Any]], Features],
  inputs: Sequence[str],
) -> tuple[classifier.Head, Callable]:
  """Returns the zero-shot head, and a function that makes problems.

  That maps a method, shots and seed to a problem and the number of generated
  images in it; what several problems share is read and encoded once.
  """
  pool = real.open_real(block["pool"], space)
  pool_features, pool_labels = encode(block["pool"])
  validation = encode(block["validation"]) if block.get("validation") else None
  draw = functools.partial(few_shot.draw, num_classes=len(space.classes))
  scores, kept = None, None
  if not inputs:
    texts = stored.encode_classes(
      encoder.encode_texts, encoder.logit_scale, space
    )
  else:
    stored.check_inputs(
      workdir / "score",
      encoder=encoder.identity,
      classes=space.class_names,
      templates=space.templates,
    )
    scores = stored.read(workdir / "score")
    texts = stored.read_texts(workdir / "score")
  if "select" in inputs:
    kept = selection.read_kept(workdir / "select", workdir / "score", scores)
  zero_shot = classifier.init_head(texts.text_features, texts.logit_scale)
  embed_prompts = functools.cache(
    functools.partial(encoder.embed_prompts, space.class_names)
  )

  @functools.cache
  def views_of(shots, seed):  # [passes, n, d]
    passes = block.get("num_views", 10)
    images = [
      views.shot_view(pool[int(row)], seed=(seed, int(row), number))
      for number in range(passes)
      for row in draw(pool_labels, shots=shots, seed=seed)
    ]
    features = encoder.encode_images(images)
    return features.reshape(passes, -1, features.shape[-1])

  def make(method, shots, seed):
    rows = draw(pool_labels, shots=shots, seed=seed)
    real_shots, synthetic = (pool_features[rows], pool_labels[rows]), None
    if method.strategy:
      chosen = selection.images_for(
        scores,
        strategy=method.strategy.replace("{shots}", str(shots)),
        seed=seed,
        kept=kept if method.filter == "clip" else None,
        real=real_shots if method.filter == "real" else None,
        margin=block.get("real_filter_margin", 0.0),
        max_per_class=block.get("max_per_class", 800),
        class_names=space.class_names,
      )
      features = scores.features[chosen].astype(np.float32)
      synthetic = features, scores.labels[chosen]
    few = None
    if validation is not None:  # CoOp's protocol
      least = int(np.bincount(validation[1]).min())
      lent = draw(validation[1], shots=min(shots, 4, least), seed=seed)
      few = validation[0][lent], validation[1][lent]
    problem = methods.Problem(
      zero_shot=zero_shot,
      logit_scale=encoder.logit_scale,
      shots=real_shots,
      views=views_of(shots, seed) if method.kind in AUGMENTED else None,
      synthetic=synthetic,
      validation=few,
      prompts=embed_prompts,
      seed=seed,
    )
    return problem, 0 if synthetic is None else len(synthetic[1])

  return zero_shot, make
