"""Sets of features: caches that are never stale, and images per class."""

import tracemalloc
import types

import numpy as np
import pytest

from synthjax.adapt import feature_sets
from synthjax.data.generated import scores
from synthjax.data.pipeline import few_shot, host_augment
from synthjax.data.pipeline.rows import Source
from synthjax.data.real import real_images
from synthjax.runtime.errors import UserError


def encoder_of(weights="a", pixels="bicubic", scale=1.0):
  """An encoder whose features differ by `scale`; it counts its images."""
  calls = []

  def encode_images(images):
    calls.append(len(images))
    return np.array([[scale, scale * image.mean()] for image in images])

  identity = {"weights": weights, "pixels": pixels}
  return types.SimpleNamespace(
    encode_images=encode_images, identity=identity, calls=calls, fit=np.asarray
  )


@pytest.fixture
def read(tmp_path, monkeypatch):
  """Reads 3 images, which are of the value that is asked for."""

  def open_real(block, space, name="images"):
    image = np.full((4, 4, 3), block["value"], np.uint8)
    rows = [{"image": image + i, "label": i} for i in range(3)]
    return Source(3, rows.__getitem__)

  monkeypatch.setattr(real_images, "open_real", open_real)

  def read(encoder, value=0):
    (features, _), files = feature_sets.encode_real(
      {"value": value}, None, encoder, tmp_path
    )
    return features, set(files)

  return read


def test_the_same_images_are_encoded_once(read):
  first, files = read(encoder_of())
  again = encoder_of()
  features, same = read(again)
  assert again.calls == [] and files == same
  np.testing.assert_array_equal(features, first)


@pytest.mark.parametrize(
  ("change", "value"),
  [
    ({"weights": "b"}, 0),  # another encoder
    ({"pixels": "bilinear"}, 0),  # other preprocessing
    ({}, 7),  # other images
  ],
)
def test_nothing_else_reads_a_stale_cache(read, change, value):
  """The released code keyed its cache by data set and split alone."""
  _, files = read(encoder_of())
  other = encoder_of(**change, scale=2.0)
  features, new = read(other, value)
  assert other.calls == [3] and not files & new
  want = 2 * np.array([[1, value + i] for i in range(3)])
  np.testing.assert_allclose(features, want)


def test_other_weights_or_pixels_have_another_identity(tmp_path):
  """What a cache is keyed by differs for other weights and other sizes."""
  import tiny_world

  from synthjax.encoders import load_encoder

  blocks = [
    tiny_world.encoder_block(tiny_world.write_clip(tmp_path / name, **sizes))
    for name, sizes in (
      ("a", {}),
      ("b", {"seed": 1}),
      ("c", {"image_size": 16}),
    )
  ]
  blocks.append(blocks[0] | {"dtype": "bfloat16"})
  found = [str(load_encoder(**block).identity) for block in blocks]
  assert len(set(found)) == 4
  slower = load_encoder(**blocks[0] | {"batch_size": 4}).identity
  assert str(slower) == found[0]  # the batch changes no feature


# --- images per class -------------------------------------------------------


def found_of(counts):
  """Scores of so many images of each class."""
  labels = np.repeat(np.arange(len(counts)), counts)
  ids = [f"basic-{label}-0-s0-{i}" for i, label in enumerate(labels)]
  n = len(ids)
  return scores.Scores(
    np.array(ids), labels, np.zeros((n, 2)), np.zeros((n, 2)), np.zeros(n)
  )


def limit(found, images_per_class, *, rows=None, seed=0, merit=None):
  rows = np.arange(len(found.ids)) if rows is None else rows
  return feature_sets.limit_per_class(
    found,
    rows,
    images_per_class=images_per_class,
    seed=seed,
    class_names=("cat", "dog"),
    merit=merit,
  )


def test_the_largest_merit_of_each_class_is_kept():
  """As many of either class, though all merits of one are larger."""
  found = found_of((20, 30))
  merit = np.random.default_rng(0).permutation(50) + 100.0 * found.labels
  rows = limit(found, 8, merit=merit)
  assert np.bincount(found.labels[rows]).tolist() == [8, 8]
  for label in (0, 1):
    of_class = np.flatnonzero(found.labels == label)
    best = of_class[np.argsort(-merit[of_class])[:8]]
    assert {*best} == {*rows[found.labels[rows] == label]}
  # Merits stand beside the rows that may be taken.
  odd = np.arange(1, 50, 2)
  kept = limit(found, 8, rows=odd, merit=merit[odd])
  assert {*kept} <= {*odd} and merit[kept].sum() > merit[odd[:16]].sum()
  # Equal ones are left to chance.
  np.testing.assert_array_equal(
    limit(found, 8, merit=np.ones(50)), limit(found, 8)
  )


