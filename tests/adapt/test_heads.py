"""Heads in files: what is read is what was learned."""

import numpy as np
import pytest

from synthjax.adapt import heads, tip_adapter
from synthjax.adapt.linear_head import Head
from synthjax.adapt.linear_probe import RawHead
from synthjax.adapt.tip_adapter import Cache, Strengths

K, M, D = 3, 2, 4


def arrays(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def adapter(seed):
  keys, weight, bias = arrays(seed, (K, M, D), (K, D), (K,))
  filled = np.array([[True, True], [True, False], [True, True]])
  strengths = Strengths(1.0 + seed, 2.0 - seed)
  return Cache(keys, filled), Head(weight, bias), strengths


def tip(seed):
  return tip_adapter.make_adapter(*adapter(seed))


def test_an_adapter_has_the_logits_of_its_cache_and_strengths():
  cache, head, strengths = adapter(0)
  (features,) = arrays(9, (5, D))
  np.testing.assert_allclose(
    tip(0)(features),
    tip_adapter.logits_fn(cache, head, features, strengths),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  "make",
  [
    lambda seed: Head(*arrays(seed, (K, D), (K,))),
    lambda seed: RawHead(*arrays(seed, (K, D), (K,))),
    tip,
  ],
)
def test_the_logits_of_an_arm_are_the_mean_over_its_seeds(make, tmp_path):
  zero_shot = Head(*arrays(7, (K, D), (K,)))
  learned = {"a/b": {0: make(0), 1: make(1)}}
  heads.save(tmp_path, zero_shot, learned, "xyz", {})
  path, (features,) = tmp_path / heads.HEADS, arrays(9, (5, D))
  want = np.mean([head(features) for head in learned["a/b"].values()], axis=0)
  got = heads.load(path, arm="a/b")
  assert got.classes == ("x", "y", "z")
  np.testing.assert_allclose(got.head(features), want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    heads.load(path, arm="zero_shot").head(features), zero_shot(features)
  )
