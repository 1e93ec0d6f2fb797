"""Drawing images: identity, shards, resuming, and bad input."""

import hashlib
import pathlib
import re

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_glide
import tiny_sd
import tiny_world

from synthjax.data.generated import plan, shards
from synthjax.data.pipeline import few_shot
from synthjax.generators import filling, load_generator
from synthjax.generators.keys import image_keys
from synthjax.labels import spaces
from synthjax.prompts import strategies as texts
from synthjax.prompts.strategies import Prompt
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import generate


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return tiny_glide.write_glide(tmp_path_factory.mktemp("glide"))


def make_config(folder, weights, **changes):
  block = {"images_per_class": 3, "seeds": (0, 1), "shard_size": 4} | changes
  return tiny_world.make_config(folder, generator=weights, generate=block)


def shard_files(folder):
  """Lists whole shards, and not what a killed run began under another name."""
  return sorted((pathlib.Path(folder) / "generate").glob(f"{filling.NAME}-*"))


def hashes(folder):
  return {
    file.name: hashlib.sha256(file.read_bytes()).hexdigest()
    for file in shard_files(folder)
  }


def open_prompts(folder, rows):
  """Writes prompts as the task does, and opens them."""
  artifacts.begin(folder, {})
  texts.write(folder, rows)
  artifacts.finish(folder, {}, {texts.FILE: len(rows)})
  return texts.open_prompts(folder / texts.FILE)


def test_images_are_spread_evenly_over_prompts_and_have_different_ids(tmp_path):
  """Five images over two prompts are three and two; the order is stated."""
  prompts = open_prompts(
    tmp_path,
    [
      Prompt("basic-1-0", 1, "dog", "a dog", "basic"),
      Prompt("basic-0-0", 0, "cat", "a cat", "basic"),
      Prompt("basic-0-1", 0, "cat", "the cat", "basic"),
    ],
  )
  blocks = plan.plan(prompts, seeds=(7, 8), images_per_class=5)
  rows = list(plan.rows_of(blocks))
  assert [row.id for row in rows[:10]] == [
    "basic-0-0-s7-0",
    "basic-0-0-s7-1",
    "basic-0-0-s7-2",
    "basic-0-1-s7-0",
    "basic-0-1-s7-1",
    *(f"basic-1-0-s7-{i}" for i in range(5)),
  ]
  assert len(rows) == 20 and len({row.id for row in rows}) == 20
  assert {row.seed for row in rows[10:]} == {8}


def test_an_id_reads_back():
  for text in ("basic-0-1-s3-4", "rg16-12-0-s0-77", "my-own-1-2-s3-4"):
    image_id = plan.ImageId.parse(text)
    assert str(image_id) == text
  assert image_id == ("my-own", 1, 2, 3, 4)
  for text in ("photo.png", "basic-0-1", "basic-0-1-s3-", "-0-1-s3-4"):
    with pytest.raises(ValueError, match="no id of a drawn image"):
      plan.ImageId.parse(text)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_a_row_is_read_by_its_index(count):
  """Of 7 images, each of `count` prompts has 7 // count, or one more."""
  block = plan.Block(7, count, lambda which, number: (which, number))
  single = plan.Block(1, 1, lambda which, number: "single")
  rows = list(plan.rows_of([block, single, block]))
  want = [
    (which, number)
    for which in range(count)
    for number in range(len(range(which, 7, count)))
  ]
  assert rows == [*want, "single", *want]


def test_the_key_depends_on_seed_class_prompt_and_number_alone():
  rows = [
    plan.Row("a", 0, "cat", "a cat", 0, 0),
    plan.Row("b", 3, "cat", "a cat", 0, 0),  # id and label do not count
    plan.Row("c", 0, "dog", "a cat", 0, 0),
    plan.Row("d", 0, "cat", "the cat", 0, 0),
    plan.Row("e", 0, "cat", "a cat", 1, 0),
    plan.Row("f", 0, "cat", "a cat", 0, 1),
    plan.Row("g", 0, "cat", "a cat", 0, 0, repeat=1),  # the prompt comes twice
  ]
  data = np.asarray(jax.random.key_data(image_keys(rows)))
  np.testing.assert_array_equal(data[0], data[1])
  assert len({tuple(key) for key in data}) == 6


