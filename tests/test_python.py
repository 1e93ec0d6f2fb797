"""The functions of `import synthjax`: light, and clear about wrong arguments.

`test_docs_run` runs all of docs/python.md.
"""

import importlib
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import synthjax as sx
from synthjax.adapt import linear_head
from synthjax.data.generated.plan import Row
from synthjax.data.generated.scores import Texts, make_scores
from synthjax.data.pipeline import given
from synthjax.encoders import batching
from synthjax.generators import Generator, keys
from synthjax.runtime.errors import UserError

IMAGES = np.zeros((4, 6, 5, 3), np.uint8)


def test_import_is_light():
  code = (
    "import sys, synthjax; "
    "assert not {'jax', 'numpy', 'absl'} & {*sys.modules}, 'heavy'"
  )
  subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_every_name_is_there_and_described():
  for name in sx.__all__:
    value = getattr(sx, name)
    assert name == "__version__" or value.__doc__, name
  assert {*sx.__all__} <= {*dir(sx)}
  assert importlib.import_module("synthjax.classify")  # no lazy name hides it
  with pytest.raises(AttributeError, match="no attribute 'load_genrator'"):
    sx.load_genrator  # noqa: B018


# --- drawing ------------------------------------------------------------------


def of_keys():
  """Returns a generator whose images show their keys."""

  def stream(prompts, rngs):
    data = np.asarray(jax.random.key_data(rngs))[:, :1].astype(np.uint8)
    yield np.broadcast_to(data[:, None, None], (len(prompts), 2, 2, 3))

  return Generator(stream, 4, 2, 2, 0, {})


def test_an_image_depends_on_seed_prompt_and_its_number():
  draw = of_keys().draw
  four = draw(["a", "b", "a", "a"], seed=3)
  np.testing.assert_array_equal(draw(["b", "a", "a"], seed=3), four[[1, 0, 2]])
  assert len({image.tobytes() for image in four}) == 4
  assert (draw(["a"], seed=4) != four[:1]).any()
  assert draw([]).shape == (0, 2, 2, 3)
  assert draw(("a",)).shape == (1, 2, 2, 3)
  # They are the keys of the task `generate`, of a class without a name.
  (row,) = [Row("", 0, "", "a", seed=3, number=2)]
  want = jax.random.key_data(keys.image_keys([row]))
  got = jax.random.key_data(keys.prompt_keys(["a"] * 3, 3))[2:]
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  ("prompts", "words"),
  [
    ("red apple", r"one text: give a list of texts, \['red apple'\]"),
    ([1], r"prompts\[0\] is int 1"),
  ],
)
def test_a_list_of_prompts_is_needed(prompts, words):
  with pytest.raises(UserError, match=words):
    of_keys().draw(prompts)


@pytest.mark.parametrize(
  ("load", "name", "nearest"),
  [
    (sx.load_generator, "embeded", "embedded"),
    (sx.load_generator, "glid", "glide"),
    (sx.load_encoder, "clip_rn5", "clip_rn50"),
    (sx.load_space, "emoji61", "emoji16"),
  ],
)
def test_unknown_names_get_the_nearest(load, name, nearest):
  with pytest.raises(UserError, match=f"did you mean '{nearest}'"):
    load(name)


def test_a_space_is_made_of_names():
  space = sx.load_space(["red apple", {"name": "crane", "sense": "bird"}])
  assert space.class_names == ("red apple", "crane")
  assert "wading bird" in space.classes[1].description
  with pytest.raises(UserError, match="'a' occurs 2 times"):
    sx.load_space(["a", "a"])


# --- images, labels -----------------------------------------------------------


@pytest.mark.parametrize(
  ("images", "words"),
  [
    (IMAGES[0], r"uint8 \[5, 3\].*given as image\[None\]"),
    (IMAGES / 255, r"float64.*\(255 \* images\)"),
    (IMAGES.transpose(0, 3, 1, 2), r"\[3, 6, 5\].*np.moveaxis"),
    ([IMAGES[0, ..., :1]], "it has 1 channels"),
    ("photo.png", r"synthjax.read_image\('photo.png'\)"),
    ([None], "NoneType None"),
  ],
)
def test_what_is_no_image_is_named(images, words):
  stack = batching.stacked(lambda image: image, on_device=False)
  with pytest.raises(UserError, match=words):
    stack(images)


@pytest.mark.parametrize(
  ("labels", "words"),
  [
    ([0, 1], r"int64 \[2\]: needed whole numbers \[4\]"),
    ([0.5] * 4, "float64"),
    ([0, 1, 2, 7], r"labels \[7\].*has 3 classes, 0 to 2"),
    ([-1, 1, 2, 0], r"labels \[-1\]"),
  ],
)
def test_labels_that_do_not_fit_are_named(labels, words):
  with pytest.raises(UserError, match=words):
    given.labels("labels", labels, count=4, num_classes=3)


def test_scores_filters_and_heads_name_what_does_not_fit():
  features = np.eye(3, dtype=np.float32)
  texts = Texts(features[:, None], 100.0)
  ids = [f"given-{i}-0-s0-{i}" for i in range(3)]
  scores = make_scores(ids, [0, 1, 2], features, texts)
  with pytest.raises(UserError, match="of 3 classes, but class_names has 2"):
    sx.select_images(scores, class_names="ab", max_per_class=1, seed=0)
  with pytest.raises(UserError, match="the label space has 3 classes"):
    make_scores(ids, [0, 1, 3], features, texts)
  encoder = types.SimpleNamespace(encode_texts=None, logit_scale=1.0)
  with pytest.raises(UserError, match=r"space=\['a'\] is no label space"):
    sx.score_images(encoder, ["a"], IMAGES, [0] * 4)
  head = linear_head.init_head(texts.text_features, 100.0)
  with pytest.raises(UserError, match="the names of the 3 classes"):
    sx.make_classifier(encoder, "cat", head)
  with pytest.raises(UserError, match=r"needed whole numbers \[3\]"):
    sx.tune_head(features, [0, 1], head)


@pytest.mark.parametrize(
  ("read", "words"),
  [
    (sx.open_images, "Task 'generate' has not been completed"),
    (sx.read_results, "No task is complete"),
    (sx.load_classifier, "whose task `tune` is done"),
  ],
)
def test_a_folder_that_is_no_run_is_named(tmp_path, read, words):
  with pytest.raises(UserError, match=words):
    read(tmp_path / "nowhere")
