"""Few-shot recognisers on stored features, behind one interface.

A method of METHODS learns from a `Problem`, and returns a function from
features [n, d] to logits [n, k], one of `heads.LEARNED`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import jax
import numpy as np

from synthjax.adapt import coop, linear_head, linear_probe, prolip
from synthjax.adapt import tip_adapter as tip
from synthjax.adapt.linear_head import Rows, epochs_index
from synthjax.adapt.mixed_tuning import (
  ORDERS,
  Features,
  Problem,
  Protocol,
  Tuning,
  tuned,
)
from synthjax.config import schema
from synthjax.config.schema import (
  Block,
  Choice,
  Count,
  Flag,
  NotNegative,
  Number,
  Positive,
  Seeds,
  Share,
  Shots,
  Text,
  one_of,
  unique_names,
)
from synthjax.data.pipeline.few_shot import SAMPLERS
from synthjax.encoders.clip import NUM_CONTEXT
from synthjax.evals.arms import ZERO_SHOT

Predict = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class Classifier(Tuning):
  """Tunes the zero-shot classifier (CT of the paper, Appendix C.5.2)."""

  order: Annotated[str, one_of(ORDERS)] = "mix"
  real_batch_size: Count | None = None  # None: the protocol's

  def __call__(self, problem: Problem) -> Predict:
    return self.tuned(problem).head

  def best_epoch_on_test(self, problem: Problem, test: Features) -> float:
    """Returns the accuracy of the best epoch, chosen on the test images.

    It is what the released code reports; a number chosen so is no estimate of
    the accuracy on new images.
    """
    return float(np.max(self.tuned(problem, test).accuracies))

  def tuned(
    self, problem: Problem, validation: Features | None = None
  ) -> linear_head.Tuned:
    """Returns all that the training leaves; see `mixed_tuning.tuned`."""
    return tuned(
      problem,
      self,
      order=self.order,
      real_batch_size=self.real_batch_size,
      validation=validation,
    )


@dataclass(frozen=True, kw_only=True)
class Retrieval(Tuning):
  """Tunes the classifier on real images that the classes' texts find.

  No label is used: what generated images have to beat. The shots are counted,
  and not used.
  """

  per_class: Count | None = None  # None: as many as there are shots
  best_class_only: Flag = False  # an image is found by its nearest class alone

  def __call__(self, problem: Problem) -> Predict:
    per_class = self.per_class or int(np.bincount(problem.shots[1]).max())
    images = problem.retrieve(per_class, self.best_class_only)
    problem = problem._replace(synthetic=images)
    return tuned(problem, self, order="synthetic").head


def tip_adapter(
  problem: Problem,
  *,
  settings: Annotated[str, one_of(tip.SETTINGS)] = "eurosat",
  trained: Flag = False,
  batch_size: Count = 256,
  lr: Positive = 1e-3,
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
  cache = tip.build_cache(problem.views, problem.shots[1], num_classes)
  if trained:
    # A new view of each shot in each epoch, as the authors draw them.
    features, labels, index = _augmented(problem, batch_size, chosen.num_epochs)
    cache = tip.tune(
      cache,
      problem.zero_shot,
      features,
      labels,
      index=index,
      strengths=chosen.initial,
      lr=lr,
    ).cache
  best = tip.search(
    cache, problem.zero_shot, *problem.validation, scale=chosen.search_scale
  ).best
  return tip.make_adapter(cache, problem.zero_shot, best)


def learn_context(
  problem: Problem,
  *,
  num_context: Count = NUM_CONTEXT,
  num_epochs: Count | None = None,
  batch_size: Count = 32,
  lr: Positive = 2e-3,
  crops: Literal["stored", "fresh"] = "stored",
) -> Predict:
  """Learns the words around the class names (CoOp), on the augmented shots.

  Args:
    problem: to learn from.
    num_context: of the context vectors.
    num_epochs: by the number of shots, as in CoOp, if None.
    batch_size: of shots.
    lr: the highest.
    crops: "fresh" ones in each epoch, as CoOp's data loader draws them, cost an
      encoding of every shot an epoch; "stored" ones are the few passes that
      Tip-Adapter's cache has.
  """
  encode, *embedded = problem.prompts(num_context)
  prompts = coop.Prompts(*embedded)
  if num_epochs is None:
    shots = int(np.bincount(problem.shots[1]).max())
    shots = min(shots, max(coop.NUM_EPOCHS))
    num_epochs = next(n for m, n in coop.NUM_EPOCHS.items() if m >= shots)
  width = prompts.embeddings.shape[-1]
  rng = jax.random.key(problem.seed)
  context = coop.init_context(rng, width, num_context)
  features, labels, index = _augmented(
    problem, batch_size, num_epochs, fresh=crops == "fresh"
  )
  learned = coop.tune(
    encode,
    prompts,
    context,
    features,
    labels,
    index=index,
    num_epochs=num_epochs,
    logit_scale=problem.logit_scale,
    lr=lr,
  )
  return coop.head_of(encode, prompts, learned.context, problem.logit_scale)


def tune_projection(
  problem: Problem,
  *,
  num_steps: Count = 300,
  lr: Positive = 1e-5,
  penalty: NotNegative | None = None,
  batch_size: Count = 512,
  soft_weight: Share = 0.5,
  temperature: Positive = 2.0,
  crops: Literal["stored", "fresh"] = "stored",
) -> Predict:
  """Tunes CLIP's last projection on augmented shots (ProLIP).

  Where there are generated images, the loss of a batch of them is added in each
  step, as in the mix of classifier tuning.

  Args:
    problem: to learn from.
    num_steps: each sees a view of every shot.
    lr: of the first step; the paper's results hardly depend on it.
    penalty: on the squared distance to the start. None is the paper's rule
      without validation, 1 over the images of a class; those that are generated
      count too.
    batch_size: of generated images.
    soft_weight: of the teacher's targets for generated images.
    temperature: of the teacher.
    crops: "fresh" ones in each step, as the authors store them, or the few
      passes that Tip-Adapter's cache has; see `learn_context`.
  """
  num_images = len(problem.shots[1])
  shots = _augmented(problem, num_images, num_steps, fresh=crops == "fresh")
  sets = [Rows(*shots, soft_weight=0.0)]
  if problem.synthetic:
    z, labels = problem.synthetic
    index = linear_head.cycled_index(
      len(labels),
      batch_size=min(batch_size, len(labels)),
      num_steps=num_steps,
      seed=problem.seed,
    )
    sets.append(Rows(z, labels, index, soft_weight))
    num_images += len(labels)
  if penalty is None:
    penalty = len(problem.zero_shot.weight) / num_images
  tuned = prolip.tune(
    sets,
    problem.projection,
    problem.zero_shot,
    penalty=penalty,
    lr=lr,
    temperature=temperature,
  )
  return prolip.make_head(tuned.projection, problem.zero_shot)


def probe(problem: Problem, *, max_steps: Count = 300) -> Predict:
  """Fits a linear probe to the shots; validation chooses its penalty."""
  best = linear_probe.search(
    problem.shots,
    problem.validation,
    num_classes=len(problem.zero_shot.weight),
    max_steps=max_steps,
  )
  return best.head


# Functions of a problem, whose other arguments are the options of a method; or
# dataclasses of the options, whose instances are functions of a problem.
METHODS: dict[str, Callable] = {
  "classifier": Classifier,
  "retrieval": Retrieval,
  "tip_adapter": tip_adapter,
  "coop": learn_context,
  "linear_probe": probe,
  "prolip": tune_projection,
}
# Kinds that learn from augmented shots; that search on validation images; and
# that tune the encoder's projection, from generated images too or without.
AUGMENTED = ("tip_adapter", "coop", "prolip")
SEARCHING = ("tip_adapter", "linear_probe")
PROJECTING = ("prolip",)
_OPTIONS = Choice("kind", METHODS, filled=("problem",))


@dataclass(frozen=True, kw_only=True)
class Method:
  """A way of learning that a run compares with others."""

  name: Text
  kind: Annotated[str, one_of(METHODS)]
  strategy: Text | None = None  # of the images; "rg{shots}": of real guidance
  filter: Annotated[str, one_of(("clip", "real"))] | None = None
  options: Block = field(default_factory=dict)  # of the entry of METHODS

  @property
  def projects(self) -> bool:
    """Whether it learns from features before the encoder's projection."""
    return self.kind in PROJECTING

  def learner(self) -> Callable[[Problem], Predict]:
    """Returns the entry of METHODS with the options."""
    return schema.read(_OPTIONS.pick(self.kind), self.options, "options")

  def problems(self) -> Iterable[str]:
    lines = schema.problems(_OPTIONS.pick(self.kind), self.options, "options")
    if lines:
      yield from lines
      return
    order = self.options.get("order") or Classifier.order
    needs = self.kind == "classifier" and order != "real"
    if needs != (self.strategy is not None) and not self.projects:
      yield (
        f"the method {self.name!r} ({self.kind}) learns from "
        f"{'generated' if needs else 'real'} images: "
        f"{'give' if needs else 'leave out'} its strategy"
      )
    elif self.filter and not self.strategy:
      yield (
        f"the method {self.name!r} has filter={self.filter!r}, and no strategy "
        "whose images that would filter"
      )


