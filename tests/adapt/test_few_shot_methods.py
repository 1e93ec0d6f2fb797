"""Few-shot methods: what each learns from, and the recipe of the paper."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from synthjax.adapt import coop, linear_head, mixed_tuning
from synthjax.adapt import few_shot_methods as methods
from synthjax.adapt import tip_adapter as tip
from synthjax.adapt.linear_head import Recipe, Rows
from synthjax.adapt.soft_targets import hard_cross_entropy, mixed_cross_entropy
from synthjax.config import schema
from synthjax.encoders import load_encoder
from synthjax.tokenizers import bpe

D, NUM_SHOTS, NUM_DRAWN = 8, 6, 20


def rows_of(rng, centres, labels):
  noise = rng.normal(0, 0.5, (len(labels), D))
  return (centres[labels] + noise).astype(np.float32), labels


@pytest.fixture(scope="module")
def problem():
  """Two shots of 3 classes, with views, and generated and validation rows."""
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(3, D))
  shots = rows_of(rng, centres, np.repeat(np.arange(3), 2))
  texts = centres[:, None] + rng.normal(0, 1.0, (3, 2, D))
  views = shots[0] + rng.normal(0, 0.2, (4, NUM_SHOTS, D)).astype(np.float32)
  return mixed_tuning.Problem(
    zero_shot=linear_head.init_head(texts, 20.0),
    logit_scale=20.0,
    shots=shots,
    views=views,
    synthetic=rows_of(rng, centres, np.arange(NUM_DRAWN) % 3),
    validation=rows_of(rng, centres, np.arange(30) % 3),
    prompts=None,
    seed=0,
  )


def tuned_of(problem, validation=None, **options):
  return methods.Classifier(**options).tuned(problem, validation)


def heads_of(problem, **options):
  return tuned_of(problem, **options).head


# --- classifier tuning ------------------------------------------------------


def test_a_mixed_step_adds_the_losses_of_real_and_generated_images(problem):
  """L = L_real + L_syn: plain CE of 32 real, SCE and CE of 512 generated."""
  tuned = tuned_of(problem, num_epochs=1)
  # Both sets are smaller than their batches, so that the step sees all rows.
  assert len(tuned.losses) == 1

  def loss_fn(head):
    (x, y), (drawn, labels) = problem.shots, problem.synthetic
    teacher = linear_head.logits_fn(problem.zero_shot, drawn)
    real = hard_cross_entropy(linear_head.logits_fn(head, x), y).mean()
    return real + (
      mixed_cross_entropy(
        *(linear_head.logits_fn(head, drawn), teacher, labels),
        soft_weight=0.5,
        temperature=2.0,
      ).mean()
    )

  start = problem.zero_shot
  loss, grads = jax.value_and_grad(loss_fn)(start)
  np.testing.assert_allclose(tuned.losses[0], loss, rtol=1e-5)
  # Adam's first step is the sign of the gradient; weight decay is decoupled.
  g = linear_head.clip(grads, 1.0).weight
  step = g / (np.abs(g) + 1e-8) + 0.1 * start.weight
  want = start.weight - 1e-3 * step
  np.testing.assert_allclose(tuned.head.weight, want, rtol=1e-6)


def test_epochs_of_a_mix_are_counted_on_the_generated_images(problem):
  options = dict(num_epochs=3, batch_size=8, real_batch_size=4)
  steps = {
    order: len(tuned_of(problem, order=order, **options).losses)
    for order in mixed_tuning.ORDERS
  }
  # 20 generated images in batches of 8, and 6 shots in batches of 4.
  assert steps == {
    "mix": 9,
    "synthetic": 9,
    "real": 6,
    "syn_real": 6,
    "real_syn": 9,
  }


@pytest.mark.parametrize(
  ("order", "phases"),
  [("syn_real", ("synthetic", "real")), ("real_syn", ("real", "synthetic"))],
)
def test_phases_hand_the_head_over_and_keep_the_teacher(problem, order, phases):
  options = dict(num_epochs=2, lr=0.05)
  first = heads_of(problem, order=phases[0], **options)
  features, labels = (
    problem.synthetic if phases[1] == "synthetic" else problem.shots
  )
  index = linear_head.epochs_index(
    len(labels), batch_size=len(labels), num_epochs=2, seed=problem.seed
  )
  soft_weight = 0.5 if phases[1] == "synthetic" else 0.0
  second = linear_head.tune(
    [Rows(features, labels, index, soft_weight)],
    first,
    Recipe(lr=0.05),
    teacher=problem.zero_shot,  # and not the head that was handed over
    num_epochs=2,
  )
  whole = heads_of(problem, order=order, **options)
  np.testing.assert_allclose(whole.weight, second.head.weight, rtol=1e-6)
  np.testing.assert_allclose(whole.bias, second.head.bias, rtol=1e-5)
  assert np.abs(whole.weight - first.weight).max() > 0.01


def test_real_images_alone_are_learned_by_plain_cross_entropy(problem):
  index = linear_head.epochs_index(
    NUM_SHOTS, batch_size=4, num_epochs=2, seed=problem.seed
  )
  want = linear_head.tune(
    [Rows(*problem.shots, index, 0.0)],
    problem.zero_shot,
    Recipe(lr=1e-3),
    num_epochs=2,
  )
  options = dict(order="real", num_epochs=2, real_batch_size=4)
  # Whatever the generated images' loss is.
  for more in ({}, {"soft_weight": 0.9}):
    got = heads_of(problem, **options, **more)
    np.testing.assert_array_equal(got.weight, want.head.weight)
  predict = methods.Classifier(**options)(problem)
  np.testing.assert_array_equal(
    predict(problem.validation[0]),
    linear_head.logits_fn(want.head, problem.validation[0]),
  )


def test_the_switches_reach_the_head(problem):
  options = dict(num_epochs=2, lr=0.05)
  usual = heads_of(problem, **options)
  assert np.abs(usual.bias).max() > 0
  none = heads_of(problem, bias=False, **options)
  np.testing.assert_array_equal(none.bias, 0)
  smooth = heads_of(problem, label_smoothing=0.2, **options)
  assert np.abs(smooth.weight - usual.weight).max() > 1e-3


# --- the protocol of the released code --------------------------------------


def test_the_released_schedule_is_a_saw_tooth_past_the_cosine():
  """EuroSAT's 8,000 images: 63 steps an epoch on a schedule of 16."""
  progress = mixed_tuning.released_progress(8000, batch_size=128, num_epochs=30)
  position = np.round(progress * 480).astype(int).reshape(30, 63)
  np.testing.assert_array_equal(position[0], np.arange(63))
  np.testing.assert_array_equal(position[:, 0], 16 * np.arange(30))
  assert position.max() == 526


