"""Positions of a ViT, resized to other grids."""

import numpy as np
import pytest
from models.test_vit import random_images, random_variables, tiny

from synthjax.models.vit import model as vit


@pytest.mark.parametrize(
  ("old", "new"),
  [
    ((14, 14), (24, 24)),
    ((14, 14), (7, 7)),
    ((24, 24), (14, 14)),
    ((5, 3), (4, 9)),
    ((2, 2), (5, 5)),
    ((6, 6), (1, 1)),
  ],
)
def test_positions_are_resized_as_in_pytorch(old, new):
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  positions = rng.normal(size=(1, 1 + old[0] * old[1], 6)).astype(np.float32)
  # In float64, as in float32 PyTorch's own places are rounded.
  grid = torch.from_numpy(positions[:, 1:]).double().reshape(1, *old, 6)
  want = torch.nn.functional.interpolate(
    grid.permute(0, 3, 1, 2), size=new, mode="bicubic", align_corners=False
  )
  want = want.permute(0, 2, 3, 1).reshape(1, -1, 6).numpy()
  got = vit.resize_positions(positions, old, new)
  np.testing.assert_array_equal(got[:, :1], positions[:, :1])
  np.testing.assert_allclose(got[:, 1:], want, atol=2e-6)


def test_the_cubic_has_the_weights_of_its_formula():
  """Halfway between two places, a = -0.75 gives -3, 19, 19, -3 of 32."""
  line = np.zeros((1, 1 + 4, 4), np.float32)
  line[0, 1:] = np.eye(4)
  got = vit.resize_positions(line, (1, 4), (1, 2))
  np.testing.assert_allclose(got[0, 1] * 32, [-3 + 19, 19, -3, 0], atol=1e-5)
  np.testing.assert_allclose(got[0, 2] * 32, [0, -3, 19, 19 - 3], atol=1e-5)


def test_the_same_grid_changes_nothing_and_params_are_taken_too():
  params = random_variables(tiny(), 8)["params"]
  same = vit.resize_positions(params["pos_embed"], 4, 4)
  np.testing.assert_allclose(same, params["pos_embed"], atol=1e-6)
  larger = vit.resize_positions(params, 4, (8, 8))
  assert larger.keys() == params.keys()
  logits = tiny().apply({"params": larger}, random_images(2, 16))
  assert logits.shape == (2, 3)
  assert params["pos_embed"].shape == (1, 17, 16)