@dataclass(frozen=True, kw_only=True)
class FewShot:
  """The block `config.few_shot`."""

  methods: Annotated[tuple[Method, ...], unique_names(ZERO_SHOT)]
  shots: Shots  # of each class, several counts
  seeds: Seeds  # of the shots, of the images, and of all orders
  pool: Block  # real images that the shots are drawn from
  test: Block  # real images, opened once, at the end
  # name -> real images reported beside them
  test_parts: Mapping[str, Block] = field(default_factory=dict)
  # Real images; min(shots, 4) of each class are used.
  validation: Block | None = None
  # How shots are drawn: "nested", or "coop" as CoOp's code does.
  sampler: Annotated[str, one_of(SAMPLERS)] = "nested"
  num_views: Count = 10  # of each shot, for methods that augment
  real_filter_margin: Number = 0.0  # of filter="real"
  max_per_class: Count = 800  # that filter="real" keeps
  protocol: Protocol = "paper"  # of methods that name none
  # Also reports the best epoch, chosen on the test images; None does so with
  # the protocol "released", as the released code does.
  best_epoch_on_test: Flag | None = None

  @property
  def reports_best_epoch(self) -> bool:
    """Whether the best epoch on the test images is reported as well."""
    if self.best_epoch_on_test is None:
      return self.protocol == "released"
    return self.best_epoch_on_test

  def problems(self) -> Iterable[str]:
    kinds = sorted({method.kind for method in self.methods} & {*SEARCHING})
    if kinds and not self.validation:
      yield (
        f"methods of the kinds {kinds} search on `validation`: give real "
        "images for it"
      )