def test_each_class_keeps_as_many_images():
  found = found_of((20, 30))
  rows = limit(found, 8)
  assert np.bincount(found.labels[rows]).tolist() == [8, 8]
  assert (np.diff(rows) > 0).all()
  assert limit(found, None).tolist() == list(range(50))
  # Only of the rows that may be taken.
  odd = np.arange(1, 50, 2)
  assert set(limit(found, 8, rows=odd)) <= set(odd)


def test_more_images_are_the_same_and_others():
  found = found_of((20, 30))
  few, more = set(limit(found, 5)), set(limit(found, 10))
  assert few < more
  assert few != set(limit(found, 5, seed=1))
  assert few == set(limit(found, 5))
  # By chance, and not the first that were drawn.
  assert few != {*range(5), *range(20, 25)}


def test_too_few_images_of_a_class_are_an_error():
  with pytest.raises(UserError, match=r"9 images.*'cat' has 4.*at most 4"):
    limit(found_of((4, 9)), 9)


def test_shots_and_validation_are_those_of_the_sampler():
  """CoOp's code draws both from one stream: the second depends on the first."""
  labels, of_validation = np.arange(36) % 3, np.arange(30) % 3
  features = np.arange(36.0)[:, None], np.arange(30.0)[:, None]
  few = feature_sets.Few(
    None, (features[0], labels), (features[1], of_validation), 3
  )
  draw = lambda few: (
    feature_sets.draw_shots(few, 8, 1),
    feature_sets.lend_validation(few, 8, 1),
  )
  coop = few_shot.draw_coop(
    labels, of_validation, num_classes=3, shots=8, seed=1
  )
  for (found, own), rows, shots in zip(
    draw(few._replace(sampler="coop")), coop, (8, 4), strict=True
  ):
    assert sorted(found[:, 0]) == sorted(rows)
    assert np.bincount(own).tolist() == [shots] * 3
  assert (
    draw(few)[0][0].tolist()
    != draw(few._replace(sampler="coop"))[0][0].tolist()
  )


# --- photographs of full size -------------------------------------------------


def photo(i):
  """A row of 3 MB."""
  return {"image": np.full((1000, 1000, 3), i, np.uint8), "label": i % 2}


def peak(read):
  """Returns the most megabytes that a call holds, and what it returns."""
  tracemalloc.start()
  try:
    result = read()
    return tracemalloc.get_traced_memory()[1] / 1e6, result
  finally:
    tracemalloc.stop()


def test_photographs_are_reduced_before_the_next_ones_are_read(tmp_path):
  """The hash is of the full pixels, but only the reduced ones are held."""
  source, fit = Source(40, photo), lambda image: image[:8, :8].copy()
  options = dict(identity="a", fit=fit, folder=tmp_path)
  encode = lambda images: np.array([[x.mean(), len(x)] for x in images])
  held, (features, labels, files) = peak(
    lambda: scores.encode_source(source, encode, **options)
  )
  assert held < 20
  assert features.tolist() == [[i, 8] for i in range(40)]
  assert labels.tolist() == [0, 1] * 20
  # Named by content: as files of earlier versions are, which held all pixels.
  again = scores.encode_source(source, encode, **options | {"fit": np.asarray})
  assert again[2] == files
  held, (images, labels) = peak(
    lambda: next(host_augment.in_order(source, image_size=8))
  )
  assert held < 20
  assert images.shape == (40, 8, 8, 3) and labels.tolist() == [0, 1] * 20


def test_views_are_encoded_some_at_a_time_and_in_order():
  """As all at once: by number of the view, then by shot."""
  source = Source(60, lambda i: photo(i) | {"image": noise_of(i)})
  labels = np.arange(60) % 2
  few = feature_sets.Few(source, (np.zeros((60, 1)), labels), None, 2)
  calls = []

  def encode(views):
    calls.append(len(views))
    return np.array([view.ravel()[:5] for view in views], np.float32)

  views = feature_sets.encode_views(few, encode, 30, 7, num_views=10)
  assert sum(calls) == 600 and max(calls) <= 256
  rows = few_shot.draw_by("nested", labels, num_classes=2, shots=30, seed=7)
  want = [
    [
      host_augment.shot_view(source[int(row)], seed=(7, int(row), number))
      for row in rows
    ]
    for number in range(10)
  ]
  want = np.array([[view.ravel()[:5] for view in of_one] for of_one in want])
  np.testing.assert_array_equal(views, want)


def noise_of(i):
  rng = np.random.default_rng(i)
  return rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)