def test_two_classes_of_one_name_have_images_of_their_own():
  """As ImageNet's missiles; the images of other classes stay as they were."""
  twins = [dict(name="missile", key=k) for k in ("n1", "n2")]
  owl = dict(name="owl", key="n3")
  space = spaces.parse_space([*twins, owl], where="here")
  turned = spaces.parse_space([owl, *twins[::-1]], where="here")
  keys = {}
  for each in (space, turned):
    made = texts.make(
      each, strategies=("basic",), per_class=1, grammar="photo", seed=0
    )
    drawn = [plan.Row(p.id, p.label, p.class_name, p.text, 0, 0) for p in made]
    blocks = plan.plan_guided(
      each, [0, 1, 2], {1: 2}, seeds=(0,), images_per_class=1
    )
    guided = list(plan.rows_of(blocks))
    assert [row.prompt for row in guided] == [p.text for p in made]
    guided = [row._replace(reference=0) for row in guided]
    data = jax.random.key_data(image_keys([*drawn, *guided]))
    data = np.asarray(data).reshape(2, 3, 2)
    assert len(np.unique(data.reshape(-1, 2), axis=0)) == 6
    for i, c in enumerate(each.classes):
      keys.setdefault(c.key, []).append(data[:, i].tolist())
  # Nor do they depend on the order of the classes.
  assert all(first == second for first, second in keys.values())
  row = plan.Row("", 2, "owl", "a photo of a owl", 0, 0)
  alone = np.asarray(jax.random.key_data(image_keys([row])))
  assert keys["n3"][0][0] == alone[0].tolist()


def test_an_image_is_the_same_in_every_batch(weights):
  """Batches of 3 and 4 draw the same images, up to rounding of a float."""
  rows = [plan.Row(str(i), 0, "cat", f"cat {i % 3}", 0, i) for i in range(8)]
  drawn = []
  for batch_size in (3, 4):
    options = {k: v for k, v in weights.items() if k != "name"}
    generator = load_generator("glide", **options | {"batch_size": batch_size})
    images = generator.draw([r.prompt for r in rows], image_keys(rows))
    drawn.append(images.astype(int))
  gap = np.abs(drawn[0] - drawn[1])
  assert gap.max() <= 1 and (gap > 0).mean() < 0.01
  between = np.abs(drawn[0][0] - drawn[0][3])  # same prompt, another number
  assert between.mean() > 5


def test_shards_hold_every_image_and_tfds_opens_them(tmp_path, weights):
  tiny_world.write_prompts(tmp_path)
  config = make_config(tmp_path, weights)
  generate.check(config, str(tmp_path))
  generate.run(config, str(tmp_path))
  folder = tmp_path / "generate"
  builder = tfds.builder_from_directory(str(folder))
  assert builder.info.splits["train"].num_examples == 18
  assert builder.info.features["label"].names[0] == "bird species"
  source = builder.as_data_source(split="train")
  assert source[0]["image"].shape == (16, 16, 3)
  ours = shards.open_shards(folder)
  for i in (0, 7, 17):
    np.testing.assert_array_equal(source[i]["image"], ours[i]["image"])
    assert source[i]["id"].decode() == ours[i]["id"]
    assert source[i]["label"] == ours[i]["label"]
  assert [ours[i]["label"] for i in range(9)] == [0] * 3 + [1] * 3 + [2] * 3

  before = hashes(tmp_path)
  generate.run(config, str(tmp_path))  # complete: nothing is drawn again
  assert hashes(tmp_path) == before


