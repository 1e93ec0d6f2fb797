"""Drawings, their captions and views of them on the device."""

import jax
import jax.numpy as jnp
import numpy as np

from synthjax.embedded import captions, world
from synthjax.training import drawings

KEYS = jax.random.split(jax.random.key(0), 200)


def dot():
  image = np.full((32, 32, 3), 255, np.uint8)
  image[10:14, 20:24] = (200, 40, 40)
  return jnp.asarray(image)


def test_rows_keep_their_captions():
  data = captions.Captioned(
    split="train", name_share=1.0, subcategories=("animal-bird",)
  )
  texts = []

  def encode(given):
    texts.extend(given)
    return {"tokens": np.arange(len(given))[:, None]}

  arrays = drawings.load(data, encode, seed=0, variants=3)
  source = data.open()
  assert len(set(texts)) == len(texts) < 3 * len(source)
  assert arrays["tokens"].shape == (len(source), 3, 1)
  for i in (0, 7, len(source) - 1):
    np.testing.assert_array_equal(arrays["image"][i], source[i]["image"])
    for number in arrays["tokens"][i, :, 0]:
      assert source[i]["phrases"][0] in texts[number]

  batch = drawings.draw(
    arrays, KEYS[0], batch_size=64, view=lambda image, rng: image
  )
  for image, number in zip(batch["image"], batch["tokens"][:, 0], strict=True):
    shown = (arrays["tokens"] == number).any((1, 2))
    assert (arrays["image"][shown] == image).all((1, 2, 3)).any()
  assert len(set(batch["tokens"][:, 0].tolist())) > 40
  few = drawings.load(data, encode, seed=0, variants=3, most=2)
  assert few["tokens"].shape == (2, 3, 1) and len(few["image"]) == 2


def test_a_left_out_style_is_not_drawn_from():
  data = captions.Captioned(
    split="train", name_share=1.0, leave_out_styles=("noto", "noto-v1")
  )
  styles = {style for style, _, _ in data.open().rows}
  assert styles == {
    s for s, split in world.STYLES.items() if split == "train"
  } - {"noto", "noto-v1"}


def test_views_move_mirror_and_keep_what_they_say():
  image = dot()
  still = drawings.jiggle(image, KEYS[0], shift=0, scale=0, degrees=0)
  np.testing.assert_array_equal(still, image)
  shifted = jax.vmap(drawings.shift, (None, 0))(image, KEYS)
  ink = (np.asarray(shifted) != 255).any(-1).sum((1, 2))
  assert (ink == 16).all()  # every pixel of the dot, and no other
  moved = {tuple(np.argwhere((x != 255).any(-1))[0]) for x in shifted}
  assert len(moved) == 25
  mirrored = jax.vmap(drawings.flip, (None, 0))(image, KEYS)
  share = np.mean([(x != image).any() for x in mirrored])
  assert 0.35 < share < 0.65
  moved = drawings.jiggle(image, KEYS[1], shift=0.25, scale=0, degrees=0)
  assert (moved[0, 0] == 255).all() and (moved != image).any()
  # The ink of a bilinear move by a part of a pixel stays the same.
  total = (255 - np.asarray(moved, int)).sum()
  assert abs(total / (255 - np.asarray(image, int)).sum() - 1) < 0.02


def test_colours_change_on_a_white_ground():
  views = np.asarray(jax.vmap(drawings.recolour, (None, 0))(dot(), KEYS))
  assert (views[:, 0, 0] == 255).all()
  same = np.mean([(view == dot()).all() for view in views])
  assert 0.05 < same < 0.5
  gray = jnp.asarray(np.where(np.asarray(dot()) < 255, 90, 255), jnp.uint8)
  views = np.asarray(
    jax.vmap(drawings.recolour, (None, 0))(gray, KEYS), np.int32
  )
  assert np.ptp(views, -1).max() <= 1
  ink = (views[..., 0] < 250).sum((1, 2))
  assert ink.min() < 16 < ink.max()  # narrower and wider lines


def test_a_rectangle_is_erased_half_of_the_time():
  black = jnp.zeros((32, 32, 3), jnp.uint8)
  erased = np.asarray(jax.vmap(drawings.cut_out, (None, 0))(black, KEYS))
  shares = (erased[..., 0] == 255).mean((1, 2))
  assert 0.35 < (shares > 0).mean() < 0.65 and shares.max() <= 0.29
  some = erased[np.flatnonzero(shares)[0], ..., 0] == 255
  assert some.sum() == some.any(0).sum() * some.any(1).sum()  # a rectangle


def test_shrinking_averages_whole_blocks():
  image = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
  want = np.rint(image.reshape(2, 16, 2, 16, 2, 3).mean((2, 4)))
  np.testing.assert_array_equal(drawings.shrink(image, 16), want)
