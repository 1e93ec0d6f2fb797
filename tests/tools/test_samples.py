import numpy as np

from synthjax.embedded import world
from tools.embedded_world import samples


def test_concepts_are_of_training_and_differ():
  chosen = samples.choose(24, seed=0)
  assert len({concept.id for concept in chosen}) == 24
  assert {concept.split for concept in chosen} == {"train"}
  assert {concept.subcategory for concept in chosen} <= set(world.DRAWN)
  assert chosen == samples.choose(30, seed=0)[:24]
  assert chosen != samples.choose(24, seed=1)


def test_a_page_has_a_band_of_columns_for_every_twelve_concepts():
  columns = np.zeros([13, 2, 32, 32, 3], np.uint8)
  columns[12, 1] = 200
  sheet = np.asarray(samples.page(columns, [f"thing {i}" for i in range(13)]))
  band = 2 * 64 + samples.CAPTION
  assert sheet.shape == (2 * band, 12 * 64, 3)
  assert (sheet[band : band + 64, :64] == 0).all()
  assert (sheet[band + 64 : band + 128, :64] == 200).all()
  assert (sheet[band : band + 128, 64:] == 255).all()  # no thirteenth beside it