def test_the_released_protocol_draws_128_and_follows_its_schedule(monkeypatch):
  rng = np.random.default_rng(1)
  centres = rng.normal(size=(3, D))
  problem = mixed_tuning.Problem(
    zero_shot=linear_head.init_head(centres[:, None], 20.0),
    logit_scale=20.0,
    shots=rows_of(rng, centres, np.arange(150) % 3),
    views=None,
    synthetic=rows_of(rng, centres, np.arange(700) % 3),
    validation=None,
    prompts=None,
    seed=0,
  )
  seen, tune = [], linear_head.tune

  def spy(sets, *args, **kwargs):
    seen.append((sets, kwargs))
    return tune(sets, *args, **kwargs)

  monkeypatch.setattr(linear_head, "tune", spy)
  tuned_of(problem, protocol="released", num_epochs=2)
  tuned_of(problem, num_epochs=2)
  ((real, drawn), kwargs), ((usual_real, usual), usual_kwargs) = seen
  # 700 images are 6 batches of 128, but 2 of 512: the rate goes by the latter.
  assert drawn.index.shape == real.index.shape == (12, 128)
  np.testing.assert_allclose(
    kwargs["progress"] * 4, [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]
  )
  # The real images begin anew in each epoch: 150 in batches of 128 and 22.
  for epoch in real.index.reshape(2, 6, 128):
    for both in epoch.reshape(3, 256):
      np.testing.assert_array_equal(np.sort(both[both >= 0]), np.arange(150))
  assert usual.index.shape == (4, 512) and usual_real.index.shape == (4, 32)
  assert usual_kwargs["progress"] is None

  # The protocol of the run is that of options which name none.
  seen.clear()
  problem = problem._replace(protocol="released")
  tuned_of(problem, num_epochs=2)
  tuned_of(problem, protocol="paper", num_epochs=2)
  assert [sets[1].index.shape for sets, _ in seen] == [(12, 128), (4, 512)]


def test_the_best_epoch_on_test_is_the_highest_of_all_epochs(problem):
  options = dict(num_epochs=6, batch_size=4, lr=3.0)
  tuned = tuned_of(problem, validation=problem.validation, **options)
  best = methods.Classifier(**options).best_epoch_on_test(
    problem, problem.validation
  )
  assert best == pytest.approx(float(np.max(tuned.accuracies)))
  last = linear_head.accuracy_fn(tuned.head, *problem.validation)
  assert best >= last - 1e-6


