"""Few-shot recognisers on stored features, behind one interface.

Each method of METHODS learns from a `Problem` and returns a function from
features [n, d] to logits [n, k].
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.adapt import coop, linear_head, linear_probe
from synthjax.adapt import tip_adapter as tip
from synthjax.adapt import tip_adapter as tip_f
from synthjax.adapt.linear_head import epochs_index
from synthjax.adapt.mixed_tuning import (
  ORDERS,
  PROTOCOLS,
  Features,
  Problem,
  tuned,
)
from synthjax.adapt.tip_adapter import SETTINGS
from synthjax.encoders.clip import NUM_CONTEXT
from synthjax.runtime.errors import (
  BLOCK,
  BLOCK_LIST,
  COUNT,
  FLAG,
  NOT_NEGATIVE,
  NUMBER,
  POSITIVE,
  SEEDS,
  SHARE,
  SHOTS,
  TEXT,
  UserError,
  check_names,
  check_values,
  one_of,
  unknown_names,
)

Predict = Callable[[jax.Array], jax.Array]


def tune_classifier(problem: Problem, **options: Any) -> Predict:
  """Tunes the zero-shot classifier (CT of the paper, Appendix C.5.2).

  Args:
    problem: to learn from.
    **options: of `few_shot_tuning.tuned`.
  """
  return partial(linear_head.logits_fn, tuned(problem, **options).head)


def best_epoch_on_test(
  problem: Problem, test: Features, **options: Any
) -> float:
  """Returns the accuracy of the best epoch of `tune_classifier` on the test.

  It is what the released code reports; a number chosen so is no estimate of
  the accuracy on new images.
  """
  again = tuned(problem, validation=test, **options)
  return float(np.max(again.accuracies))


def retrieve(
  problem: Problem,
  *,
  per_class: int | None = None,
  best_class_only: bool = False,
  **options: Any,
) -> Predict:
  """Tunes the classifier on real images that the classes' texts find.

  No label is used: what generated images have to beat.

  Args:
    problem: to learn from; its shots are counted, and not used.
    per_class: images of each class; as many as there are shots, if None.
    best_class_only: an image may be found by its nearest class alone.
    **options: of `few_shot_tuning.tuned`, but for the order.
  """
  if per_class is None:
    per_class = int(np.bincount(problem.shots[1]).max())
  found = problem.retrieve(per_class, best_class_only)
  problem = problem._replace(synthetic=found)
  return tune_classifier(problem, order="synthetic", **options)


def tip_adapter(
  problem: Problem,
  *,
  settings: str = "eurosat",
  trained: bool = False,
  batch_size: int = 256,
  lr: float = 1e-3,
) -> Predict:
  """Adds a cache of the shots; strengths are searched on validation.

  Args:
    problem: to learn from.
    settings: a key of `tip_adapter.SETTINGS`.
    trained: trains the cache first (Tip-Adapter-F).
    batch_size: of that training.
    lr: of that training.
  """
  chosen = tip.SETTINGS[settings]
  num_classes = len(problem.zero_shot.weight)
  features, labels = problem.views, problem.shots[1]
  cache = tip.build_cache(features, labels, num_classes)
  if trained:
    # A new view of each shot in each epoch, as the authors draw them.
    index = passes_index(
      len(features),
      len(labels),
      batch_size=min(batch_size, len(labels)),
      num_epochs=chosen.num_epochs,
      seed=problem.seed,
    )
    cache = tip_f.tune(
      cache,
      problem.zero_shot,
      *flatten_passes(features, labels),
      index=index,
      strengths=chosen.initial,
      lr=lr,
      num_epochs=chosen.num_epochs,
    ).cache
  found = tip.search(
    cache, problem.zero_shot, *problem.validation, scale=chosen.search_scale
  )
  return lambda x: tip.logits_fn(cache, problem.zero_shot, x, found.best)


def learn_context(
  problem: Problem,
  *,
  num_context: int = NUM_CONTEXT,
  num_epochs: int | None = None,
  batch_size: int = 32,
  lr: float = 2e-3,
) -> Predict:
  """Learns the words around the class names (CoOp), on the augmented shots.

  Args:
    problem: to learn from.
    num_context: of the context vectors.
    num_epochs: by the number of shots, as in CoOp, if None.
    batch_size: of shots.
    lr: the highest.
  """
  encode, *embedded = problem.prompts(num_context)
  prompts, labels = coop.Prompts(*embedded), problem.shots[1]
  if num_epochs is None:
    shots = min(int(np.bincount(labels).max()), max(coop.NUM_EPOCHS))
    num_epochs = next(n for m, n in coop.NUM_EPOCHS.items() if m >= shots)
  width = prompts.embeddings.shape[-1]
  rng = jax.random.key(problem.seed)
  context = coop.init_context(rng, width, num_context)
  learned = coop.tune(
    encode,
    prompts,
    context,
    *flatten_passes(problem.views, labels),
    index=passes_index(
      len(problem.views),
      len(labels),
      batch_size=min(batch_size, len(labels)),
      num_epochs=num_epochs,
      seed=problem.seed,
    ),
    num_epochs=num_epochs,
    logit_scale=problem.logit_scale,
    lr=lr,
  )
  head = coop.head_of(encode, prompts, learned.context, problem.logit_scale)
  return partial(linear_head.logits_fn, head)


def probe(problem: Problem, *, max_steps: int = 300) -> Predict:
  """Fits a linear probe to the shots; validation chooses its penalty."""
  found = linear_probe.search(
    problem.shots,
    problem.validation,
    num_classes=len(problem.zero_shot.weight),
    max_steps=max_steps,
  )
  return partial(linear_probe.linear_logits, found.head)


METHODS: dict[str, Callable[..., Predict]] = {
  "classifier": tune_classifier,
  "retrieval": retrieve,
  "tip_adapter": tip_adapter,
  "coop": learn_context,
  "linear_probe": probe,
}
# Functions whose arguments are options of a method, beside its own.
_PASSED_TO = {
  "classifier": (tuned, linear_head.tune_sets),
  "retrieval": (tuned, linear_head.tune_sets),
}
# Arguments of those that a method sets itself, or that hold arrays.
_NO_OPTIONS = {"problem", "options", "sets", "head", "teacher", "validation"}
_NO_OPTIONS |= {"progress"}


def options_of(kind: str) -> list[str]:
  """Lists the options of a key of METHODS."""
  functions = [METHODS[kind], *_PASSED_TO.get(kind, ())]
  names = [n for f in functions for n in inspect.signature(f).parameters]
  unwanted = _NO_OPTIONS | ({"order"} if kind == "retrieval" else set())
  if kind == "retrieval":
    unwanted |= {"real_batch_size"}
  return [name for name in dict.fromkeys(names) if name not in unwanted]


# --- stored features of several augmentation passes over the same few images
# A frozen encoder sees each image a few times, each time cropped and mirrored
# otherwise; training then draws one of the passes where a data loader would
# augment anew.


def flatten_passes(
  features: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Lays the passes one after another, as `passes_index` counts rows.

  Args:
    features: [passes, n, d].
    labels: [n] int, the same in every pass.

  Returns:
    Features [passes * n, d] and labels [passes * n].

  Raises:
    ValueError: if the shapes are others.
  """
  if features.ndim != 3 or labels.shape != features.shape[1:2]:
    raise ValueError(
      f"found features {features.shape} and labels {labels.shape}; needed "
      "[passes, n, d] and [n]: add an axis for a single pass, features[None]."
    )
  flat = features.reshape(-1, features.shape[-1])
  return flat, np.tile(labels, len(features))


