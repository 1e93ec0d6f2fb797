"""Few-shot recognisers on stored features, behind one interface.

Each method of METHODS learns from a `Problem` and returns a function from
features [n, d] to logits [n, k].
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from synthjax.train import classifier, coop, linear_probe, passes
from synthjax.train import tip_adapter as tip
from synthjax.train import tip_adapter_f as tip_f
from synthjax.train.few_shot_tuning import Features, Problem, tuned

Predict = Callable[[jax.Array], jax.Array]


def tune_classifier(problem: Problem, **options: Any) -> Predict:
  """Tunes the zero-shot classifier (CT of the paper, Appendix C.5.2).

  Args:
    problem: to learn from.
    **options: of `few_shot_tuning.tuned`.
  """
  return partial(classifier.logits_fn, tuned(problem, **options).head)


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
    index = passes.passes_index(
      len(features),
      len(labels),
      batch_size=min(batch_size, len(labels)),
      num_epochs=chosen.num_epochs,
      seed=problem.seed,
    )
    cache = tip_f.tune(
      cache,
      problem.zero_shot,
      *passes.flatten_passes(features, labels),
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
  num_context: int = coop.NUM_CONTEXT,
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
    *passes.flatten_passes(problem.views, labels),
    index=passes.passes_index(
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
  return partial(classifier.logits_fn, head)


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
  "classifier": (tuned, classifier.tune_sets),
  "retrieval": (tuned, classifier.tune_sets),
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
