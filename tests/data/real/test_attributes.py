"""Backgrounds and poses of real images."""

import numpy as np
import pytest

from synthjax.data.real import attributes
from synthjax.embedded import world
from synthjax.runtime.errors import UserError

WANT = {
  "birds/1.jpg": attributes.Attributes("a lake", "flying"),
  "2.jpg": attributes.Attributes("snow", ""),
}
CSV = """pose,image,background
flying,birds/1.jpg,"a  lake."
,2.jpg,snow
"""
LINES = """{"image": "birds/1.jpg", "background": "a lake", "pose": "flying"}

{"image": "2.jpg", "background": "snow", "pose": "", "more": 1}
"""


@pytest.mark.parametrize(("name", "text"), [("a.csv", CSV), ("a.jsonl", LINES)])
def test_a_file_has_a_line_for_each_image(tmp_path, name, text):
  path = tmp_path / name
  path.write_text(text)
  assert attributes.read(str(path)) == WANT
  describe = attributes.open_attributes(str(path))
  assert describe({"id": "birds/1.jpg"}) == WANT["birds/1.jpg"]
  assert describe({"id": "train/cats/2.jpg"}) == WANT["2.jpg"]
  with pytest.raises(UserError, match="nothing of the image '1.jpg'"):
    describe({"id": "1.jpg"})


def test_prompts_leave_out_what_is_empty():
  first, second = WANT.values()
  assert attributes.caption("a cat", first) == "a cat, a lake, flying"
  assert attributes.caption("a cat", second) == "a cat, snow"
  assert attributes.caption("a cat", ()) == "a cat"


@pytest.mark.parametrize(
  ("name", "text", "problem"),
  [
    ("a.csv", "image,pose\n1.jpg,x\n", "line 2: no 'background'"),
    ("a.csv", CSV + "flying,3.jpg\n", "line 4: .* must be texts"),
    ("a.jsonl", LINES + "{}\n[]\n", "line 4: no 'image'\n  line 5: "),
    (
      "a.jsonl",
      '{"image": "1", "background": "", "pose": " "}',
      "line 1: neither a background nor a pose",
    ),
    ("a.jsonl", "", "no line"),
  ],
)
def test_wrong_lines_are_listed(tmp_path, name, text, problem):
  path = tmp_path / name
  path.write_text(text)
  with pytest.raises(UserError, match=problem):
    attributes.read(str(path))


def test_drawings_are_measured():
  image = np.full((32, 32, 3), (62, 118, 205), np.uint8)
  image[8:24, 8:24] = 255
  got = attributes.measure({"image": image, "style": "noto"})
  assert got == attributes.Attributes("blue background", "shaded")
  example = world.open_split("real_pool")[0]
  assert attributes.measure(example).background == "white background"
  with pytest.raises(UserError, match="give a file with the background"):
    attributes.measure({"image": image, "id": "1.jpg"})
