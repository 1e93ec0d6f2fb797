"""Drawing towards the doubt of a learner, by every generator that can."""

import numpy as np
import pytest
import tiny_glide
import tiny_sd

from synthjax.generators import Learner, load_generator

PROMPTS = ["a red apple", "a fish", "a car"]
WEIGHT = np.random.default_rng(0).normal(0, 3, (3, 5)).astype(np.float32)


def logits(weight, images):
  return images.mean((1, 2)) @ weight


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glide", "stable_diffusion"])
def test_a_learner_guides_each_image_of_a_generator(tmp_path, name):
  if name == "glide":
    block = tiny_glide.write_glide(tmp_path)
  else:
    block = {"name": name} | tiny_sd.write_file(tmp_path)
  plain = load_generator(**block)
  guided = plain.guided(Learner(logits, WEIGHT, 0.5, {"of": "colours"}))
  images, others = (g.draw(PROMPTS, seed=0) for g in (plain, guided))
  changed = np.abs(images.astype(int) - others).max((1, 2, 3))
  assert changed.min() > 5
  alone = guided.draw(PROMPTS[:1], seed=0)
  np.testing.assert_array_equal(alone, others[:1])
  assert guided.identity == plain.identity | {"learner": {"of": "colours"}}
  assert "learner" not in plain.identity