def test_a_lost_shard_is_drawn_again_alike_and_a_damaged_one_is_named(
  tmp_path, weights
):
  tiny_world.write_prompts(tmp_path)
  config = make_config(tmp_path, weights)
  generate.run(config, str(tmp_path))
  before = hashes(tmp_path)
  folder, name = tmp_path / "generate", sorted(before)[1]
  (folder / "manifest.json").unlink()
  (folder / name).unlink()
  generate.run(config, str(tmp_path))
  assert hashes(tmp_path) == before

  (folder / "manifest.json").unlink()
  data = (folder / name).read_bytes()
  (folder / name).write_bytes(data[: len(data) // 2])
  with pytest.raises(UserError, match=name):
    generate.run(config, str(tmp_path))


def test_shards_may_be_smaller_and_of_another_format(tmp_path, weights):
  tiny_world.write_prompts(tmp_path)
  encoding = dict(image_format="jpeg", quality=80, image_size=8)
  config = make_config(tmp_path, weights, seeds=(0,), **encoding)
  generate.check(config, str(tmp_path))
  generate.run(config, str(tmp_path))
  folder = tmp_path / "generate"
  builder = tfds.builder_from_directory(str(folder))
  feature = builder.info.features["image"]
  assert feature.encoding_format == "jpeg" and feature.shape == (8, 8, 3)
  source = builder.as_data_source(split="train")
  assert source[3]["image"].shape == (8, 8, 3)
  stored = shards.open_shards(folder, decode=False)
  assert all(row["encoded"][:2] == b"\xff\xd8" for row in stored)

  before = hashes(tmp_path)
  (folder / "manifest.json").unlink()
  (folder / sorted(before)[1]).unlink()
  generate.run(config, str(tmp_path))
  assert hashes(tmp_path) == before


def test_images_are_not_made_larger_than_they_are_drawn(tmp_path, weights):
  tiny_world.write_prompts(tmp_path)
  config = make_config(tmp_path, weights, image_size=17)
  with pytest.raises(UserError, match="image_size=17, .*draws 16 px"):
    generate.run(config, str(tmp_path))
  assert not (tmp_path / "generate").exists()


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (dict(images_per_clas=3), "images_per_class"),
    (dict(shard_size=0), "1 or more"),
    (dict(preview=-3, seeds=(1, 1)), r"(?s)preview=-3: .*seeds=\(1, 1\): "),
    (dict(image_format="gif"), "'gif'"),
    (dict(quality=90), "quality=90 is of jpeg and webp"),
    (
      dict(image_format="jpeg", quality=0),
      "quality=0: needed a whole number, 1 to 100",
    ),
  ],
)
def test_bad_fields_stop_before_anything_is_drawn(
  tmp_path, weights, change, words
):
  config = make_config(tmp_path, weights, **change)
  with pytest.raises(UserError, match=words):
    generate.check(config, str(tmp_path))


@pytest.mark.parametrize(
  ("path", "value", "words"),
  [
    (("name",), "glyde", "did you mean 'glide'"),
    (("base", "weights"), None, "it is not set.*weights fetch glide"),
    (("base", "weights"), "nowhere.safetensors", "no file nowhere"),
    (("base", "sampler"), "dddim", "ancestral.*ddim"),
    (("batch_sise",), 4, "batch_size"),
    (("batch_size",), 0, "batch_size=0: needed a whole number"),
    (("dtype",), "float31", "one of float32, bfloat16"),
    (("base", "respacing"), "ten", "respacing='ten': needed a number"),
    (("upsampler", "start"), "noice", "needed one of noise, low_res"),
    (("base", "start"), "low_res", "start='low_res': needed one of noise$"),
  ],
)
def test_a_bad_generator_is_refused(tmp_path, weights, path, value, words):
  config = make_config(tmp_path, weights)
  block = config.generator
  for key in path[:-1]:
    block = block[key]
  with block.unlocked():
    block[path[-1]] = value
  with pytest.raises(UserError, match=words):
    generate.check(config, str(tmp_path))


