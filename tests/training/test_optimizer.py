"""Optimizers, and the learning-rate curves of the recipes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from synthjax.config import schema
from synthjax.models.classifiers import make_classifier
from synthjax.runtime.errors import UserError
from synthjax.training import optimizer, recipes
from synthjax.training.optimizer import constant, cosine, trapezoid

STEPS_PER_EPOCH = 7  # so that no epoch is a round number of anything


def curve(name):
  """Returns the learning rate of every step of a recipe, [epochs, steps]."""
  fields, epochs = recipes.RECIPES[name], recipes.RECIPES[name]["epochs"]
  others = {"name", "weight_decay", "decay", "nesterov"}
  rate = optimizer.make_rate(
    num_steps=STEPS_PER_EPOCH * epochs,
    epochs=epochs,
    **{k: v for k, v in fields["optimizer"].items() if k not in others},
  )
  steps = jnp.arange(STEPS_PER_EPOCH * epochs)
  return np.asarray(jax.vmap(rate)(steps)).reshape(epochs, STEPS_PER_EPOCH)


def half_cosine(share):
  return (1 + np.cos(np.pi * share)) / 2


def test_the_rates_have_their_shapes():
  fall = cosine(2.0, 100)
  np.testing.assert_allclose(fall(50), 1.0, atol=1e-6)
  np.testing.assert_allclose(fall(100), 0.0, atol=1e-6)
  rate = trapezoid(2.0, 100, warmup=10)
  values = [float(rate(i)) for i in (0, 5, 10, 70, 85, 100)]
  np.testing.assert_allclose(values, [0, 1, 2, 2, 1, 0], atol=1e-6)
  longer = trapezoid(2.0, 200, warmup=10)
  assert float(longer(69)) == float(rate(69))
  warm = cosine(2.0, 100, warmup=10)
  np.testing.assert_allclose([warm(5), warm(10)], [1.0, 2.0], atol=1e-6)
  assert float(constant(2.0, 9, warmup=4)(2)) == 1.0


def test_sgd_decays_as_pytorch_does():
  """Two steps by hand: v = 0.9 v + g + wd w, w -= lr v."""
  tx = optimizer.make_optimizer(
    "sgd", lr=0.1, num_steps=9, rate="constant", weight_decay=0.5
  )
  w, v = 1.0, 0.0
  params = jnp.array(1.0)
  state = tx.init(params)
  for grad in (0.3, -0.2):
    updates, state = tx.update(jnp.array(grad), state, params)
    params = optax.apply_updates(params, updates)
    v = 0.9 * v + grad + 0.5 * w
    w -= 0.1 * v
    np.testing.assert_allclose(params, w, rtol=1e-6)


@pytest.mark.parametrize(
  ("change", "words"), [(dict(name="adm"), "adamw"), (dict(rate="c"), "cosine")]
)
def test_unknown_choices_name_the_known_ones(change, words):
  arguments = dict(name="adamw", lr=0.1, num_steps=3) | change
  with pytest.raises(ValueError, match=words):
    optimizer.make_optimizer(arguments.pop("name"), **arguments)


@pytest.mark.parametrize(
  ("name", "lr"), [("moco_v2", 0.03), ("moco_v2_from_in1k", 0.003)]
)
def test_the_rate_of_moco_is_a_cosine_of_the_epoch(name, lr):
  rates, epochs = curve(name), np.arange(200)
  want = lr * half_cosine(epochs / 200)
  np.testing.assert_allclose(
    rates, np.tile(want[:, None], 7), rtol=1e-5, atol=1e-6 * lr
  )
  assert recipes.RECIPES[name]["batch_size"] == 256


def test_deit_finetunes_by_the_same_curve_with_its_own_rate():
  """DeiT's issue 45: SGD, lr 0.01, the rest as on ImageNet."""
  rates = curve("deit_finetune")
  np.testing.assert_allclose(rates[0], 1e-6, rtol=1e-5)
  # After five epochs of warm-up, shown one late, it is on timm's cosine.
  fall = lambda e: 1e-5 + (0.01 - 1e-5) * (1 + math.cos(math.pi * e / 1000)) / 2
  for epoch in (7, 500, 999):
    np.testing.assert_allclose(rates[epoch], fall(epoch - 1), rtol=1e-5)


