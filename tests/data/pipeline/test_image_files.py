"""One decoder for all loaders: files as phones, scanners and systems leave."""

import os
import struct
import zlib

import numpy as np
import pytest
from etils import epath
from PIL import Image

from synthjax.data.formats import png_folder
from synthjax.data.pipeline import image_files, inspection, orientation
from synthjax.runtime.errors import UserError

CLASSES = {"cat": 0, "dog": 1}
RAMP = np.linspace(0, 65535, 64).reshape(8, 8)


def chunk(kind, data):
  check = struct.pack(">I", zlib.crc32(kind + data))
  return struct.pack(">I", len(data)) + kind + data + check


def png(width, height, depth, rows, *chunks):
  """Returns a grey PNG with rows of bytes and further chunks."""
  header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
  data = zlib.compress(b"".join(b"\0" + row for row in rows))
  parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data))
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def with_exif(turn):
  exif = Image.Exif()
  exif[0x0112] = turn
  return exif


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_pixels_and_boxes_are_turned_as_viewers_show_them(
  tmp_path, ending, turn
):
  """The white rectangle stays the box, however the camera was held."""
  stored = np.zeros((24, 32, 3), np.uint8)
  stored[2:10, 4:12] = 255
  path = epath.Path(tmp_path / f"photo.{ending}")
  Image.fromarray(stored).save(path, exif=with_exif(turn), quality=95)
  (header,) = image_files.read_headers([path])
  image = image_files.read_pixels(path)
  assert header == ((24, 32), turn)
  assert image.shape == (*header.shown, 3)
  (box,) = orientation.turn_boxes(np.array([[4, 2, 12, 10.0]]), header)
  y, x = np.nonzero(image[..., 0] > 128)
  assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
  corners = {1: (0, 0), 3: (1, 1), 6: (0, 1), 8: (1, 0)}
  if turn in corners:  # of what was stored above, at the left
    places = np.array([y.mean(), x.mean()]) * 2 > image.shape[:2]
    assert tuple(places.astype(int)) == corners[turn]


def test_a_damaged_exif_leaves_the_pixels_as_they_are(tmp_path):
  image = Image.new("RGB", (4, 6), (0, 0, 255))
  for number, exif in enumerate(
    (b"Exif\0\0" + b"\xff" * 40, with_exif(6).tobytes()[:12], with_exif(9))
  ):
    path = epath.Path(tmp_path / f"{number}.png")
    image.save(path, exif=exif)
    assert image_files.read_headers([path]) == [((6, 4), 1)]
    assert image_files.read_pixels(path).shape == (6, 4, 3)


def test_sixteen_bits_are_scaled_and_clear_pixels_are_white():
  rows = [row.astype(">u2").tobytes() for row in RAMP]
  clear = chunk(b"tRNS", struct.pack(">H", int(RAMP[0, 1])))
  for chunks, second in (((), int(RAMP[0, 1]) >> 8), ((clear,), 255)):
    image = image_files.decode(png(8, 8, 16, rows, *chunks), name="x")
    want = RAMP.astype(np.uint16) >> 8
    want[0, 1] = second
    np.testing.assert_array_equal(image[..., 2], want)


@pytest.mark.faults
@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"<!DOCTYPE html>\n404", "begins with b'<!DOCTYPE html"),
    # Pillow would start Ghostscript for it.
    (
      b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
      "begins with b'%!PS",
    ),
    (b"", "it is empty"),
    (png(20_000, 20_000, 1, ()), "too large an image .*400000000 pixels"),
    (
      b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;",
      "too large an image .*4294836225 pixels",
    ),
    (png(8, 8, 8, (), chunk(b"tRNS", b"\0")), "cannot be read"),
    (
      png(
        1, 1, 8, (b"a",), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**21))
      ),
      "MAX_TEXT_CHUNK",
    ),
    (png(64, 64, 8, (bytes(range(64)),) * 64)[:-60], "truncated"),
  ],
  ids=["html", "eps", "empty", "scan", "gif", "clear", "text", "cut"],
)
def test_what_is_no_image_or_too_large_is_named(tmp_path, content, message):
  path = epath.Path(tmp_path / "cat.png")
  path.write_bytes(content)
  with pytest.raises(UserError, match=rf"cat\.png .*{message}"):
    image_files.read_pixels(path)
  with pytest.raises(UserError, match=rf"^Row 3 .*{message}"):
    image_files.decode(content, name="Row 3")


@pytest.mark.faults
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_refused_by_the_header(tmp_path, dtype):
  """They would be clipped at 255: all white, without a word."""
  path = epath.Path(tmp_path / "depth.tif")
  Image.fromarray(RAMP.astype(dtype)).save(path)
  with pytest.raises(UserError, match=r"depth\.tif has pixels of 32 bits"):
    with image_files.opened(path):
      pass
  assert image_files.read_headers([path]) == [None]


def test_leftovers_of_systems_are_no_images_and_no_classes(tmp_path, caplog):
  for name in CLASSES:
    (tmp_path / name / "@eaDir").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / name / "1.jpg")
    for leftover in ("._1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
      (tmp_path / name / leftover).write_bytes(b"\0\5\x16\7")
  for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN"):
    (tmp_path / name).mkdir()
  (tmp_path / "stray.png").write_bytes(b"")
  source = png_folder.open_folder(tmp_path, CLASSES)
  assert [row["id"] for row in source] == ["cat/1.jpg", "dog/1.jpg"]
  assert "15 entries passed over" in caplog.text
  assert "$RECYCLE.BIN" in caplog.text


def test_a_name_that_is_not_utf_8_is_read_and_has_an_id_that_is(tmp_path):
  (tmp_path / "cat").mkdir()
  file = os.fsencode(tmp_path / "cat") + b"/gr\xfcn.png"
  with open(file, "wb") as opened:
    Image.new("RGB", (4, 4), (9, 8, 7)).save(opened, "PNG")
  (row,) = png_folder.open_folder(tmp_path, {"cat": 0})
  assert row["image"][0, 0].tolist() == [9, 8, 7]
  assert row["id"].encode() == rb"cat/gr\udcfcn.png"


def test_a_class_may_be_called_as_a_leftover(tmp_path):
  """Nothing is hidden of a class that the label space names."""
  (tmp_path / ".net").mkdir()
  Image.new("RGB", (4, 4)).save(tmp_path / ".net" / "1.jpg")
  assert len(png_folder.open_folder(tmp_path, {".net": 0})) == 1


@pytest.mark.faults
def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "1.jpg")
  source = image_files.open_files(tmp_path, ["1.jpg"], [0])
  with pytest.raises(UserError, match="1.jpg .*a folder, a pipe or a device"):
    inspection.inspect(source)