# --- stored features of several augmentation passes over the same few images
# A frozen encoder sees each image a few times, each time cropped and mirrored
# otherwise; training then draws one of the passes where a data loader would
# augment anew.


def _augmented(
  problem: Problem, batch_size: int, num_epochs: int, *, fresh: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns features, labels and index of a training on augmented shots."""
  labels = problem.shots[1]
  views = problem.crops(num_epochs) if fresh else problem.views
  index = passes_index(
    None if fresh else len(views),
    len(labels),
    batch_size=min(batch_size, len(labels)),
    num_epochs=num_epochs,
    seed=problem.seed,
  )
  return *flatten_passes(views, labels), index


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
  num_passes: int | None,
  num_examples: int,
  *,
  batch_size: int,
  num_epochs: int,
  seed: int,
) -> np.ndarray:
  """Draws the rows of each step: each image once an epoch, in a random pass.

  Args:
    num_passes: of augmentation; None where each epoch has its own.
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
  if num_passes is None:
    chosen = np.arange(num_epochs, dtype=np.int32)
    chosen = np.repeat(chosen, len(index) // num_epochs)[:, None]
  else:
    rng = np.random.default_rng((seed, 1))  # not the numbers of the orders
    chosen = rng.integers(num_passes, size=index.shape, dtype=np.int32)
  return np.where(index < 0, -1, index + num_examples * chosen)
