"""The task tune_generator, and generate with what it leaves."""

import jax
import numpy as np
import optax
import pytest
import tiny_glide
import tiny_sd
import tiny_world
from safetensors.numpy import load_file

from synthjax.data.generated import plan, shards
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.rows import labels_of
from synthjax.data.real import real_images
from synthjax.generators import adapters
from synthjax.labels import spaces
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import generate, tune_generator
from synthjax.training import adapting

METHODS = tuple(dict(name=of, of=of) for of in ("class", "set", "image"))
TUNE = dict(
  methods=METHODS,
  pool=dict(split="real_pool"),
  shots=(2,),
  seeds=(0,),
  rank=2,
  alpha=1.0,
  epochs=2,
  batch_size=2,
  together=3,
  optimizer=dict(name="adamw", lr=1e-2, weight_decay=1e-2),
  log_every=1,
  loggers=(),
)


def make_config(workdir, **changes):
  tiny_world.write_prompts(workdir)
  return tiny_world.make_config(
    workdir,
    generator=tiny_glide.write_glide(workdir),
    tune_generator=TUNE | changes,
    generate=dict(
      images_per_class=2, seeds=(0,), shard_size=100, adapters=dict()
    ),
  )


def line(k=3, m=4, **changes):
  """Returns a training of k slopes, each of m points, and its sets."""
  rng = np.random.default_rng(0)
  x = rng.normal(0, 1, (k, m)).astype(np.float32)
  sets = {"x": x, "y": x * np.arange(1, k + 1, dtype=np.float32)[:, None]}

  def loss(frozen, updates, rows, rng):
    noise = 0.01 * jax.random.normal(rng, rows["x"].shape)
    error = (frozen + updates) * rows["x"] + noise - rows["y"]
    return (error**2).mean(), {}

  options = dict(numbers=range(k), seed=0, batch_size=2) | changes
  init = lambda rng: 0.1 * jax.random.normal(rng)
  objective = adapting.adapting(loss, init, optax.sgd(0.1), **options)
  return objective, {"frozen": np.float32(0.5), "sets": sets}


def learn(objective, batch, steps):
  state = objective.init(jax.random.key(9), batch)
  step = jax.jit(objective.step)
  for _ in range(steps):
    state, _ = step(state, batch, jax.random.key(9))
  return np.asarray(state.params)


def test_sets_learn_their_own_and_the_same_beside_others():
  objective, batch = line()
  together = learn(objective, batch, 100)
  np.testing.assert_allclose(together + 0.5, [1, 2, 3], atol=0.05)
  alone, _ = line(numbers=[1])
  one = batch | {"sets": jax.tree.map(lambda x: x[1:2], batch["sets"])}
  np.testing.assert_allclose(learn(alone, one, 100), together[1:2], rtol=1e-5)


def test_images_take_turns_with_prompts_and_mix_adapters_of_their_class():
  space = spaces.load_space(["cat", "dog"])
  files = [["a0", "a1", "a2"], ["b0", "b1"]]
  groups = [
    plan.Group("lora_x3", 5, 2, [["a cat", "one cat"], ["a dog"]], files)
  ]
  names = sum(files, [])
  blocks = plan.plan_adapted(space, groups, names, images_per_class=20)
  rows = plan.rows_of(blocks)
  assert len(rows) == 40
  rows = [rows[i] for i in range(40)]
  assert rows[0].id == "lora_x3-0-0-s5-0" and rows[39].prompt == "a dog"
  assert len({row.id for row in rows}) == 40
  assert [row.prompt for row in rows[:20]].count("one cat") == 10
  pairs = {tuple(sorted(row.adapters)) for row in rows[:20]}
  assert pairs == {(0, 1), (0, 2), (1, 2)}
  assert {tuple(sorted(row.adapters)) for row in rows[20:]} == {(3, 4)}
  assert plan.is_of_shots("lora_x3") and not plan.is_of_shots("enhanced")


def write_stable_diffusion(folder):
  return {"name": "stable_diffusion", **tiny_sd.write_file(folder)}


