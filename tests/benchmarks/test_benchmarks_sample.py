"""Tests of the benchmark of sampling: both sides walk the same network."""

import json

import jax
import numpy as np
import pytest
import released_glide

from benchmarks import glide_stages
from benchmarks import sample as bench
from synthjax.diffusion import guidance, samplers, schedule
from synthjax.models.glide import weights as glide_weights


@pytest.mark.parametrize("name", ["base", "upsampler"])
def test_both_networks_predict_the_same(name):
  """From tokens to guided noise, and with the small image."""
  torch = pytest.importorskip("torch")
  from benchmarks import torch_glide, torch_sampling

  stage = glide_stages.TINY[name]
  model, variables = glide_stages.make_model(stage, "float32")
  # The weights of the benchmark are small, and leave the prompts no say.
  rng = np.random.default_rng(1)
  noise = lambda *shape: rng.normal(size=shape).astype(np.float32)
  variables = jax.tree.map(lambda x: x + 0.1 * noise(*x.shape), variables)
  theirs = torch_glide.Glide(
    in_channels=6 if stage.low_res else 3, **stage.sizes
  ).eval()
  weights = glide_weights.to_released(variables, {})
  theirs.load_state_dict(
    {k: torch.from_numpy(np.array(v)) for k, v in weights.items()}
  )
  n, scale, side = 2, stage.guidance_scale, stage.image_size
  prompts = n if scale is None else 2 * n
  tokens = rng.integers(0, 50_257, (prompts, model.text_context))
  mask = np.arange(model.text_context) < rng.integers(0, 9, (prompts, 1))
  x, t = noise(n, side, side, 3), np.array([3, 900])
  small = stage.low_res and noise(n, stage.low_res, stage.low_res, 3)

  @jax.jit
  def predict(variables, x):
    text = model.apply(variables, tokens, mask, method="encode_text")
    plain = lambda x, t: model.apply(
      variables, x, t, text, small, method="predict"
    )
    if scale is not None:
      plain = guidance.classifier_free(plain, scale)
    return plain(x, t)

  with jax.default_matmul_precision("highest"):
    got = predict(variables, x)
  put = lambda x: torch.from_numpy(x).movedim(-1, 1)
  with torch.no_grad():
    text = theirs.encode_text(torch.from_numpy(tokens), torch.from_numpy(mask))
    want = torch_sampling.make_predictor(
      theirs,
      text,
      guidance_scale=scale,
      low_res=None if small is None else put(small),
    )(put(x), torch.from_numpy(t))
  want = want.movedim(1, -1).numpy()
  largest = np.abs(want).max()
  assert largest > 0.1
  np.testing.assert_allclose(got, want, atol=1e-4 * largest)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpmpp_2m"])
def test_both_sides_walk_the_same_way(monkeypatch, sampler):
  """A network that anyone can compute; all noise is the same."""
  torch = pytest.importorskip("torch")
  from benchmarks import torch_sampling

  monkeypatch.setattr(torch, "randn_like", lambda x: 0.1 * torch.ones_like(x))
  betas = schedule.squared_cosine()
  steps = schedule.respace(betas, "5<600")
  x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)

  def predict(x, t):
    return jax.numpy.concatenate([0.8 * x, 0.5 * x], -1)

  want = samplers.SAMPLERS[sampler](
    guidance.from_noise(predict, betas),
    steps,
    x,
    lambda i: 0.1 * np.ones_like(x),
  )
  found = torch_sampling.walk(
    lambda x, t: torch.cat([0.8 * x, 0.5 * x], 1),
    steps,
    sampler,
    torch.from_numpy(x).movedim(-1, 1),
  )
  assert len(np.unique(want)) > 50  # not all are clipped
  np.testing.assert_allclose(found.movedim(1, -1), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
  ("name", "want"),
  [
    ("base", released_glide.BASE),
    ("upsampler", released_glide.UPSAMPLER),
  ],
)
def test_the_networks_are_those_that_were_released(name, want):
  torch = pytest.importorskip("torch")
  from benchmarks import torch_glide

  stage = glide_stages.RELEASED[name]
  with torch.device("meta"):
    model = torch_glide.Glide(
      in_channels=6 if stage.low_res else 3, **stage.sizes
    )
  found = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  assert found == released_glide.glide(want)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_it_prints_a_table_and_writes_its_rows(
  tmp_path, capsys, monkeypatch, whole
):
  pytest.importorskip("torch")
  if whole:  # a network is compiled in its walk alone
    monkeypatch.delattr(glide_stages, "compile_timed")
  path = tmp_path / "rows.json"
  flags = ["--tiny", "--rounds=1", "--eager", "--matmul=32", "--batch=2"]
  flags += ["--json", str(path)] + whole * ["--whole", "--preset=fast"]
  bench.main(flags)
  rows = json.loads(path.read_text())
  names = [row["name"] for row in rows]
  assert len(set(names)) == len(names)
  assert all(row["ours"] > 0 and row["device"] for row in rows)
  drawn = [row for row in rows if row["unit"] == "images/s"]
  assert len(drawn) == (1 if whole else 2)
  for row in drawn:
    assert row["ratio"] == pytest.approx(row["ours"] / row["reference"])
    assert ("of one step each" in row["name"]) != whole
  # XLA counts more operations, but no products with the padding of images.
  for row in rows:
    if row["unit"] == "TFLOP/image":
      assert 0.7 < row["ours"] / row["reference"] < 2
  printed = capsys.readouterr().out
  assert all(name in printed for name in names)
