"""The task practice: rounds that end, guidance by the head, exact resume."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world

from synthjax.adapt import classifier, feature_sets, heads
from synthjax.data.generated import shards
from synthjax.encoders import load_encoder
from synthjax.generators import Generator
from synthjax.report import results as report_results
from synthjax.report.sections import practice as section
from synthjax.runtime import artifacts
from synthjax.runtime.errors import UserError
from synthjax.tasks import practice, score, select

PRACTICE = dict(
  scales=(0, 0.5),
  images_per_class=4,
  max_rounds=2,
  patience=2,
  seeds=(0, 1),
  num_epochs=2,
  batch_size=8,
  lr=0.5,
  validation=dict(split="validation"),
  test=dict(split="test"),
)


class Killed(Exception):
  pass


def make_generator(drawn, learner=None, stop_after=None):
  """Draws noise of each image's key, brighter for a learner.

  It writes down the keys that it drew, and is killed after so many batches.
  """

  def stream(prompts, rngs):
    for first in range(0, len(prompts), 5):
      if stop_after is not None and len(drawn) >= stop_after:
        raise Killed
      keys = rngs[first : first + 5]
      draw = jax.vmap(lambda rng: jax.random.randint(rng, (32, 32, 3), 0, 160))
      images = np.asarray(draw(keys), np.uint8)
      if learner:
        logits = learner.logits(
          learner.variables, jnp.asarray(images / 127.5 - 1, jnp.float32)
        )
        images[..., 1] += (40 * np.abs(np.tanh(logits[:, :1, None]))).astype(
          np.uint8
        )
      drawn.append(jax.random.key_data(keys).tolist())
      yield images

  identity = {"generator": "noise"}
  if learner:
    identity |= {"learner": learner.identity}
  return Generator(
    *(stream, 5, 32, 32, 0, identity),
    guided=lambda learner: make_generator(drawn, learner, stop_after),
  )


def play(config, workdir, stop_after=None):
  """Runs the task with that generator; returns the keys of each batch."""
  drawn = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      practice,
      "load_generator",
      lambda **block: make_generator(drawn, stop_after=stop_after),
    )
    practice.run(config, str(workdir))
  return drawn


def begin(workdir):
  tiny_world.write_prompts(workdir)
  tiny_world.write_images(workdir, per_class=4)
  config = tiny_world.make_config(
    workdir,
    score={},
    select={"max_per_class": 3},
    generator={"name": "noise"},
    practice=PRACTICE,
  )
  score.run(config, str(workdir))
  select.run(config, str(workdir))
  return config


def leaves(workdir):
  """Returns what a run leaves, but for times."""
  folder = workdir / "practice"
  manifests = {
    str(path.relative_to(folder)): artifacts.load(path.parent)["files"]
    for path in sorted(folder.rglob(artifacts.MANIFEST))
  }
  return manifests, json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("begun")
  return workdir, begin(workdir)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, begun):
  workdir, config = tmp_path_factory.mktemp("whole"), begun[1]
  shutil.copytree(begun[0], workdir, dirs_exist_ok=True)
  return workdir, config, play(config, workdir)


def test_rounds_add_images_that_show_their_class(whole):
  workdir, config, drawn = whole
  assert sum(map(len, drawn)) == 2 * 2 * 12
  manifests, results = leaves(workdir)
  assert len(manifests) == 1 + 4
  sizes = {row["arm"]: row["num_images"] for row in results["rows"]}
  assert [*sizes] == [
    f"{arm}, round {number}"
    for arm in ("unguided", "guided 0.5")
    for number in range(3)
  ]
  encoder = load_encoder(**config.encoder.to_dict())
  zero_shot = feature_sets.read_scored(workdir, filtered=True).zero_shot
  for arm, folder in (("unguided", "unguided"), ("guided 0.5", "guided-0.5")):
    for number in (1, 2):
      source = shards.open_shards(
        workdir / "practice" / folder / f"round-{number}"
      )
      rows = [source[i] for i in range(12)]
      assert {row["seed"] for row in rows} == {-number}
      features = encoder.encode_images([row["image"] for row in rows])
      p = np.asarray(jax.nn.softmax(zero_shot(features)))
      shown = p[np.arange(12), [row["label"] for row in rows]] > 1 / 3
      name = f"{arm}, round {number}"
      before = sizes[f"{arm}, round {number - 1}"]
      assert sizes[name] - before == shown.sum()


def test_the_best_round_classifies_and_the_page_shows_all(whole):
  workdir, _, _ = whole
  _, results = leaves(workdir)
  shares: dict = {}
  for row in results["rows"]:
    shares.setdefault(row["arm"], []).append(row["accuracy"]["validation"])
  best = max(shares, key=lambda arm: np.mean(shares[arm]))
  assert classifier.load(workdir).arm.name == best
  found = report_results.read_run(workdir)
  assert {x["split"] for x in found["accuracy"]} == {"validation", "test"}
  page = section.render(found)
  assert page.count("<figure") == 2
  for arm in ("unguided", "guided 0.5"):
    assert page.count(f"<title>{arm}</title>") == 2
  assert section.render({}) == ""


def test_a_round_is_drawn_for_the_mean_of_the_heads_before_it(whole):
  workdir, config, _ = whole
  images, heads_of = {}, workdir / "practice"
  for arm in ("unguided", "guided-0.5"):
    source = shards.open_shards(heads_of / arm / "round-1")
    images[arm] = np.stack([source[i]["image"] for i in range(12)])
  head = heads.load(
    heads_of / "guided-0.5/round-1" / heads.HEADS, arm="learner"
  ).head
  before = heads.load(heads_of / heads.HEADS, arm="guided 0.5, round 0").head
  np.testing.assert_allclose(head.weight, before.weight, rtol=1e-6)
  encoder = load_encoder(**config.encoder.to_dict())
  learner = practice.learner(encoder, head, 0.5)
  plain = images["unguided"]
  logits = learner.logits(
    learner.variables, jnp.asarray(plain / 127.5 - 1, jnp.float32)
  )
  want = head(encoder.encode_images(plain))  # as they are of the encoder's size
  np.testing.assert_allclose(logits, want, atol=1e-2)
  assert (images["guided-0.5"] != plain).any((1, 2, 3)).all()


@pytest.mark.slow
@pytest.mark.parametrize("batches", [0, 3, 5, 10])
def test_a_run_that_was_killed_ends_alike(tmp_path, begun, whole, batches):
  """Before a round (0, 3) and inside one (5, 10); a round has 3 batches."""
  workdir, config, drawn = whole
  shutil.copytree(begun[0], tmp_path, dirs_exist_ok=True)
  with pytest.raises(Killed):
    play(config, tmp_path, stop_after=batches)
  assert not (tmp_path / "practice" / artifacts.MANIFEST).exists()
  rest = play(config, tmp_path)
  assert sum(map(len, rest)) == sum(map(len, drawn[batches:]))
  assert leaves(tmp_path)[1] == leaves(workdir)[1]
  assert play(config, tmp_path) == []


def test_an_arm_ends_when_validation_stalls():
  assert not practice.has_stalled([0.5], 1)
  assert not practice.has_stalled([0.5, 0.6], 1)
  assert practice.has_stalled([0.5, 0.5], 1)
  assert not practice.has_stalled([0.5, 0.7, 0.6], 2)
  assert practice.has_stalled([0.5, 0.7, 0.6, 0.7], 2)


def test_a_generator_that_nothing_guides_is_refused(tmp_path, whole):
  _, config, _ = whole
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      practice,
      "load_generator",
      lambda **block: make_generator([])._replace(guided=None),
    )
    with pytest.raises(UserError, match="cannot be guided.*choose `flux2`"):
      practice.run(config, str(tmp_path))
