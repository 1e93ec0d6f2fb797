"""Drawing towards the doubt of a learner, by every generator that can."""

import jax
import numpy as np
import pytest
import tiny_flux2
import tiny_glide
import tiny_sd

from synthjax.generators import GENERATORS, Learner, load_generator

PROMPTS = ["a red apple", "a fish", "a car"]
WEIGHT = np.random.default_rng(0).normal(0, 3, (3, 5)).astype(np.float32)


def logits(weight, images):
  return images.mean((1, 2)) @ weight


def doubt(images):
  """Returns the entropy of the learner of each image."""
  log_p = jax.nn.log_softmax(logits(WEIGHT, images / 127.5 - 1))
  return -(np.exp(log_p) * log_p).sum(-1)


def block_of(name, folder, monkeypatch):
  match name:
    case "glide":
      return tiny_glide.write_glide(folder)
    case "stable_diffusion":
      return {"name": name} | tiny_sd.write_file(folder)
    case "flux2":
      return tiny_flux2.write_flux2(folder, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_a_learner_guides_each_image_of_a_generator(
  tmp_path, monkeypatch, name
):
  plain = load_generator(**block_of(name, tmp_path, monkeypatch))
  guided = plain.guided(Learner(logits, WEIGHT, 0.5, {"of": "colours"}))
  images, others = (g.draw(PROMPTS, seed=0) for g in (plain, guided))
  changed = np.abs(images.astype(int) - others).max((1, 2, 3))
  assert changed.min() > 5
  if name != "glide":  # whose random upsampler makes other images of these
    assert (doubt(others) > doubt(images)).all()
  alone = guided.draw(PROMPTS[:1], seed=0)
  np.testing.assert_array_equal(alone, others[:1])
  assert guided.identity == plain.identity | {"learner": {"of": "colours"}}
  assert "learner" not in plain.identity


@pytest.mark.slow
def test_flux2_draws_the_same_by_a_learner_without_say(tmp_path, monkeypatch):
  """A scale of 0, of a walk that starts at noise alone."""
  block = tiny_flux2.write_flux2(tmp_path, monkeypatch)
  plain = load_generator(**block)
  still = plain.guided(Learner(logits, WEIGHT, 0.0, {}))
  images, others = (g.draw(PROMPTS, seed=0) for g in (plain, still))
  np.testing.assert_array_equal(others, images)
