"""Scenes of drawings: alike each time, with boxes of what is visible."""

import pickle

import numpy as np
import pytest

from synthjax.detection import scenes, voc
from synthjax.embedded import world
from synthjax.labels import spaces
from synthjax.runtime.errors import UserError


@pytest.fixture(scope="module")
def some():
  """Returns the first 40 scenes of validation, whose styles open quickly."""
  return list(scenes.open_scenes("validation", 40))


def assert_same(a, b):
  assert a.keys() == b.keys()
  for key in a:
    np.testing.assert_array_equal(a[key], b[key])


def test_rows_are_those_of_voc(some):
  for i, row in enumerate(some):
    height, width = row["size"]
    assert row["image"].shape == (height, width, 3)
    assert row["image"].dtype == np.uint8
    k = len(row["labels"])
    assert 1 <= k <= scenes.MAX_OBJECTS
    assert row["boxes"].shape == (k, 4) and row["boxes"].dtype == np.float32
    assert row["labels"].dtype == np.int32 and row["difficult"].dtype == bool
    assert row["difficult"].shape == (k,)
    assert (row["boxes"][:, :2] >= 0).all()
    assert (row["boxes"][:, 2:] <= (width, height)).all()
    assert (row["boxes"][:, 2:] > row["boxes"][:, :2]).all()
    assert (row["labels"] >= 0).all() and (row["labels"] < 16).all()
    assert row["id"] == f"validation-0-{i:06d}"
  assert len({row["size"] for row in some}) == len(scenes.SIZES)
  assert {len(row["labels"]) for row in some} == {1, 2, 3, 4, 5, 6}


def test_a_scene_depends_on_seed_and_number_alone(some):
  source = pickle.loads(pickle.dumps(scenes.open_scenes("validation", 50)))
  for i in (31, 0, 7):  # in any order, whatever the count
    assert_same(source[i], some[i])
    note = source.annotate(i)
    assert_same(note, {k: v for k, v in some[i].items() if k != "image"})
    assert tuple(source.sizes[i]) == some[i]["size"]
  assert len({row["image"].tobytes() for row in some}) == len(some)
  other = scenes.open_scenes("validation", 50, seed=1)[0]
  assert other["image"].tobytes() != some[0]["image"].tobytes()
  test = scenes.open_scenes("test", 50)[0]
  assert test["image"].tobytes() != some[0]["image"].tobytes()


def test_splits_share_no_style(monkeypatch):
  """What is cut out for the scenes of a split is of its styles."""
  styles = {}
  for split in ("train", "validation", "test"):
    seen = styles[split] = set()

    def cutout(style, row, seen=seen):
      seen.add(style)
      return np.full((4, 4, 4), 255, np.uint8)

    monkeypatch.setattr(scenes, "_cutout", cutout)
    source = scenes.open_scenes(split, 20)
    [source[i] for i in range(20)]
    assert {world.STYLES[style] for style in seen} == {split}
  assert not styles["train"] & styles["test"]


# --- boxes ------------------------------------------------------------------


