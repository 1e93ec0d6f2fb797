"""Few-shot recognisers on stored features, behind one interface.

Each method of METHODS learns from a `Problem` and returns a function from
features [n, d] to logits [n, k].
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from synthjax.train import classifier, coop, linear_probe, passes
from synthjax.train import tip_adapter as tip
from synthjax.train import tip_adapter_f as tip_f
from synthjax.train.classifier import Head, Rows

Predict = Callable[[jax.Array], jax.Array]
Features = tuple[np.ndarray, np.ndarray]  # [n, d] float32, labels [n] int

# What classifier tuning sees, and in which order (Appendix C.5.2).
ORDERS = ("real", "synthetic", "mix", "syn_real", "real_syn")


class Problem(NamedTuple):
  """All that a method may learn from."""

  zero_shot: Head
  logit_scale: float  # the factor on cosines, already exp
  shots: Features  # of the real images
  views: np.ndarray | None  # [passes, n, d] of the augmented shots
  synthetic: Features | None  # of the generated images
  validation: Features | None  # chooses between strengths
  prompts: Callable[[int], tuple] | None  # `Encoder.embed_prompts`, of context
  seed: int  # of orders and first values


def tune_classifier(
  problem: Problem,
  *,
  order: str = "mix",
  num_epochs: int = 30,
  real_batch_size: int = 32,
  batch_size: int = 512,
  lr: float = 1e-3,
  soft_weight: float = 0.5,
  **options: Any,
) -> Predict:
  """Tunes the zero-shot classifier (CT of the paper, Appendix C.5.2).

  Args:
    problem: to learn from.
    order: "mix" adds the loss of a batch of real images to that of a batch of
      generated ones, in each step; "syn_real" and "real_syn" are one after the
      other, each with its own schedule; "real" and "synthetic" leave one out.
    num_epochs: counted on the generated images where they are mixed.
    real_batch_size: of real images, which are learned by plain cross entropy.
    batch_size: of generated images.
    lr: of each phase; the paper has 1e-3 for "mix", 2e-3 for phases.
    soft_weight: of the teacher's targets for generated images.
    **options: of `classifier.tune_sets`.
  """
  tune = partial(
    classifier.tune_sets,
    teacher=problem.zero_shot,
    lr=lr,
    num_epochs=num_epochs,
    **options,
  )
  index = partial(
    classifier.epochs_index, num_epochs=num_epochs, seed=problem.seed
  )

  def alone(data, size, weight):
    features, labels = data
    size = min(size, len(labels))
    own = index(len(labels), batch_size=size)
    return Rows(features, labels, own, weight)

  synthetic = lambda: alone(problem.synthetic, batch_size, soft_weight)
  real = lambda: alone(problem.shots, real_batch_size, 0.0)
  if order == "mix":
    generated, (features, labels) = synthetic(), problem.shots
    cycled = classifier.cycled_index(
      len(labels),
      batch_size=min(real_batch_size, len(labels)),
      num_steps=len(generated.index),
      seed=problem.seed,
    )
    phases = [[Rows(features, labels, cycled, 0.0), generated]]
  else:
    known = {"real": [real], "synthetic": [synthetic]}
    known |= {"syn_real": [synthetic, real], "real_syn": [real, synthetic]}
    phases = [[rows()] for rows in known[order]]
  head = problem.zero_shot
  for sets in phases:
    head = tune(sets, head).head
  return partial(classifier.logits_fn, head)


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
  "tip_adapter": tip_adapter,
  "coop": learn_context,
  "linear_probe": probe,
}
