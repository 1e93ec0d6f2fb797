"""The mark of exported images: what reads it, and what it leaves alone."""

import io

import numpy as np
import pytest
from PIL import Image

from synthjax.data.formats import export_rows
from synthjax.data.pipeline import codecs

IMAGE = np.random.default_rng(0).integers(0, 256, (31, 33, 3), np.uint8)


@pytest.mark.parametrize("image_format", codecs.FORMATS)
def test_pillow_reads_the_mark_and_the_same_pixels(image_format):
  plain = codecs.encode(IMAGE, image_format=image_format)
  marked = export_rows.mark(plain)
  with Image.open(io.BytesIO(marked)) as image:
    image.load()
    assert image.info["xmp"] == export_rows.XMP and image.size == (33, 31)
  np.testing.assert_array_equal(
    codecs.decode_image(marked), codecs.decode_image(plain)
  )
  assert len(marked) < len(plain) + 360
  assert export_rows.mark(marked) == marked


def test_a_webp_that_has_room_for_more_keeps_what_it_has():
  file = io.BytesIO()
  profile = b"no profile, but bytes"
  Image.fromarray(IMAGE).save(file, "WEBP", icc_profile=profile)
  with Image.open(io.BytesIO(export_rows.mark(file.getvalue()))) as image:
    assert image.info["xmp"] == export_rows.XMP
    assert image.info["icc_profile"] == profile


def test_what_is_no_image_stays_as_it_is():
  assert export_rows.mark(b"GIF89a") == b"GIF89a"


def test_the_mark_is_xmp_with_iptcs_term():
  """Read by an XML parser, as tools for photographs do."""
  from xml.etree import ElementTree

  (rdf,) = ElementTree.fromstring(export_rows.XMP)
  (said,) = rdf
  name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
  assert said.attrib[name] == export_rows.SOURCE_TYPE
