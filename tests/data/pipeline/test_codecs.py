"""Encoded images: the views are those of their pixels; shards of each kind."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from synthjax.config import schema
from synthjax.data.generated import drawn_images, shards
from synthjax.data.pipeline import codecs, host_augment
from synthjax.data.pipeline import loader as pipeline
from synthjax.data.pipeline.rows import subset
from synthjax.runtime.errors import UserError

EXACT = [("png", None), ("webp", 80), ("jpeg", 90)]


def picture(h=60, w=80, seed=0):
  """Draws a smooth uint8 image with some noise, much as photographs are."""
  draws = np.random.default_rng(seed)
  small = Image.fromarray(draws.integers(0, 256, (6, 8, 3), np.uint8))
  smooth = np.asarray(small.resize((w, h), Image.Resampling.BICUBIC), int)
  noisy = smooth + draws.integers(-9, 10, (h, w, 3))
  return noisy.clip(0, 255).astype(np.uint8)


def rows_of(image, image_format, quality):
  """Returns an image as two rows: still encoded, and fully decoded."""
  data = codecs.encode(image, image_format=image_format, quality=quality)
  decoded = codecs.decode_image(data)
  return {"encoded": data, "label": 1}, {"image": decoded, "label": 1}


# --- formats ----------------------------------------------------------------


@pytest.mark.parametrize("image_format", codecs.FORMATS)
def test_the_format_follows_from_the_first_bytes(image_format):
  data = codecs.encode(picture(), image_format=image_format)
  assert codecs.format_of(data) == image_format
  assert codecs.format_of(data[:12]) == image_format
  assert codecs.format_of(data[1:]) is None


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"RIFF\x04\0\0\0WAVE"])
def test_other_files_have_none_of_the_formats(content):
  assert codecs.format_of(content) is None


# --- views ------------------------------------------------------------------


@pytest.mark.parametrize("name", host_augment.VIEWS)
@pytest.mark.parametrize(("image_format", "quality"), EXACT)
def test_views_of_encoded_rows_are_those_of_their_pixels(
  name, image_format, quality
):
  """Every pixel, from the same draws: no crop here is twice the result."""
  rows = rows_of(picture(), image_format, quality)
  for seed in range(5):
    seen = []
    for row in rows:
      rng = np.random.default_rng(seed)
      for transform in host_augment.transforms(
        name, image_size=32, num_classes=2
      ):
        row = transform(row, rng)
      assert row.keys() == {"image", "label"}
      seen.append((row["image"], rng.random()))
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]


def test_a_rectangle_that_never_fits_leaves_the_middle():
  rows = rows_of(picture(10, 300), "png", None)
  seen = [
    host_augment.random_resized_crop(
      row, np.random.default_rng(0), image_size=8, scale=(0.9, 1.0)
    )
    for row in rows
  ]
  np.testing.assert_array_equal(seen[0]["image"], seen[1]["image"])
  assert "encoded" not in seen[0]


def test_evaluation_and_shots_take_encoded_rows():
  rows = rows_of(picture(), "webp", 90)
  images = [
    next(host_augment.in_order([row], image_size=16))[0].tolist()
    for row in rows
  ]
  assert images[0] == images[1]
  shots = [host_augment.shot_view(row, seed=(1, 2)).tolist() for row in rows]
  assert shots[0] == shots[1]


@pytest.mark.parametrize(
  ("side", "factor"), [(127, 1), (128, 2), (255, 2), (256, 4), (520, 8)]
)
def test_a_large_jpeg_is_decoded_at_a_power_of_two_of_its_size(side, factor):
  image = picture(530, 600)
  data = codecs.encode(image, image_format="jpeg", quality=90)
  box = (11, 7, 11 + side, 7 + side)
  opened = codecs.open_image({"encoded": data})
  part = codecs.crop(opened, box, 64)
  assert opened.size == (-(-600 // factor), -(-530 // factor))
  whole = codecs.open_image({"image": codecs.decode_image(data)})
  gap = np.abs(part.astype(int) - codecs.crop(whole, box, 64))
  assert whole.size == (600, 530)
  if factor == 1:
    assert gap.max() == 0
  else:
    assert gap.mean() < 1 and gap.max() <= 5


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_other_formats_are_decoded_whole(image_format):
  data = codecs.encode(picture(256, 256), image_format=image_format)
  opened = codecs.open_image({"encoded": data})
  part = codecs.crop(opened, (0, 0, 256, 256), 32)
  whole = Image.fromarray(codecs.decode_image(data))
  np.testing.assert_array_equal(
    part, np.asarray(whole.resize((32, 32), Image.Resampling.BILINEAR))
  )


def test_grey_jpegs_become_rgb():
  file = io.BytesIO()
  Image.fromarray(picture(64, 64)[..., 0]).save(file, "JPEG")
  row = {"encoded": file.getvalue()}
  cut = host_augment.random_resized_crop(
    row, np.random.default_rng(0), image_size=8
  )
  assert cut["image"].shape == (8, 8, 3)
  np.testing.assert_array_equal(cut["image"][..., 0], cut["image"][..., 2])


# --- encoding ---------------------------------------------------------------


def test_png_is_the_default_and_exact():
  image = picture()
  assert codecs.encode(image) == codecs.encode_png(image)
  np.testing.assert_array_equal(
    codecs.decode_image(codecs.encode_png(image)), image
  )


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_more_quality_is_nearer_and_longer(image_format):
  image, sizes, gaps = picture(), [], []
  for quality in (30, None, 100):
    data = codecs.encode(image, image_format=image_format, quality=quality)
    sizes.append(len(data))
    gaps.append(np.abs(codecs.decode_image(data) - image.astype(float)).mean())
  assert sizes == sorted(sizes) and gaps == sorted(gaps, reverse=True)
  assert gaps[1] < 5


def test_images_are_made_smaller_before_they_are_encoded():
  flat = np.full((64, 64, 3), (10, 200, 30), np.uint8)
  flat[32:] = 90
  small = codecs.decode_image(codecs.encode(flat, image_size=16))
  assert small.shape == (16, 16, 3)
  np.testing.assert_array_equal(small[0], flat[0, :16])
  np.testing.assert_array_equal(small[-1], flat[-1, :16])
  same = codecs.encode(flat, image_size=64)
  assert same == codecs.encode(flat)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(image_format="jpg"), "did you mean 'jpeg'"),
    (dict(quality=90), "quality=90 is of jpeg and webp"),
    (
      dict(image_format="webp", quality=101, image_size=0),
      "quality=101(.|\n)*image_size=0",
    ),
  ],
)
def test_bad_encodings_are_refused(fields, words):
  with pytest.raises(UserError, match=words):
    schema.read(codecs.Encoding, fields, "encoding")


# --- shards -----------------------------------------------------------------


def write(folder, **encoding):
  def encode(image):
    return codecs.encode(image, **encoding)

  rows = [
    {
      "image": picture(seed=i)[:16, :16],
      "label": i % 2,
      "prompt": "p",
      "seed": 0,
      "id": f"basic-{i % 2}-0-s0-{i}",
    }
    for i in range(5)
  ]
  shards.write_shard(folder, 0, 1, rows, encode=encode)
  shards.write_dataset_info(
    folder,
    [5],
    {0: "a", 1: "b"},
    description="A test.",
    image_size=encoding.get("image_size", 16),
    image_format=encoding["image_format"],
  )
  return rows


@pytest.mark.parametrize("image_format", codecs.FORMATS)
def test_tfds_opens_shards_of_every_format(tmp_path, image_format):
  tfds = pytest.importorskip("tensorflow_datasets")
  rows = write(tmp_path, image_format=image_format, image_size=8)
  builder = tfds.builder_from_directory(str(tmp_path))
  feature = builder.info.features["image"]
  assert feature.shape == (8, 8, 3)
  assert (feature.encoding_format or "webp") == image_format
  ours = shards.open_shards(tmp_path)
  for i, row in enumerate(builder.as_data_source(split="train")):
    np.testing.assert_array_equal(row["image"], ours[i]["image"])
    small = Image.fromarray(rows[i]["image"]).resize((8, 8), Image.LANCZOS)
    gap = np.abs(ours[i]["image"] - np.asarray(small, float)).mean()
    assert gap == 0 if image_format == "png" else gap < 8


def test_rows_are_handed_out_as_they_are_stored(tmp_path):
  write(tmp_path, image_format="jpeg", quality=80)
  whole = shards.open_shards(tmp_path)
  stored = pickle.loads(
    pickle.dumps(shards.open_shards(tmp_path, decode=False))
  )
  for got, want in zip(stored, whole, strict=True):
    assert got.keys() == want.keys() - {"image"} | {"encoded"}
    assert got["encoded"][:2] == b"\xff\xd8"  # as JPEG files begin
    np.testing.assert_array_equal(codecs.pixels(got), want["image"])
    assert all(got[name] == want[name] for name in ("label", "prompt", "id"))


def test_training_sees_the_same_of_encoded_rows(tmp_path):
  write(tmp_path, image_format="webp")
  transforms = host_augment.transforms("photo", image_size=12, num_classes=2)
  batches = []
  for decode in (True, False):
    source = drawn_images.open_generated(
      tmp_path, strategy="basic", decode=decode
    )
    source = subset(source, [3, 1, 4, 0])
    ds = pipeline.train_batches(
      source, transforms, batch_size=4, seed=1, repeats=2
    )
    batches.append(next(iter(ds)))
  np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])
  np.testing.assert_array_equal(batches[0]["label"], batches[1]["label"])
  assert batches[0]["image"].shape == (4, 12, 12, 3)
