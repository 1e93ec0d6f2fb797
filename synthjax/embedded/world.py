"""The embedded image set: 1,600 concepts drawn in ten styles, at 32x32."""

import collections
import dataclasses
import functools
import io
import pathlib
import zipfile
from typing import Annotated, Any, NamedTuple

import numpy as np
from PIL import Image

from synthjax.config.schema import Count, one_of
from synthjax.runtime.errors import UserError, unknown_names
from synthjax.runtime.text_files import parse_json

FOLDER = pathlib.Path(__file__).parent
SIZE = 32

STYLES = {
  "noto": "train",
  "noto-v1": "train",
  "fluent-emoji": "train",
  "fluent-emoji-flat": "train",
  "streamline-emojis": "train",
  "emojione": "validation",
  "fxemoji": "test",
  "twemoji": "test",
  "fluent-emoji-3d": "train",
  "fluent-emoji-high-contrast": "train",
}

# Styles that came after the splits of concepts and the tokenizer were fixed.
# They change neither, and few-shot pools go without them: weights and results
# before and after remain comparable.
LATER_STYLES = ("fluent-emoji-3d", "fluent-emoji-high-contrast")

# split -> (split of the styles, splits of the concepts). Every training here
# sees "train" alone; no other split shares a drawing with it.
SPLITS = {
  "train": ("train", ("train",)),
  "validation": ("validation", ("train", "validation")),
  "test": ("test", ("train", "test")),
  "test_seen": ("test", ("train",)),  # a new style of known concepts
  "test_unseen": ("test", ("test",)),  # both are new
  # The pool of real shots in few-shot runs: "train" under another name, since
  # in this world the generator saw the same drawings.
  "real_pool": ("train", ("train",)),
}

# Words of captions for the styles that training sees.
STYLE_WORDS = {
  "noto": ("shaded", "soft", "detailed"),
  "noto-v1": ("simple", "plain"),
  "fluent-emoji": ("glossy three dimensional", "shiny", "rendered"),
  "fluent-emoji-flat": ("flat", "colourful flat"),
  "streamline-emojis": ("outlined", "cartoon"),
  "fluent-emoji-3d": ("three dimensional", "soft three dimensional"),
  "fluent-emoji-high-contrast": ("black and white", "black outlined"),
}

TEMPLATES = (
  "{}",
  "a drawing of {}",
  "an emoji of {}",
  "a picture of {}",
  "a {style} drawing of {}",
  "a {style} emoji of {}",
  "{}, {style}",
)
PLAIN_TEMPLATES = tuple(t for t in TEMPLATES if "{style}" not in t)

REINSTALL = (
  "The file is damaged or belongs to another version: reinstall synthjax. In a "
  "checkout, `python -m tools.embedded_world.build` builds it again."
)


class Concept(NamedTuple):
  """The thing that a drawing shows, such as a fox."""

  id: int
  code: str  # code points, hexadecimal
  name: str
  keywords: tuple[str, ...]
  phrases: tuple[str, ...]  # names in captions; `name` comes first
  category: str
  subcategory: str
  split: str


@dataclasses.dataclass(frozen=True)
class Source:
  """Drawings of one split, with random access: a source for Grain.

  Images are decoded a style at a time, when first asked for, and are not
  pickled with the source.
  """

  split: str
  rows: tuple[tuple[str, int, int], ...]  # style, row of the style, concept
  labels: tuple[int, ...]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> dict:
    """Returns image uint8 [32, 32, 3], label, id, concept, style, phrases."""
    style, row, concept_id = self.rows[index]
    concept = concepts()[concept_id]
    return {
      "image": images(style)[row],
      "label": self.labels[index],
      "id": f"{style}-{row}",
      "concept_id": concept_id,
      "concept": concept.name,
      "style": style,
      "phrases": concept.phrases,
    }


def open_split(
  split: Annotated[str, one_of(SPLITS)],
  rare: Count | None = None,
  *,
  space: Any = None,
) -> Source:
  """Opens a split of the embedded set.

  Args:
    split: a key of SPLITS.
    rare: drawings that every second class keeps, chosen by chance, for trials
      with uneven classes; None leaves all.
    space: a LabelSpace whose classes list Unicode subcategories;
      drawings of no class are left out. None: every drawing, labelled by the
      id of its concept.

  Raises:
    UserError: for another split, or a space whose classes list no subcategory.
  """
  if split not in SPLITS:
    raise unknown_names("split of the embedded set", [split], SPLITS)
  label_of = {c.subcategory: None for c in concepts()}
  if space is not None:
    if bare := [c.name for c in space.classes if not c.subcategories]:
      raise UserError(
        f"The label space {space.name!r} does not say which drawings are of "
        f"{', '.join(bare)}: give them `subcategories` of the embedded set, or "
        "choose another source."
      )
    label_of |= {s: c.id for c in space.classes for s in c.subcategories}
  style_split, concept_splits = SPLITS[split]
  styles = [style for style in STYLES if STYLES[style] == style_split]
  if split == "real_pool":
    styles = [style for style in styles if style not in LATER_STYLES]
  rows, labels = [], []
  for style in styles:
    for row, concept_id in enumerate(_index()["styles"][style]["rows"]):
      concept = concepts()[concept_id]
      label = concept_id if space is None else label_of[concept.subcategory]
      if concept.split in concept_splits and label is not None:
        rows.append((style, row, concept_id))
        labels.append(label)
  if rare is not None:
    kept, counts = [], collections.Counter()
    for i in np.random.default_rng(0).permutation(len(rows)).tolist():
      counts[labels[i]] += 1
      if labels[i] % 2 == 0 or counts[labels[i]] <= rare:
        kept.append(i)
    rows, labels = ([x[i] for i in sorted(kept)] for x in (rows, labels))
  return Source(split, tuple(rows), tuple(labels))


