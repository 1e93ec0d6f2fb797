"""Articles: "a" or "an", by spelling and a few exceptions."""

import pytest

from synthjax.labels import articles

AN = (
  "organ umbrella éclair owl Igloo urn uncle urchin usher onion ounce "
  "hour hourglass honest-man heir heirloom unidentified underpass unimportant "
  "MRI X-ray f-hole LED SUV HDTV F-16 8-track 11 18-wheeler 80s"
)
A = (
  "kingfisher unicorn university uniform ukulele euro European ewer utensil "
  "user Ural uvula one one-way once-over house honey yacht hammer "
  "UFO USB CD U-boat T-shirt SAW NASA 1 7 110 737"
)


@pytest.mark.parametrize("word", AN.split())
def test_an(word):
  assert articles.article_of(word) == "an"
  assert articles.article_of(f"'{word} of some kind'") == "an"


@pytest.mark.parametrize("word", A.split())
def test_a(word):
  assert articles.article_of(word) == "a"


def test_only_the_article_before_the_slot_changes():
  assert articles.fill("a photo of a {}.", "organ") == "a photo of an organ."
  assert articles.fill("An {} and an {}", "saw") == "A saw and a saw"
  assert articles.fill("a old {}, the {}", "owl") == "a old owl, the owl"
  assert articles.fill("a propeller on pizza {}", r"\1") == (
    r"a propeller on pizza \1"
  )


def test_nothing_is_a():
  assert articles.article_of("") == articles.article_of("...") == "a"
