"""What every format of export shares: rows, files of images, and a mark.

A format has `write(folder, rows, names, *, split, ...)`. It writes the files
that are not there yet below `folder`, local or gs://; each appears whole. Rows
are those of `rows`, and names those of the classes by label. It returns the
rows of each file, for the manifest, or of a list of them, and raises a
UserError about a label without a name, or two images of one id.
"""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from synthjax.data.generated.drawn_images import Drawn
from synthjax.data.generated.filters import chance_of
from synthjax.data.pipeline import codecs
from synthjax.data.pipeline.rows import Example, Source, subset
from synthjax.runtime.errors import UserError

_ENDINGS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def rows(
  source: Sequence[Example],
  *,
  encoding: Mapping[str, Any],
  shuffle: int | None = None,
) -> Source:
  """Returns the rows to export: encoded, label, prompt, seed and id.

  Args:
    source: of `drawn_images.open_generated`, with decode=False.
    encoding: the arguments of `codecs.encode`, which encode the images anew;
      without any, the stored bytes stay.
    shuffle: a seed for the order, for readers that go through files from one
      end to the other; None keeps the order, which is that of the classes.
  """
  if shuffle is not None:
    chance_of_id = functools.partial(chance_of, shuffle)
    if isinstance(source, Drawn):  # whose ids need no image to be read
      chance = source.map_ids(chance_of_id)
    else:
      chance = [chance_of_id(row["id"]) for row in source]
    source = subset(source, np.argsort(chance, kind="stable"))
  read = functools.partial(_read, source, dict(encoding))
  return Source(len(source), read)


def write_image(
  folder: epath.Path,
  file: str,
  image_id: str,
  content: Callable[[], bytes],
  written: dict[str, int],
  write: Callable[[str, bytes], None],
) -> None:
  """Writes an image as a file of its own, if it is not there yet.

  Args:
    folder: of the export.
    file: path below it.
    image_id: for the error.
    content: returns the bytes; called only if they are to be written.
    written: the rows of each file; gets this one.
    write: of `atomic.replace_many`, for the folder.

  Raises:
    UserError: if another image has the same id.
  """
  if file in written:
    raise UserError(f"Two images have the id {image_id!r}.")
  written[file] = 1
  if not (folder / file).exists():
    write(file, content())


def ending_of(content: bytes) -> str:
  """Returns "png", "jpg" or "webp", by the content of a file.

  Raises:
    UserError: if it is none of them.
  """
  image_format = codecs.format_of(content)
  if image_format is None:
    raise UserError(
      f"An image starts with {content[:8]!r}, which is neither PNG, JPEG nor "
      "WebP: its shard is damaged. Check the folder `generate`."
    )
  return _ENDINGS[image_format]


def class_of(row: Example, names: Sequence[str]) -> str:
  """Returns the name of the class of a row.

  Raises:
    UserError: if its label is none of the classes.
  """
  if not 0 <= row["label"] < len(names):
    raise UserError(
      f"The image {row['id']!r} has the label {row['label']}, but there are "
      f"{len(names)} classes, from 0: config.space is not the label space that "
      "the images were drawn for."
    )
  return names[row["label"]]


def _read(
  source: Sequence[Example], encoding: dict[str, Any], index: int
) -> Example:
  row = source[index]
  if encoding:
    pixels = codecs.pixels(row)
    row = row | {"encoded": codecs.encode(pixels, **encoding)}
  return row | {"encoded": mark(row["encoded"])}


# --- a mark within image files that says that a model has drawn them ---------
# It is IPTC's "digital source type" of such images, in XMP, which search
# engines and tools for photographs read. Exports have it, as their files go to
# others one by one; it is 355 bytes of a PNG file. Image shards do not: nobody
# opens an image of theirs but through the data set, which says what it is, and
# an image of the embedded world has 1.5 kB altogether. Pixels stay as they are
# encoded.

SOURCE_TYPE = (
  "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
)
# No version of ours, so that the same images stay the same bytes.
XMP = (
  '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
  'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
  '<rdf:Description rdf:about="" '
  'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
  f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>'
).encode()
_PNG_START = 33  # the signature and the header chunk
_XMP_OF_WEBP = 4  # the flag of a file that has XMP


def mark(content: bytes) -> bytes:
  """Returns a PNG, JPEG or WebP file with the mark; others stay as they are.

  The same file gives the same bytes, and a marked one stays as it is.
  """
  image_format = codecs.format_of(content)
  if image_format is None or SOURCE_TYPE.encode() in content:
    return content
  return _MARKERS[image_format](content)


def _mark_png(content: bytes) -> bytes:
  text = b"XML:com.adobe.xmp" + bytes(5) + XMP
  chunk = struct.pack(">I", len(text)) + b"iTXt" + text
  chunk += struct.pack(">I", zlib.crc32(chunk[4:]))
  return content[:_PNG_START] + chunk + content[_PNG_START:]


def _mark_jpeg(content: bytes) -> bytes:
  text = b"http://ns.adobe.com/xap/1.0/\0" + XMP
  segment = b"\xff\xe1" + struct.pack(">H", 2 + len(text)) + text
  start = 2  # a JFIF header must stay the first
  if content[2:4] == b"\xff\xe0":
    start += 2 + struct.unpack(">H", content[4:6])[0]
  return content[:start] + segment + content[start:]


def _mark_webp(content: bytes) -> bytes:
  chunks = content[12:]
  if chunks[:4] == b"VP8X":
    flags = chunks[8] | _XMP_OF_WEBP
    chunks = chunks[:8] + bytes([flags]) + chunks[9:]
  else:  # a file of an image alone, which has no place for anything else
    with Image.open(io.BytesIO(content)) as image:
      sides = [struct.pack("<I", side - 1)[:3] for side in image.size]
      flags = _XMP_OF_WEBP | (0x10 if "A" in image.mode else 0)
    header = struct.pack("<4sIB3x", b"VP8X", 10, flags)
    chunks = header + b"".join(sides) + chunks
  chunks += struct.pack("<4sI", b"XMP ", len(XMP)) + XMP + bytes(len(XMP) % 2)
  return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


_MARKERS = {"png": _mark_png, "jpeg": _mark_jpeg, "webp": _mark_webp}