def sample_caption(example: dict, rng: np.random.Generator) -> str:
  """Draws a caption of an example: half of the time by its name.

  Only the styles of training have words; a caption of another says nothing
  about the style.
  """
  phrases = example["phrases"]
  phrase = phrases[0]
  if len(phrases) > 1 and rng.random() < 0.5:
    phrase = phrases[rng.integers(1, len(phrases))]
    if rng.random() < 0.3:
      phrase = f"{phrases[0]}, {phrase}"
  words = STYLE_WORDS.get(example["style"])
  templates = TEMPLATES if words else PLAIN_TEMPLATES
  template = templates[rng.integers(len(templates))]
  style = words[rng.integers(len(words))] if words else ""
  caption = template.format(phrase, style=style)
  return caption.replace("a outlined", "an outlined")


@functools.cache
def concepts() -> tuple[Concept, ...]:
  """Lists all concepts, of every split; the id is the position."""
  return tuple(
    Concept(
      id=i,
      keywords=tuple(record.pop("keywords")),
      phrases=tuple(record.pop("phrases")),
      **record,
    )
    for i, record in enumerate(map(dict, _index()["concepts"]))
  )


@functools.cache
def images(style: str) -> np.ndarray:
  """Decodes the drawings of a style: uint8 [n, 32, 32, 3], read-only.

  Raises:
    UserError: if the file is damaged or is of another build than the index.
  """
  return read_images(
    FOLDER / "images.zip", style, len(_index()["styles"][style]["rows"])
  )


def read_images(path: pathlib.Path, style: str, count: int) -> np.ndarray:
  """Reads `count` drawings of a style from an images.zip."""
  try:
    with zipfile.ZipFile(path) as archive:
      parts = sorted(n for n in archive.namelist() if n.startswith(f"{style}/"))
      strips = [_decode(archive.read(part)) for part in parts]
    decoded = np.concatenate(strips).reshape(-1, SIZE, SIZE, 3)
  except (OSError, zipfile.BadZipFile, ValueError) as error:
    raise UserError(
      f"Cannot read the drawings of {style!r} from {path}: {error}. {REINSTALL}"
    ) from error
  if len(decoded) != count:
    raise UserError(
      f"{path} has {len(decoded)} drawings of {style!r}, but concepts.json "
      f"lists {count}. {REINSTALL}"
    )
  decoded.flags.writeable = False
  return decoded


def _decode(webp: bytes) -> np.ndarray:
  return np.array(Image.open(io.BytesIO(webp)).convert("RGB"))


@functools.cache
def _index() -> dict:
  return read_index(FOLDER / "concepts.json")


def read_index(path: pathlib.Path) -> dict:
  """Reads concepts.json: its concepts, styles and sources."""
  try:
    index = parse_json(path.read_bytes(), dict)
    return {key: index[key] for key in ("concepts", "styles", "sources")}
  except (OSError, ValueError, KeyError) as error:
    raise UserError(f"Cannot read {path}: {error!r}. {REINSTALL}") from error


# --- the label spaces of the embedded set ------------------------------------

# Unicode subcategory -> class. Some of these names, such as "bird", are also
# captions of single drawings, and some, such as "sea animal", of none.
SUBCATEGORIES = {
  "animal-mammal": "animal",
  "animal-bird": "bird",
  "animal-amphibian": "reptile",
  "animal-reptile": "reptile",
  "animal-marine": "sea animal",
  "animal-bug": "insect",
  "plant-flower": "flower",
  "plant-other": "green plant",
  "food-fruit": "fruit",
  "food-vegetable": "vegetable",
  "food-prepared": "cooked food",
  "food-asian": "asian food",
  "food-sweet": "dessert",
  "drink": "drink",
  "dishware": "kitchen tool",
  "place-building": "building",
  "place-religious": "religious building",
  "place-geographic": "natural landscape",
  "place-map": "map of the world",
  "place-other": "place to visit",
  "transport-ground": "vehicle",
  "transport-water": "water vehicle",
  "transport-air": "aircraft",
  "time": "clock or watch",
  "sky & weather": "weather or sky",
  "event": "festive object",
  "award-medal": "prize",
  "sport": "sports equipment",
  "game": "game or toy",
  "arts & crafts": "art and crafts",
  "clothing": "clothing",
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

PROMPTS = ("a drawing of {}", "an emoji of {}", "a picture of {}")
# As captions are: without the full stop of CLIP's templates, which costs 13
# points of zero-shot accuracy here.
CLASSIFIER_TEMPLATES = (*PROMPTS, "{}")


def drawn_concepts(count: int) -> tuple[str, ...]:
  """Names concepts that the shipped generator knows, by chance, drawn once.

  A larger count goes on where a smaller one ends.
  """
  names = [
    concept.name
    for concept in concepts()
    if concept.subcategory in DRAWN and concept.split == "train"
  ]
  order = np.random.default_rng(0).permutation(len(names))
  return tuple(names[i] for i in order[:count])