def passes_index(
  num_passes: int,
  num_examples: int,
  *,
  batch_size: int,
  num_epochs: int,
  seed: int,
) -> np.ndarray:
  """Draws the rows of each step: each image once an epoch, in a random pass.

  Args:
    num_passes: of augmentation.
    num_examples: n, of images.
    batch_size: of all batches but the last of an epoch, which keeps the rest.
    num_epochs: at least 1.
    seed: of the orders and of the passes.

  Returns:
    [num_epochs * batches, batch_size] int32, rows of `flatten_passes`, filled
    up with -1.
  """
  index = epochs_index(
    num_examples, batch_size=batch_size, num_epochs=num_epochs, seed=seed
  )
  rng = np.random.default_rng((seed, 1))  # not the numbers of the orders
  chosen = rng.integers(num_passes, size=index.shape, dtype=np.int32)
  return np.where(index < 0, -1, index + num_examples * chosen)


# --- what few-shot learning compares, from fields of plain data --------------
# The fields are those of the task `few_shot`.

REQUIRED = {
  "methods": BLOCK_LIST,  # what is compared
  "shots": SHOTS,  # of each class, several counts
  "seeds": SEEDS,  # of the shots, of the images, and of all orders
  "pool": BLOCK,  # real images that the shots are drawn from
  "test": BLOCK,  # real images, opened once, at the end
}
KNOWN = REQUIRED | {
  "test_parts": BLOCK,  # name -> real images reported beside them
  "validation": BLOCK,  # real images, of which each class lends min(shots, 4)
  # Of the shots: "nested", or "coop" for the draws of CoOp's code.
  "sampler": TEXT,
  "num_views": COUNT,  # of each shot, for methods that augment; 10 by default
  "real_filter_margin": NUMBER,  # of filter="real"
  "max_per_class": COUNT,  # that filter="real" keeps; 800 by default
  # Of classifier tuning: "paper", or "released" for the code's.
  "protocol": one_of(PROTOCOLS),
  # Also reports that number; with "released" by default.
  "best_epoch_on_test": FLAG,
}
# Of one method.
FIELDS = {
  "name": TEXT,
  "kind": one_of(METHODS),
  "strategy": TEXT,  # of the generated images; "rg{shots}": of real guidance
  "filter": one_of(("clip", "real")),
  "options": BLOCK,  # of the function of METHODS
}
# Of all kinds; `few_shot_methods.options_of` tells which takes which.
OPTIONS = {
  "order": one_of(ORDERS),
  "protocol": one_of(PROTOCOLS),
  "settings": one_of(SETTINGS),
  "num_epochs": COUNT,
  "batch_size": COUNT,
  "real_batch_size": COUNT,
  "lr": POSITIVE,
  "weight_decay": NOT_NEGATIVE,
  "clip_norm": POSITIVE,
  "temperature": POSITIVE,
  "soft_weight": SHARE,
  "label_smoothing": SHARE,
  "bias": FLAG,
  "decay_bias": FLAG,
  "per_class": COUNT,
  "best_class_only": FLAG,
  "trained": FLAG,
  "num_context": COUNT,
  "max_steps": COUNT,
}
TUNED = ("classifier", "retrieval")  # kinds that have a protocol


