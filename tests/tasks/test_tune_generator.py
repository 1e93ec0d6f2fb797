"""The task tune_generator, and generate with what it leaves."""

import pickle

import jax
import numpy as np
import pytest
import simulated
import tiny_glide
import tiny_sd
import tiny_world
from safetensors.numpy import load_file

from synthjax.data.generated import plan, shards
from synthjax.data.pipeline import few_shot
from synthjax.data.pipeline.rows import labels_of
from synthjax.data.real import attributes, real_images
from synthjax.generators import adapters, keys, load_generator
from synthjax.labels import spaces
from synthjax.runtime import artifacts, memory
from synthjax.runtime.errors import UserError
from synthjax.tasks import generate, tune_generator

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


def test_images_take_turns_with_prompts_and_mix_adapters_of_their_class():
  space = spaces.load_space(["cat", "dog"])
  files = [["a0", "a1", "a2"], ["b0", "b1"]]
  groups = [
    plan.AdapterGroup("lora_x3", 5, 2, [["a cat", "one cat"], ["a dog"]], files)
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


def test_equal_prompts_of_a_class_have_images_of_their_own():
  """As shots of one background and pose make; others keep their keys."""
  space = spaces.load_space(["cat"])
  texts = ["a cat, grass", "a cat, snow", "a cat, grass", "a cat, grass"]

  def keys_of(prompts, count):
    groups = [plan.AdapterGroup("lora_bob4", 0, 1, [prompts], [["a"]])]
    blocks = plan.plan_adapted(space, groups, ["a"], images_per_class=count)
    rows = list(plan.rows_of(blocks))
    return np.asarray(jax.random.key_data(keys.image_keys(rows)))

  drawn = keys_of(texts, 8)
  assert len({tuple(key) for key in drawn}) == 8
  np.testing.assert_array_equal(drawn[:4], keys_of(texts[:2], 4))


def write_stable_diffusion(folder):
  return {"name": "stable_diffusion", **tiny_sd.write_file(folder)}


@pytest.mark.parametrize(
  ("count", "together", "devices", "sizes", "filled"),
  [
    (10, 8, 1, [5, 5], 5),  # not 8 and 2, which would fill up
    (10, 8, 4, [8, 2], 8),
    (10, 1, 4, [4, 4, 2], 4),
    (1, 16, 8, [1], 8),
    (3, 1, 1, [1, 1, 1], 1),
  ],
)
def test_trainings_have_one_size_of_a_multiple_of_the_devices(
  count, together, devices, sizes, filled
):
  parts, size = tune_generator._trainings(count, together, devices)
  assert size == filled and [len(part) for part in parts] == sizes
  np.testing.assert_array_equal(np.concatenate(parts), np.arange(count))


@pytest.mark.slow
@pytest.mark.parametrize(
  "write", [tiny_glide.write_glide, write_stable_diffusion]
)
def test_adapters_are_learned_listed_and_drawn_with(
  tmp_path, monkeypatch, write, caplog
):
  seen = []
  monkeypatch.setattr(memory, "limit", lambda: 2**40)
  monkeypatch.setattr(memory, "check", lambda *a, **k: seen.append(a + (k,)))
  config = make_config(tmp_path, together=2)
  config.generator = write(tmp_path)
  config.tasks = ("tune_generator", "generate")
  for task in (tune_generator, generate):
    task.check(config, str(tmp_path))
    with jax.log_compiles():
      task.run(config, str(tmp_path))
  # Of two, six and one image: adapters of three classes, of the set, of six.
  steps = "Finished XLA compilation of jit(step)"
  assert caplog.text.count(steps) == 3
  assert not [*(tmp_path / "tune_generator").glob("*_checkpoints")]
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
  # Of a training: all weights, and of two adapters the values and two moments.
  held, _, together, named = seen[0]
  assert together == 2 and named["field"] == "config.tune_generator.together"
  generator = load_generator(**config.generator.to_dict())
  first = load_file(folder / files[0]).values()
  held -= memory.held_bytes(generator.adaptable.held())
  assert held > 2 * 3 * sum(w.nbytes for w in first)
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
      place = folder / "tune_generator"
      assert (place / saved[0]).exists()
      # What is saved as a file needs no checkpoint any more.
      left = [path.name for path in place.glob("*_checkpoints")]
      assert left == ["lora_class2-s0-1-1_checkpoints"]
    tune_generator.run(config, str(folder))
    assert not [*(folder / "tune_generator").glob("*_checkpoints")]
  _, names = adapters.read_groups(cut / "tune_generator")
  for name in names:
    want, got = (load_file(f / "tune_generator" / name) for f in (whole, cut))
    for key in want:
      np.testing.assert_array_equal(got[key], want[key])


TUNED = """
import os, pickle, sys
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
from synthjax.runtime import atomic, processes
from synthjax.tasks import tune_generator

if "JAX_PROCESS_ID" in os.environ:
  processes.join()
with open(sys.argv[1] + "/config.pickle", "rb") as file:
  config = pickle.load(file)
with atomic.discarding(not processes.is_first()):
  tune_generator.run(config, sys.argv[1])
processes.wait_for_all("end")
"""


@pytest.mark.slow
def test_any_devices_and_processes_learn_the_same(tmp_path):
  """Also where devices share the weights of the generator."""

  def learn(name, count, fsdp=1, **options):
    folder = tmp_path / name
    folder.mkdir()
    config = make_config(
      folder,
      methods=METHODS[:1],
      together=1,
      optimizer=dict(name="sgd", lr=0.1),
    )
    config.generator.fsdp = fsdp
    (folder / "config.pickle").write_bytes(pickle.dumps(config))
    start = simulated.start_joined if count else simulated.start
    started = start(TUNED, folder, **options)
    simulated.finish(*(started if count else [started]))
    _, names = adapters.read_groups(folder / "tune_generator")
    assert len(names) == 3
    return {n: load_file(folder / "tune_generator" / n) for n in names}

  alone = learn("one", 0)
  for other in (
    learn("four", 0, fsdp=2, devices=4),
    learn("two", 2, devices=1),
  ):
    for name, want in alone.items():
      for key, weight in want.items():
        off = np.abs(other[name][key] - weight).max()
        assert off < 1e-3 * np.abs(weight).max(), (name, key)


def test_the_shots_are_those_of_few_shot_learning(tmp_path, monkeypatch):
  """And each class's adapter learns from the images and text of its class."""
  config, seen = make_config(tmp_path), []

  def learn(tools, rows, texts, numbers, size, seed, label):
    seen.append((label, rows, [tools.texts.index(t) for t in texts.flat]))
    raise KeyboardInterrupt

  monkeypatch.setattr(tune_generator, "_learn_adapters", learn)
  with pytest.raises(KeyboardInterrupt):
    tune_generator.run(config, str(tmp_path))
  space = spaces.load_space(config.space)
  labels = labels_of(real_images.open_real(TUNE["pool"], space))
  want = few_shot.draw(labels, num_classes=3, shots=2, seed=0)
  ((label, rows, of),) = seen
  assert label == "lora_class2-s0-0-2"
  np.testing.assert_array_equal(rows, want.reshape(3, 2))
  np.testing.assert_array_equal(of, labels[want])


def test_a_class_is_drawn_with_the_attributes_of_all_shots(
  tmp_path, monkeypatch
):
  """Each shot is learned with its own."""
  methods = (dict(name="bob", of="set", attributes=True),)
  config = make_config(tmp_path, methods=methods, attributes="measured")
  config.tune_generator.shots = (2,)
  learned = []

  def learn(tools, rows, texts, *others):
    learned.append((tools, rows, texts))
    raise KeyboardInterrupt

  monkeypatch.setattr(tune_generator, "_learn_adapters", learn)
  tune_generator.check(config, str(tmp_path))
  with pytest.raises(KeyboardInterrupt):
    tune_generator.run(config, str(tmp_path))
  ((tools, rows, texts),) = learned
  assert rows.shape == texts.shape == (1, 6)
  shown = []
  for row, text in zip(rows.flat, texts.flat, strict=True):
    example = tools.pool[row]
    shown.append(attributes.measure(example))
    prompt = tools.texts[example["label"]]
    assert text == f"{prompt}, {shown[-1].background}, {shown[-1].pose}"
  prompts = tune_generator._marginal_prompts(tools.texts, shown, 0)
  for text, of_class in zip(tools.texts, prompts, strict=True):
    assert sorted(of_class) == sorted(
      f"{text}, {each.background}, {each.pose}" for each in shown
    )
  many = [attributes.Attributes(f"{i}", "") for i in range(600)]
  first, second = tune_generator._marginal_prompts(["a", "b"], many, 0)
  assert len({*first}) == len({*second}) == tune_generator.MOST_PROMPTS
  assert [text[1:] for text in first] != [text[1:] for text in second]


def test_attributes_that_are_not_known_are_named(tmp_path):
  methods = (dict(name="bob", of="set", attributes=True),)
  config = make_config(tmp_path, methods=methods)
  with pytest.raises(UserError, match="'bob' has attributes: give the file"):
    tune_generator.check(config, str(tmp_path))
  path = tmp_path / "a.csv"
  path.write_text("image,background,pose\nx.png,a sofa,\n")
  config.tune_generator.attributes = str(path)
  with pytest.raises(UserError, match="a.csv says nothing of the image") as e:
    tune_generator.check(config, str(tmp_path))
  assert str(e.value).count("says nothing") == 6


def test_a_class_with_too_few_images_is_named(tmp_path):
  """CoOp's sampler takes those that there are."""
  config = make_config(tmp_path, sampler="coop", shots=(1000,))
  with pytest.raises(UserError, match="1000 real images .* bird species has"):
    tune_generator.run(config, str(tmp_path))


def test_a_generator_without_updates_is_refused():
  generator = type("G", (), {"adaptable": None})()
  with pytest.raises(UserError, match="'flux2' has no low-rank updates"):
    adapters.check_adaptable(generator, "flux2")


@pytest.mark.parametrize(
  ("changes", "problem"),
  [
    (dict(methods=(dict(name="a-b", of="class"),)), "letters, digits and _"),
    (dict(methods=(dict(name="a", of="pair"),)), "one of class, set, image"),
    (dict(fsdp=2), "fsdp=2, but the weights lie as config.generator.fsdp=1"),
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