def test_a_box_holds_the_visible_pixels_and_no_more(monkeypatch):
  """Objects of one colour each on black: the image itself tells who is seen."""
  drawn = []

  def turned(style, row, rng):
    shape = rng.integers(20, 60, 2)
    alpha = np.ones(shape, np.float32)
    alpha[: shape[0] // 3, : shape[1] // 3] = 0  # an L, so that holes matter
    drawn.append((40 * (len(drawn) + 1), int(alpha.sum())))
    return np.full((*shape, 3), drawn[-1][0], np.float32), alpha

  black = lambda height, width, rng: np.zeros((height, width, 3), np.float32)
  monkeypatch.setattr(scenes, "_turned", turned)
  monkeypatch.setattr(scenes, "paint", black)
  source = scenes.open_scenes("validation", 60)
  difficult, cut = 0, 0
  for row in source:
    colours = row["image"][..., 0]
    expected = []
    for colour, area in drawn:
      y, x = np.nonzero(colours == colour)
      if not len(y):
        continue  # there was no place for it
      share = len(y) / area
      assert share >= scenes.MIN_VISIBLE
      box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
      expected.append((box, bool(share < scenes.DIFFICULT)))
      cut += share < 1
    boxes = row["boxes"].tolist()
    assert expected == list(zip(boxes, row["difficult"].tolist(), strict=True))
    difficult += row["difficult"].sum()
    drawn.clear()
  assert difficult and cut > difficult  # both occurred


def test_an_object_that_would_hide_another_is_not_placed():
  owner = np.zeros((40, 40), np.int8)
  owner[15:25, 15:25] = 1
  cover = np.ones((40, 40), np.float32)  # at most 10 pixels aside
  rng = np.random.default_rng(0)
  assert scenes._place(owner, [100], cover, 1600, rng) is None
  # Where the first is itself as large, enough of it stays to be seen.
  owner[:] = 1
  assert scenes._place(owner, [1600], np.ones((9, 9), np.float32), 81, rng)


def test_a_turned_drawing_fills_its_box():
  rng = np.random.default_rng(0)
  lengths = []
  for row in range(100):
    colour, alpha = scenes._turned("emojione", row, rng)
    solid = alpha >= 0.5
    for side in (solid[0], solid[-1], solid[:, 0], solid[:, -1]):
      assert side.any()
    assert colour.shape == (*alpha.shape, 3)
    lengths.append(max(alpha.shape))
  # A square turned by 30 degrees is 1.37 times as long.
  assert min(lengths) >= 17 and max(lengths) <= 64 * 1.37 + 1
  assert np.percentile(lengths, 90) > 45 and np.percentile(lengths, 10) < 28


# --- cutting out ------------------------------------------------------------


def ring():
  """Draws a dark frame with white inside, and grey where it meets the ground.

  Columns and rows 8 to 23 are the frame's; 12 to 19 are white again.
  """
  drawing = np.full((1, 32, 32, 3), 255, np.uint8)
  drawing[:, 7:25, 7:25] = 155  # half of 55, half of white
  drawing[:, 8:24, 8:24] = 55
  drawing[:, 12:20, 12:20] = 255
  return drawing


def test_only_the_white_that_reaches_the_border_is_ground(monkeypatch):
  monkeypatch.setattr(world, "images", lambda style: ring())
  (cut,) = scenes._cutouts.__wrapped__("ring")
  # The grey is half there, which just counts; a clear margin is around it.
  assert cut.shape == (20, 20, 4)
  assert (cut[[0, -1]] == 0).all() and (cut[:, [0, -1]] == 0).all()
  assert (cut[1, 1:-1, 3] == 128).all()
  # What is left of an edge is the object's own colour, without the white.
  assert abs(cut[1, 1:-1, :3].astype(int) - 55).max() <= 1
  assert (cut[2:-2, 2:-2, 3] == 255).all()  # the white inside is solid
  assert (cut[6:14, 6:14, :3] == 255).all()


def test_a_white_drawing_is_no_object(monkeypatch):
  monkeypatch.setattr(
    world, "images", lambda style: np.full((2, 32, 32, 3), 255, np.uint8)
  )
  assert scenes._cutouts.__wrapped__("white") == [None, None]


def test_a_cutout_does_not_depend_on_other_drawings(monkeypatch):
  """A drawing's edge is the same, whatever is before and after it."""
  alone = ring()
  dark = np.zeros_like(alone)
  monkeypatch.setattr(
    world, "images", lambda style: np.concatenate([dark, alone, dark])
  )
  both = scenes._cutouts.__wrapped__("three")
  monkeypatch.setattr(world, "images", lambda style: alone)
  np.testing.assert_array_equal(both[1], scenes._cutouts.__wrapped__("one")[0])
  assert both[0].shape == (34, 34, 4)


# --- grounds ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (5, 3)])
def test_grounds_vary_and_stay_in_range(size):
  painted = [
    scenes.paint(*size, np.random.default_rng(seed)) for seed in range(12)
  ]
  for image in painted:
    assert image.shape == (*size, 3) and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 255 and image.std() > 2
  assert len({image.tobytes() for image in painted}) == 12


# --- writing and errors -----------------------------------------------------


def test_scenes_written_as_voc_are_read_back(tmp_path):
  source = scenes.open_scenes("validation", 4)
  names = spaces.load_space("emoji16").class_names
  assert voc.write_voc(tmp_path, source, names, split="val") == 4
  reread = voc.open_voc(
    tmp_path, [("2007", "val")], {n: i for i, n in enumerate(names)}
  )
  for a, b in zip(source, reread, strict=True):
    for key in ("boxes", "labels", "difficult", "id", "size"):
      np.testing.assert_array_equal(a[key], b[key])
    error = abs(a["image"].astype(int) - b["image"])
    assert error.mean() < 6  # JPEG


def test_scenes_that_cannot_be_drawn_are_refused():
  with pytest.raises(UserError, match="'real_pool'; allowed: train, validat"):
    scenes.open_scenes("real_pool", 3)
  with pytest.raises(UserError, match="give 1 or more"):
    scenes.open_scenes("train", 0)
  space = spaces.load_space("emoji16")
  bare = space._replace(
    classes=(
      space.classes[0],
      space.classes[1]._replace(subcategories=("keycap-none",)),
    )
  )
  with pytest.raises(UserError, match="no drawing of bird: choose"):
    scenes.open_scenes("validation", 3, space=bare)
