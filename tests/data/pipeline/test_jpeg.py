"""JPEGs by simplejpeg: Pillow's pixels, and Pillow for all that is odd."""

import io
import types

import numpy as np
import pytest
from noisy_pictures import picture
from PIL import Image

from synthjax.data.pipeline import codecs, image_files, jpeg
from synthjax.runtime.errors import UserError


def content_of(image, kind="JPEG", **options):
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def by_pillow(content):
  with Image.open(io.BytesIO(content)) as image:
    return np.asarray(image.convert("RGB"))


RGB = Image.fromarray(picture(47, 33))


@pytest.fixture
def library(monkeypatch):
  """Stands in for simplejpeg: it counts, and gives pixels that tell."""
  calls = []

  def header(content):
    with Image.open(io.BytesIO(content)) as image:
      colours = {"RGB": "YCbCr", "L": "Gray"}.get(image.mode, image.mode)
      return image.height, image.width, colours, "420"

  def decode(content):
    calls.append(content)
    if not content.endswith(b"\xff\xd9"):
      raise ValueError("Premature end of JPEG file")
    return 255 - by_pillow(content)

  fake = types.SimpleNamespace(decode_jpeg_header=header, decode_jpeg=decode)
  monkeypatch.setattr(jpeg, "simplejpeg", fake)
  return calls


def test_an_upright_jpeg_of_three_colours_is_decoded_by_it(library, tmp_path):
  content = content_of(RGB)
  want = 255 - by_pillow(content)
  (tmp_path / "a.jpg").write_bytes(content)
  for found in (
    codecs.decode_image(content),
    image_files.decode(content, name="a"),
    image_files.read_pixels(image_files.epath.Path(tmp_path / "a.jpg")),
  ):
    np.testing.assert_array_equal(found, want)
  assert len(library) == 3


@pytest.mark.parametrize(
  "content",
  [
    content_of(RGB, "PNG"),
    content_of(RGB, "WEBP"),
    content_of(RGB.convert("L")),
    content_of(RGB.convert("CMYK")),
  ],
  ids=["png", "webp", "grey", "cmyk"],
)
def test_pillow_decodes_all_else(library, content):
  np.testing.assert_array_equal(
    codecs.decode_image(content), by_pillow(content)
  )
  image_files.decode(content, name="a")
  assert not library


def test_pillow_turns_and_resizes(library):
  exif = Image.Exif()
  exif[0x0112] = 6
  turned = image_files.decode(content_of(RGB, exif=exif), name="a")
  assert turned.shape == (33, 47, 3)
  image_files.decode(content_of(RGB), 16, name="a")
  assert not library


def test_a_cut_file_has_pillows_error(library, monkeypatch):
  content = content_of(RGB)[:-40]
  messages = []
  for here in (jpeg.simplejpeg, None):
    monkeypatch.setattr(jpeg, "simplejpeg", here)
    with pytest.raises(UserError) as error:
      image_files.decode(content, name="a.jpg")
    messages.append(str(error.value))
  assert messages[0] == messages[1] and "a.jpg" in messages[0]
  assert library == [content]


def test_too_large_an_image_is_pillows(library, monkeypatch):
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 47 * 33 - 1)
  assert jpeg.decode(io.BytesIO(content_of(RGB))) is None


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_it_has_the_pixels_of_pillow(subsampling, progressive):
  """The same library, transform and colours, also where blocks are cut."""
  pytest.importorskip("simplejpeg")
  for side in (1, 7, 16, 33):
    for quality in (30, 90, 95, 100):
      content = content_of(
        Image.fromarray(picture(side, side + 9, seed=side)),
        quality=quality,
        subsampling=subsampling,
        progressive=progressive,
      )
      found = jpeg.decode(io.BytesIO(content))
      np.testing.assert_array_equal(found, by_pillow(content))


@pytest.mark.parametrize("cut", [2, 9, 200])
def test_it_leaves_a_cut_file_to_pillow(cut):
  pytest.importorskip("simplejpeg")
  content = content_of(Image.fromarray(picture(64, 64)), quality=95)
  assert jpeg.decode(io.BytesIO(content)) is not None
  assert jpeg.decode(io.BytesIO(content[:-cut])) is None