# --- retrieval --------------------------------------------------------------


def test_retrieved_images_are_learned_as_generated_ones_are(problem):
  asked, found = [], problem.synthetic

  def retrieve(per_class, best_class_only):
    asked.append((per_class, best_class_only))
    return found

  problem = problem._replace(retrieve=retrieve)
  x = problem.validation[0]
  want = methods.Classifier(order="synthetic", num_epochs=2)(problem)(x)
  problem = problem._replace(synthetic=None)
  got = methods.Retrieval(num_epochs=2)(problem)(x)
  np.testing.assert_array_equal(got, want)
  methods.Retrieval(per_class=7, best_class_only=True, num_epochs=2)(problem)
  assert asked == [(2, False), (7, True)]  # 2 shots a class by default


def test_the_labels_of_the_shots_do_not_matter_to_retrieval(problem):
  problem = problem._replace(retrieve=lambda *_: problem.synthetic)
  features, labels = problem.shots
  other = problem._replace(shots=(features[::-1], labels[::-1]))
  for one, two in zip(
    *(
      methods.Retrieval(num_epochs=2)(each)(features)
      for each in (problem, other)
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(one, two)


# --- Tip-Adapter, the probe -------------------------------------------------


def test_tip_adapter_uses_the_strengths_found_on_validation(problem):
  predict = methods.tip_adapter(problem, settings="dtd")
  cache = tip.build_cache(problem.views, problem.shots[1], 3)
  found = tip.search(
    cache,
    problem.zero_shot,
    *problem.validation,
    scale=tip.SETTINGS["dtd"].search_scale,
  )
  x = problem.synthetic[0]
  want = tip.logits_fn(cache, problem.zero_shot, x, found.best)
  np.testing.assert_allclose(predict(x), want, rtol=1e-6)
  logits = np.asarray(predict(problem.validation[0]))
  accuracy = (logits.argmax(-1) == problem.validation[1]).mean()
  assert accuracy == pytest.approx(float(found.accuracy))
  # Another validation set finds others.
  features, labels = problem.validation
  other = problem._replace(validation=(features, (labels + 1) % 3))
  assert np.abs(methods.tip_adapter(other)(x) - predict(x)).max() > 1e-3


def test_tip_adapter_f_trains_the_cache_first(problem):
  x = problem.synthetic[0]
  plain = methods.tip_adapter(problem)(x)
  trained = methods.tip_adapter(problem, trained=True, lr=0.1)(x)
  assert np.abs(trained - plain).max() > 1e-2


def test_the_probe_learns_from_the_shots(problem):
  predict = methods.probe(problem)
  features, labels = problem.shots
  logits = np.asarray(predict(features))
  assert (logits.argmax(-1) == labels).all()
  # Unlike CLIP's classifier, it sees the length of a feature.
  longer = np.asarray(predict(3 * features))
  assert np.abs(longer - logits).max() > 0.5 * np.abs(logits).max()


# --- CoOp on a CLIP ---------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  weights = tiny_world.write_clip(
    tmp_path_factory.mktemp("clip") / "clip.safetensors", context_length=16
  )
  return load_encoder(**tiny_world.encoder_block(weights))


NAMES = ("bird species", "fresh fruit", "drink")


def test_context_of_known_words_reads_as_their_text(encoder):
  """ "x x x bird species." is the same as words or as learned context."""
  encode, embeddings, end = encoder.embed_prompts(NAMES, 3)
  prompts = coop.Prompts(jnp.asarray(embeddings), jnp.asarray(end))
  words = bpe.load()
  (token, *others) = words.clip_ids("x x x")
  assert others == [token] * 2
  # A class called "x" has that token at its fourth place: its embedding.
  _, embedded, _ = encoder.embed_prompts(("x",), 2)
  context = jnp.repeat(jnp.asarray(embedded)[0, 3][None], 3, 0)
  with jax.default_matmul_precision("highest"):
    got = encode(coop.insert_context(prompts, context), prompts.end)
    want = encoder.encode_texts([f"x x x {name}." for name in NAMES])
    other = encoder.encode_texts([f"x x {name}." for name in NAMES])
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert np.abs(got - other).max() > 1e-2


@pytest.mark.slow
def test_coop_learns_a_classifier_of_the_names(encoder, problem):
  rng = np.random.default_rng(2)
  texts = encoder.encode_texts([f"a {name}." for name in NAMES])
  views = texts[problem.shots[1]] + rng.normal(0, 0.1, (2, NUM_SHOTS, 16))
  problem = problem._replace(
    views=views.astype(np.float32),
    prompts=lambda num_context: encoder.embed_prompts(NAMES, num_context),
    logit_scale=encoder.logit_scale,
  )
  learn = lambda num_epochs: methods.learn_context(
    problem, num_context=2, num_epochs=num_epochs, lr=0.5
  )
  flat, labels = views.reshape(-1, 16), np.tile(problem.shots[1], 2)
  loss = lambda predict: float(hard_cross_entropy(predict(flat), labels).mean())
  # The first epoch only warms up.
  assert loss(learn(20)) < loss(learn(1)) - 0.01


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (16, 200)])
def test_coop_trains_longer_with_more_shots(shots, epochs, monkeypatch):
  labels = np.repeat(np.arange(3), shots)
  asked, seen = [], []

  def tune(encode, prompts, context, features, *args, num_epochs, **kwargs):
    asked.append(num_epochs)
    seen.append(features)
    raise InterruptedError

  monkeypatch.setattr(coop, "tune", tune)
  problem = mixed_tuning.Problem(
    zero_shot=None,
    logit_scale=1.0,
    shots=(None, labels),
    views=np.zeros((2, len(labels), D), np.float32),
    synthetic=None,
    validation=None,
    prompts=lambda n: (None, np.zeros((3, n + 4, 5)), np.full(3, n + 3)),
    seed=0,
    crops=lambda number: np.ones((number, len(labels), D), np.float32),
  )
  with pytest.raises(InterruptedError):
    methods.learn_context(problem)
  with pytest.raises(InterruptedError):
    methods.learn_context(problem, crops="fresh")
  # The stored views, and crops of its own for each epoch.
  assert seen[0].shape == (2 * len(labels), D) and not seen[0].any()
  assert seen[1].shape == (epochs * len(labels), D) and seen[1].all()
  assert asked.pop() == epochs
  assert asked == [epochs]