def test_the_rate_of_deit_is_that_of_timm_one_epoch_late():
  """Five epochs from 1e-6 to 1e-3, then a cosine of 300 epochs to 1e-5."""
  epochs = np.arange(300)
  warm = 1e-6 + (1e-3 - 1e-6) * epochs / 5
  fall = 1e-5 + (1e-3 - 1e-5) * half_cosine(epochs / 300)
  timm = np.where(epochs < 5, warm, fall)
  # The authors set an epoch's rate when it is over.
  want = np.concatenate([timm[:1], timm[:-1]])
  rates = curve("deit")
  np.testing.assert_allclose(rates, np.tile(want[:, None], 7), rtol=1e-4)
  np.testing.assert_allclose(rates[[0, 1, 2], 0], [1e-6, 1e-6, 2.008e-4])
  assert rates[-1, 0] > 1e-5


@pytest.mark.parametrize(
  ("name", "lr"), [("agnostic", 0.2), ("agnostic_from_in1k", 0.001)]
)
def test_the_rate_for_many_classes_falls_tenfold_every_30_epochs(name, lr):
  want = np.repeat(lr * np.array([1, 0.1, 0.01]), 30)
  np.testing.assert_allclose(curve(name), np.tile(want[:, None], 7), rtol=1e-5)
  assert recipes.RECIPES[name]["optimizer"]["weight_decay"] == 1e-4


@pytest.mark.parametrize(
  ("name", "lr"), [("aware", 1e-4), ("aware_from_in1k", 1e-5)]
)
def test_the_rate_for_the_downstream_classes_is_a_cosine_of_the_step(name, lr):
  want = lr * half_cosine(np.arange(90 * 7) / (90 * 7))
  np.testing.assert_allclose(curve(name).ravel(), want, atol=1e-6 * lr)


def test_the_rate_of_transfer_falls_fivefold_three_times():
  rates = curve("transfer_cifar100")
  want = np.repeat(0.003 * 0.2 ** np.arange(4), [60, 60, 40, 40])
  np.testing.assert_allclose(rates, np.tile(want[:, None], 7), rtol=1e-5)


def test_epochs_of_no_whole_number_of_steps_change_at_the_nearest():
  rate = optimizer.make_rate(
    lr=1.0, num_steps=10, epochs=4, rate="cosine", per_epoch=True
  )
  want = half_cosine(np.array([0, 0, 1, 1, 1, 2, 2, 2, 3, 3]) / 4)
  got = [rate(step) for step in range(10)]  # epochs start at 2.5, 5 and 7.5
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_every_recipe_builds_its_optimizer():
  for name, fields in recipes.RECIPES.items():
    make = schema.read(optimizer.OPTIMIZER, fields["optimizer"], name)
    tx = make(num_steps=1000, epochs=fields["epochs"])
    assert tx.init({"w": jnp.zeros((2, 2))}), name


# --- what the weight decay acts on ------------------------------------------