class Method(NamedTuple):
  """One way of learning."""

  name: str
  kind: str  # of METHODS
  strategy: str | None = None
  filter: str | None = None
  options: Mapping[str, Any] = {}


def read(
  blocks: Sequence[Mapping[str, Any]],
  *,
  protocol: str | None = None,
  taken: Sequence[str] = (),
) -> list[Method]:
  """Reads the methods of a config's blocks.

  Args:
    blocks: of name, kind and others of FIELDS.
    protocol: of the tuned methods that name none, a key of PROTOCOLS.
    taken: names that no method may have.

  Raises:
    UserError: about unknown kinds, options, orders and filters, names that are
      not unique, or images that a method needs and does not name, or names and
      does not need.
  """
  read = [_read(i, block, protocol) for i, block in enumerate(blocks)]
  names = [method.name for method in read]
  check_names("config.few_shot.methods", names, taken)
  return read


def _read(
  number: int, block: Mapping[str, Any], protocol: str | None
) -> Method:
  method = Method(**block)
  check_values(f"config.few_shot.methods[{number}]", block, FIELDS)
  options, known = dict(method.options or {}), options_of(method.kind)
  if unknown := [name for name in options if name not in known]:
    where = f"config.few_shot.methods[{number}].options field"
    raise unknown_names(where, unknown, known)
  if method.kind in TUNED:
    options.setdefault("protocol", protocol or PROTOCOLS[0])
  check_values(f"config.few_shot.methods[{number}].options", options, OPTIONS)
  order = options.get("order", "mix")
  needs = method.kind == "classifier" and order != "real"
  if needs != (method.strategy is not None):
    raise UserError(
      f"The method {method.name!r} ({method.kind}) learns from "
      f"{'generated' if needs else 'real'} images: "
      f"{'give' if needs else 'leave out'} its strategy."
    )
  if method.filter and not method.strategy:
    raise UserError(
      f"The method {method.name!r} has filter={method.filter!r}, and no "
      "strategy whose images that would filter."
    )
  return method._replace(options=options)