def test_swapped_or_damaged_weights_are_refused(tmp_path, weights):
  config = make_config(tmp_path, weights)
  block = config.generator.copy_and_resolve_references()
  block.base.weights, block.upsampler.weights = (
    block.upsampler.weights,
    block.base.weights,
  )
  with pytest.raises(UserError, match="needs a GLIDE base"):
    load_generator(**block.to_dict())
  cut = tmp_path / "cut.safetensors"
  whole = pathlib.Path(weights["base"]["weights"]).read_bytes()
  cut.write_bytes(whole[: len(whole) // 2])
  block = config.generator.copy_and_resolve_references()
  block.base.weights = str(cut)
  with pytest.raises(UserError, match="cut short"):
    load_generator(**block.to_dict())


@pytest.mark.slow
def test_an_upsampler_may_start_from_the_small_image(weights):
  """The later its walk starts, the nearer its end is to the small image."""
  options = {k: v for k, v in weights.items() if k != "name"}
  rows = [plan.Row("a", 0, "cat", "cat", 0, i) for i in range(4)]
  spread = {}
  for respacing in ("3", "3<10"):
    upsampler = weights["upsampler"] | {
      "respacing": respacing,
      "start": "low_res",
    }
    generator = load_generator("glide", **options | {"upsampler": upsampler})
    images = generator.draw(["cat"] * 4, image_keys(rows)).astype(int)
    # Neighbours within the block of a small pixel differ by noise alone.
    spread[respacing] = np.abs(images[:, ::2] - images[:, 1::2]).mean()
  assert spread["3<10"] < 0.7 * spread["3"]


@pytest.mark.slow
def test_real_guidance_stays_near_its_reference(weights):
  """One step from a reference changes it less than many steps do."""
  options = {k: v for k, v in weights.items() if k != "name"}
  rows = [plan.Row("a", 0, "cat", "cat", 0, i) for i in range(4)]
  reference = np.full((4, 8, 8, 3), 200, np.uint8)
  generator, keys = (
    load_generator("glide", **options),
    image_keys(rows),
  )
  assert generator.reference_size == 8 and generator.num_steps == 3
  images = {
    steps: generator.draw(["cat"] * 4, keys, reference, steps)
    for steps in (1, 3)
  }
  assert (images[1] != images[3]).any()
  with pytest.raises(ValueError, match="references"):
    generator.draw(["cat"] * 4, keys, reference)


def test_guided_images_are_spread_evenly_over_the_shots():
  space = spaces.parse_space(tiny_world.SPACE, where="here")
  labels = [0, 1, 2] * 5
  blocks = plan.plan_guided(
    space, labels, {1: 3, 2: 2}, seeds=(4, 5), images_per_class=5
  )
  rows = list(plan.rows_of(blocks))
  assert len(rows) == 2 * 2 * 3 * 5 == len({row.id for row in rows})
  first = rows[:5]
  assert [row.id for row in first] == [f"rg1-0-0-s4-{i}" for i in range(5)]
  assert {row.prompt for row in first} == {"a drawing of bird species"}
  two = [row for row in rows if row.id.startswith("rg2-1-") and row.seed == 4]
  assert [row.id.split("-")[2] for row in two] == list("00011")
  assert {row.start_steps for row in two} == {2}
  # The very shots that few-shot tuning with this seed learns from.
  shots = few_shot.draw(labels, num_classes=3, shots=2, seed=4)[2:4]
  assert {row.reference for row in two} == set(shots.tolist())
  keys = np.asarray(jax.random.key_data(image_keys(rows)))
  assert len({tuple(key) for key in keys}) == len(rows)


def test_guided_images_come_from_the_shots_of_the_same_sampler():
  space = spaces.parse_space(tiny_world.SPACE, where="here")
  labels = [2, 0, 1] * 9
  blocks = plan.plan_guided(
    space, labels, {2: 1}, seeds=(1,), images_per_class=2, sampler="coop"
  )
  rows = list(plan.rows_of(blocks))
  coop, _ = few_shot.draw_coop(labels, num_classes=3, shots=2, seed=1)
  assert sorted(row.reference for row in rows) == sorted(coop.tolist())
  assert all(labels[row.reference] == row.label for row in rows)
  nested = few_shot.draw(labels, num_classes=3, shots=2, seed=1)
  assert sorted(coop.tolist()) != sorted(nested.tolist())


def test_the_task_draws_from_real_shots(tmp_path, weights):
  tiny_world.write_prompts(tmp_path)
  guided = {
    "pool": {"split": "real_pool"},
    "shots": (1, 2),
    "start_steps": (3, 1),
    "images_per_class": 2,  # of those that have no guidance 3
  }
  config = make_config(tmp_path, weights, seeds=(0,), real_guidance=guided)
  generate.check(config, str(tmp_path))
  generate.run(config, str(tmp_path))
  found = shards.open_shards(tmp_path / "generate")
  strategies = [row["id"].split("-")[0] for row in found]
  assert strategies == ["basic"] * 9 + ["rg1"] * 6 + ["rg2"] * 6
  config.generate.real_guidance.alone = True
  tiny_world.write_prompts(tmp_path / "alone")
  generate.run(config, str(tmp_path / "alone"))
  alone = shards.open_shards(tmp_path / "alone" / "generate")
  assert [row["id"] for row in alone] == [row["id"] for row in found][9:]


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"shot": (1,)}, "did you mean 'shots'"),
    ({"start_steps": None, "shots": (3,)}, "no start_steps for .3. shots"),
    ({"start_steps": None, "shots": (16,)}, "has {16: 15}.*walks 3 steps"),
    ({"start_steps": (0,)}, r"start_steps.0.=0: needed a whole number, 1"),
    ({"start_steps": (9,)}, "start_steps has {1: 9}"),
    ({"start_steps": (1, 1)}, "one for each"),
    ({"shots": (4000,)}, "4000 real images"),
    ({"pool": {"split": "pool"}}, "real_pool"),
    ({"sampler": "cop"}, "did you mean 'coop'"),
  ],
)
def test_bad_real_guidance_stops_before_anything_is_drawn(
  tmp_path, weights, changes, words
):
  guided = {
    "pool": {"split": "real_pool"},
    "shots": (1,),
    "start_steps": (1,),
  } | changes
  config = make_config(tmp_path, weights, real_guidance=guided)
  with pytest.raises(UserError, match=words):
    generate.check(config, str(tmp_path))


