"""The label spaces of the embedded set: plain data for `spaces`."""

import numpy as np

from synthjax.embedded import world

# Unicode subcategory -> class. No caption of the embedded set is ever one of
# these names, as CLIP was not trained on those of EuroSAT; their words occur.
# The shipped captions and tokenizer were built from these very names.
SUBCATEGORIES = {
  "animal-mammal": "land animal",
  "animal-bird": "bird species",
  "animal-amphibian": "reptile",
  "animal-reptile": "reptile",
  "animal-marine": "sea animal",
  "animal-bug": "small insect",
  "plant-flower": "flower",
  "plant-other": "green plant",
  "food-fruit": "fresh fruit",
  "food-vegetable": "fresh vegetable",
  "food-prepared": "savoury food",
  "food-asian": "asian food",
  "food-sweet": "sweet food",
  "drink": "hot or cold drink",
  "dishware": "kitchen tool",
  "place-building": "building",
  "place-religious": "religious building",
  "place-geographic": "natural landscape",
  "place-map": "map of the world",
  "place-other": "place to visit",
  "transport-ground": "land vehicle",
  "transport-water": "water vehicle",
  "transport-air": "flying vehicle",
  "time": "clock or watch",
  "sky & weather": "weather or sky",
  "event": "festive object",
  "award-medal": "prize",
  "sport": "sports equipment",
  "game": "game or toy",
  "arts & crafts": "art and crafts",
  "clothing": "item of clothing",
  "music": "music symbol",
  "musical-instrument": "musical instrument",
  "sound": "sound symbol",
  "phone": "communication device",
  "computer": "computer technology",
  "light & video": "light or video device",
  "book-paper": "reading material",
  "money": "form of money",
  "currency": "form of money",
  "mail": "mail item",
  "writing": "writing tool",
  "office": "office stationery",
  "lock": "lock or key",
  "tool": "hand tool",
  "science": "science tool",
  "medical": "medical item",
  "household": "household item",
  "face-smiling": "happy face",
  "face-affection": "loving face",
  "face-tongue": "playful face",
  "face-hand": "face with a hand",
  "face-neutral-skeptical": "indifferent face",
  "face-sleepy": "tired looking face",
  "face-unwell": "sick face",
  "face-concerned": "unhappy face",
  "face-negative": "mean face",
  "face-costume": "fantasy face",
  "cat-face": "animal face",
  "monkey-face": "animal face",
  "emotion": "comic symbol",
  "heart": "love symbol",
  "hand-fingers-open": "open palm",
  "hand-fingers-partial": "finger gesture",
  "hand-single-finger": "pointing hand",
  "hand-fingers-closed": "closed hand",
  "hands": "two hands",
  "body-parts": "part of the body",
  "person": "human portrait",
  "person-gesture": "human gesture",
  "person-role": "worker",
  "person-fantasy": "fantasy figure",
  "person-activity": "human activity",
  "person-sport": "athlete",
  "person-resting": "human at rest",
  "family": "group of people",
  "transport-sign": "public sign",
  "warning": "warning sign",
  "arrow": "direction sign",
  "religion": "religious symbol",
  "zodiac": "zodiac symbol",
  "av-symbol": "media button",
  "math": "math symbol",
  "punctuation": "punctuation mark",
  "alphanum": "sign with letters",
  "keycap": "number key",
  "geometric": "geometric shape",
}

# The subcategories of the built-in spaces of the embedded set.
SPACES = {
  "emoji10": tuple(
    """
    animal-mammal animal-bird animal-marine plant-flower food-fruit drink
    place-building transport-ground clothing face-smiling
    """.split()
  ),
  "emoji16": tuple(
    """
    animal-mammal animal-bird animal-marine animal-bug plant-flower
    food-fruit food-vegetable food-prepared food-sweet drink place-building
    transport-ground transport-air sport clothing musical-instrument
    """.split()
  ),
  "emoji_all": tuple(SUBCATEGORIES),
}

# Subcategories that the shipped generator was trained to draw; see
# train_generator.py.
DRAWN = tuple(
  """
  animal-mammal animal-bird animal-marine animal-reptile animal-bug
  plant-flower plant-other food-fruit food-vegetable food-prepared
  food-sweet drink place-building transport-ground transport-water
  transport-air sport clothing musical-instrument face-smiling
  """.split()
)

# Single concepts as classes, to pre-train on: what IN-1K and IN-2K are to the
# classes to come. The first space's are the first of the second's.
CONCEPT_SPACES = {"concepts80": 80, "concepts160": 160}

TEMPLATES = (
  "a drawing of {}.",
  "an emoji of {}.",
  "a picture of {}.",
  "{}.",
)
PROMPTS = ("a drawing of {}", "an emoji of {}", "a picture of {}")


def drawn_concepts(count: int) -> tuple[str, ...]:
  """Names concepts that the shipped generator knows, by chance, drawn once.

  A larger count goes on where a smaller one ends.
  """
  names = [
    concept.name
    for concept in world.concepts()
    if concept.subcategory in DRAWN and concept.split == "train"
  ]
  order = np.random.default_rng(0).permutation(len(names))
  return tuple(names[i] for i in order[:count])