# --- what a config asks for -------------------------------------------------


def options_of(kind):
  choice = schema.Choice("kind", methods.METHODS, filled=("problem",))
  return schema.fields_of(choice.pick(kind), {})


def test_options_are_the_arguments_of_the_methods():
  names = options_of("classifier")
  for name in ("order", "protocol", "weight_decay", "bias", "label_smoothing"):
    assert name in names
  assert not {"sets", "teacher", "validation", "progress"} & {*names}
  names = options_of("retrieval")
  assert {"per_class", "lr"} <= {*names}
  assert not {"order", "real_batch_size"} & {*names}
  assert options_of("linear_probe") == ["max_steps"]


def method_problems(**block):
  return "\n".join(schema.problems(methods.Method, dict(block, name="x"), "m"))


@pytest.mark.parametrize(
  ("block", "message"),
  [
    (dict(kind="clasifier"), "did you mean 'classifier'"),
    (dict(strategy="b", options={"l": 1}), "options has no field 'l'"),
    (
      dict(strategy="b", options={"batchsize": 1}),
      "options has no field.*did you mean 'batch_size'",
    ),
    (dict(strategy="b", options={"lr": -1}), "options.lr=-1: needed a number"),
    (dict(kind="retrieval", options={"order": "mix"}), "'order'.*Allowed"),
    (
      dict(kind="retrieval", options={"real_batch_size": 1}),
      "'real_batch_size'",
    ),
    (dict(kind="coop", options={"problem": 1}), "no field 'problem'"),
    (
      dict(strategy="b", options={"order": "synreal"}),
      "did you mean 'syn_real'",
    ),
    (dict(strategy="b", options={"protocol": "papr"}), "did you mean 'paper'"),
    (dict(), "from generated images: give its strategy"),
    (dict(kind="coop", strategy="b"), "from real images: leave out"),
    (dict(strategy="b", options={"order": "real"}), "leave out its strategy"),
    (dict(strategy="b", filter="clp"), "filter='clp'.*did you mean 'clip'"),
    (dict(kind="coop", filter="clip"), "filter='clip'"),
  ],
)
def test_methods_that_make_no_sense_are_refused(block, message):
  assert re.search(message, method_problems(**{"kind": "classifier"} | block))


def test_a_method_learns_with_its_options(problem):
  block = dict(name="x", kind="classifier", options=dict(order="real", lr=0.5))
  method = schema.read(methods.Method, block, "m")
  x = problem.validation[0]
  want = methods.Classifier(order="real", lr=0.5)(problem)(x)
  np.testing.assert_array_equal(method.learner()(problem)(x), want)
  probe = schema.read(methods.Method, dict(name="x", kind="linear_probe"), "m")
  np.testing.assert_array_equal(
    probe.learner()(problem)(x), methods.probe(problem)(x)
  )