@pytest.mark.slow
def test_the_task_draws_with_stable_diffusion(tmp_path):
  """Under the same plan and checks as with GLIDE."""
  tiny_world.write_prompts(tmp_path)
  block = {"name": "stable_diffusion"} | tiny_sd.write_file(tmp_path)
  config = make_config(tmp_path, block, seeds=(0,))
  generate.check(config, str(tmp_path))
  generate.run(config, str(tmp_path))
  found = shards.open_shards(tmp_path / "generate")
  assert len(found) == 9 and found[0]["image"].shape == (16, 16, 3)
  with config.unlocked():
    config.generator.sampeler = "ddim"
  with pytest.raises(UserError, match="did you mean 'sampler'"):
    generate.check(config, str(tmp_path))


def test_a_preview_reports_weak_classes_and_changes_no_image(
  tmp_path, weights, capsys
):
  """A CLIP of random weights calls all images the same: some class is weak."""
  told = {}
  for name, more in (("without", {}), ("with", dict(preview=60))):
    workdir = tmp_path / name
    workdir.mkdir()
    tiny_world.write_prompts(workdir)
    config = make_config(
      workdir, weights, images_per_class=20, seeds=(0,), **more
    )
    generate.check(config, str(workdir))
    generate.run(config, str(workdir))
    told[name] = capsys.readouterr().err
  assert hashes(tmp_path / "with") == hashes(tmp_path / "without")
  assert "drawn badly" in told["with"] and "drawn badly" not in told["without"]
  assert re.search(r"(bird species|fresh fruit|drink): 0% of 20", told["with"])
  with config.unlocked():
    del config["encoder"]
  with pytest.raises(UserError, match="preview needs config.encoder"):
    generate.check(config, str(workdir))