@pytest.mark.slow
@pytest.mark.parametrize(
  "write", [tiny_glide.write_glide, write_stable_diffusion]
)
def test_adapters_are_learned_listed_and_drawn_with(tmp_path, write):
  config = make_config(tmp_path)
  config.generator = write(tmp_path)
  for task in (tune_generator, generate):
    config.tasks = ("tune_generator", "generate")
    task.check(config, str(tmp_path))
    task.run(config, str(tmp_path))
  folder = tmp_path / "tune_generator"
  groups, files = adapters.read_groups(folder)
  counts = {g.strategy: len({*sum(g.files, [])}) for g in groups}
  assert counts == {"lora_class2": 3, "lora_set2": 1, "lora_image2": 6}
  assert {g.strategy: len(g.files[0]) for g in groups} == {
    "lora_class2": 1,
    "lora_set2": 1,
    "lora_image2": 2,
  }
  assert {*files} | {adapters.GROUPS} <= {*artifacts.load(folder)["files"]}
  for name in files:
    assert all(np.abs(w).max() > 0 for w in load_file(folder / name).values())
  source = shards.open_shards(tmp_path / "generate")
  ids = [source[i]["id"] for i in range(len(source))]
  strategies, _ = plan.origin(ids)
  assert {s: (strategies == s).sum() for s in {*strategies}} == {
    "basic": 6,
    **dict.fromkeys(counts, 6),
  }


@pytest.mark.slow
def test_a_run_that_was_killed_learns_the_same(tmp_path, monkeypatch):
  """It keeps the adapter that it has saved, and the checkpoint of the next."""
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  saved, save = [], adapters.save

  def stop(path, *args):
    saved.append(path.name)
    if len(saved) == 2:
      raise KeyboardInterrupt
    save(path, *args)

  for folder in (whole, cut):
    folder.mkdir()
    config = make_config(folder, methods=METHODS[:1], together=1)
    if folder == cut:
      monkeypatch.setattr(adapters, "save", stop)
      with pytest.raises(KeyboardInterrupt):
        tune_generator.run(config, str(folder))
      monkeypatch.undo()
      assert (folder / "tune_generator" / saved[0]).exists()
    tune_generator.run(config, str(folder))
  _, names = adapters.read_groups(cut / "tune_generator")
  for name in names:
    want, got = (load_file(f / "tune_generator" / name) for f in (whole, cut))
    for key in want:
      np.testing.assert_array_equal(got[key], want[key])


def test_the_shots_are_those_of_few_shot_learning(tmp_path, monkeypatch):
  """And each class's adapter learns from the images and text of its class."""
  config, seen = make_config(tmp_path), []

  def train(tools, rows, labels, numbers, seed, label):
    seen.append((label, rows, labels))
    raise KeyboardInterrupt

  monkeypatch.setattr(tune_generator, "_train", train)
  with pytest.raises(KeyboardInterrupt):
    tune_generator.run(config, str(tmp_path))
  space = spaces.load_space(config.space)
  labels = labels_of(real_images.open_real(TUNE["pool"], space))
  want = few_shot.draw(labels, num_classes=3, shots=2, seed=0)
  ((label, rows, of),) = seen
  assert label == "lora_class2-s0-0-2"
  np.testing.assert_array_equal(rows, want.reshape(3, 2))
  np.testing.assert_array_equal(of, labels[want].reshape(3, 2))


def test_a_generator_without_updates_is_refused():
  generator = type("G", (), {"adaptable": None})()
  with pytest.raises(UserError, match="'flux2' has no low-rank updates"):
    adapters.check_adaptable(generator, "flux2")


@pytest.mark.parametrize(
  ("changes", "problem"),
  [
    (dict(methods=(dict(name="a-b", of="class"),)), "letters, digits and _"),
    (dict(methods=(dict(name="a", of="pair"),)), "one of class, set, image"),
    (
      dict(optimizer=dict(TUNE["optimizer"], warmup=100)),
      "rises for 100 steps, but there are 2",
    ),
  ],
)
def test_bad_fields_are_refused(tmp_path, changes, problem):
  config = make_config(tmp_path, **changes)
  with pytest.raises(UserError, match=problem):
    tune_generator.check(config, str(tmp_path))