def test_the_decay_spares_biases_norms_and_the_embeddings_of_a_vit():
  model = make_classifier("vit_tiny", num_classes=3, depth=1)
  images = np.zeros((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
  mask = optimizer.matrices(shapes)
  spared = {
    "/".join(k.key for k in path)
    for path, decays in jax.tree_util.tree_leaves_with_path(mask)
    if not decays
  }
  assert {"cls_token", "pos_embed", "norm/scale", "head/bias"} <= spared
  assert all(
    name.split("/")[-1] in ("cls_token", "pos_embed", "scale", "bias")
    for name in spared
  )
  decayed = len(jax.tree.leaves(mask)) - len(spared)
  assert decayed == 6  # patches, head, and four kernels of a block


def test_adamw_decays_matrices_alone():
  """Without a gradient, w falls by lr wd w and the bias stays."""
  params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
  tx = optimizer.make_optimizer(
    "adamw",
    lr=0.1,
    num_steps=9,
    rate="constant",
    weight_decay=0.5,
    decay="matrices",
  )
  grads = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 3, rtol=1e-6)
  np.testing.assert_array_equal(updates["bias"], 0)


def test_nesterov_looks_ahead():
  """v = m v + g; the step is lr (g + m v), as PyTorch's."""
  tx = optimizer.make_optimizer(
    "sgd", lr=0.1, num_steps=9, rate="constant", momentum=0.8, nesterov=True
  )
  w, v = jnp.array(1.0), 0.0
  state = tx.init(w)
  for grad in (0.3, -0.2):
    updates, state = tx.update(jnp.array(grad), state, w)
    v = 0.8 * v + grad
    np.testing.assert_allclose(updates, -0.1 * (grad + 0.8 * v), rtol=1e-5)


def test_lars_scales_kernels_to_their_norm_and_leaves_biases():
  """You et al.: the step is lr 0.001 |w| / |g + wd w| (g + wd w)."""
  params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
  grads = jax.tree.map(lambda w: jnp.full_like(w, 5.0), params)
  tx = optimizer.make_optimizer(
    "lars", lr=0.1, num_steps=9, rate="constant", weight_decay=0.5,
    decay="matrices",
  )  # fmt: skip
  updates, _ = tx.update(grads, tx.init(params), params)
  # All entries are equal, so |w| / |g| is their ratio.
  np.testing.assert_allclose(updates["kernel"], -0.1 * 0.001 * 2, rtol=1e-5)
  np.testing.assert_allclose(updates["bias"], -0.1 * 5, rtol=1e-5)


def test_clipping_comes_before_the_decay():
  tx = optimizer.make_optimizer(
    "sgd", lr=1.0, num_steps=9, rate="constant", weight_decay=0.5, clip_norm=1.0
  )
  w = jnp.array([2.0])
  updates, _ = tx.update(jnp.array([10.0]), tx.init(w), w)
  np.testing.assert_allclose(optax.tree.norm(updates), 1 + 0.5 * 2, rtol=1e-5)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(decay="matrix"), "did you mean 'matrices'"),
    (dict(nestrov=True), "did you mean 'nesterov'"),
    (dict(name="adamw", nesterov=True), "nesterov"),
    (dict(min_lr=0.1), "min_lr"),  # of another schedule
    (dict(weight_decay=-1.0), "0 or more"),
    (dict(drops=(2,), per_epoch=True), "takes no per_epoch"),
    (dict(warmup=3, warmup_epochs=2), "one of them"),
    (dict(drops=(3, 10)), r"after epoch \[10\], but there are 9"),
    (dict(lr=(0.1, 0.2)), "lr=.*needed a number"),
    (dict(lr=None), "lacks lr"),
    (dict(fall_share=2), "fall_share=2: needed a number from 0 to 1"),
  ],
)
def test_wrong_fields_say_what_is_allowed(fields, words):
  fields = dict(name="sgd", lr=0.1) | fields
  with pytest.raises(UserError, match=words):
    optimizer.check_optimizer(fields, epochs=9)


@pytest.mark.parametrize(
  "field", [dict(drops=(2,)), dict(warmup_epochs=1), dict(per_epoch=True)]
)
def test_a_training_in_steps_has_no_fields_of_epochs(field):
  fields = dict(name="sgd", lr=0.1) | field
  with pytest.raises(UserError, match="counts in steps"):
    optimizer.check_optimizer(fields, num_steps=100)


def test_several_rates_are_read_where_they_are_searched():
  for lr in (0.1, (0.1, 0.2), [0.1, 0.2]):
    block = {"name": "sgd", "lr": lr}
    make = schema.read(optimizer.SEARCHED_OPTIMIZER, block, "optimizer")
    assert make.keywords["lr"] == (lr if lr == 0.1 else (0.1, 0.2))
  for lr in ((), (0.1, -1), "x"):
    block = {"name": "sgd", "lr": lr}
    assert schema.problems(optimizer.SEARCHED_OPTIMIZER, block, "optimizer")


def test_a_block_may_hold_the_options_of_every_optimizer_and_schedule():
  fields = schema.fields_of(optimizer.OPTIMIZER, {})
  assert len(fields) == len({*fields})
  assert {"name", "lr", "rate", "drops", "nesterov", "min_lr"} <= {*fields}
  assert not {"num_steps", "epochs", "mask"} & {*fields}
