"""What the embedded images show: names, caption phrases and fixed splits."""

import collections
import hashlib
import json
import pathlib
import re
import unicodedata

from synthjax.embedded.world import SUBCATEGORIES

SKIPPED_CATEGORIES = ("Flags", "Component")  # flags, and bare skin tones
# Names by Unicode subcategory that are no caption, and that the tokenizer read:
# the classes' names when captions and tokenizer were built. Eleven classes have
# plainer names now; the shipped files stay as they are, byte for byte.
HELD_OUT = SUBCATEGORIES | {
  "animal-mammal": "land animal",
  "animal-bird": "bird species",
  "animal-bug": "small insect",
  "food-fruit": "fresh fruit",
  "food-vegetable": "fresh vegetable",
  "food-prepared": "savoury food",
  "food-sweet": "sweet food",
  "drink": "hot or cold drink",
  "transport-ground": "land vehicle",
  "transport-air": "flying vehicle",
  "clothing": "item of clothing",
}
MAX_PHRASES = 7  # the name and six keywords
# Keywords that describe nothing visible, or that a third of all share.
USELESS = frozenset(
  """nature female male women men woman man human sign symbol face body activity
  entertainment accessibility like photo""".split()
  + ["blue square", "purple square", "green square"]
)

SHARES = {"test": 0.1, "validation": 0.1}  # of the concepts; the rest trains

# Words by which near-duplicates differ: a person, colour, size or direction.
# Concepts whose names differ in these alone share a split.
VARIANT_WORDS = frozenset(
  """man men woman women person people adult boy girl mx mrs mr old older child
  mermaid merman merperson santa claus prince princess with
  red orange yellow green blue purple brown black white grey gray pink light
  small medium large heavy double open closed locked unlocked
  left right up down upwards downwards leftwards rightwards upper lower facing
  oncoming pointing raised lowered inbox outbox first last japanese hair bald
  fast low high face and of""".split()
)

# (subcategory, pattern of the name) -> group, where words are not enough.
FAMILIES = (
  ("time", r"o'clock|thirty", "clock face"),
  ("family", r"", "family"),
  ("arrow", r"arrow", "arrow"),
  ("keycap", r"", "keycap"),
  ("award-medal", r"medal$", "medal"),
  ("sky & weather", r"\bmoon\b", "moon"),
  ("sky & weather", r"\b(cloud|clouds)\b", "cloud"),
  ("sky & weather", r"\bumbrella\b", "umbrella"),
  ("place-building", r"\bhouses?\b", "house"),
  ("place-map", r"globe", "globe"),
  ("money", r"banknote", "banknote"),
  ("mail", r"mailbox", "mailbox"),
  ("mail", r"envelope", "envelope"),
  ("sound", r"speaker", "speaker"),
  ("lock", r"lock", "lock"),
  ("light & video", r"camera", "camera"),
  ("light & video", r"magnifying", "magnifying glass"),
  ("hand-single-finger", r"index pointing", "index"),
  ("monkey-face", r"", "monkey face"),
  ("zodiac", r"", "zodiac"),
  (None, r"\bhourglass\b", "hourglass"),
  (None, r"\bthumbs\b", "thumbs"),
  (None, r"\bfist\b", "fist"),
  (None, r"\bmobile phone\b", "mobile phone"),
  (None, r"\bchick\b", "chick"),
  (None, r"\b(dog|poodle)\b", "dog"),
  (None, r"\bcat$|^cat\b", "cat"),
  (None, r"\bcamel\b", "camel"),
  (None, r"\bwhale\b", "whale"),
  (None, r"\bbear$", "bear"),
  (None, r"\bbird$|^bird\b", "bird"),
  (None, r"\b(train|tram|metro|locomotive|monorail)\b", "train"),
  (None, r"\bsnow(man|men)\b", "snowman"),
  (None, r"\bbell\b(?! pepper)", "bell"),
  (None, r"\bpushpin\b", "pushpin"),
  (None, r"\bfolder\b", "folder"),
  (None, r"\b(mer(man|maid|person))\b", "merperson"),
  (None, r"\b(prince|princess|crown)\b", "royalty"),
  (None, r"\bclaus\b", "santa"),
  (None, r"\bbeer\b", "beer"),
  (None, r"\bwheelchair\b", "wheelchair"),
  (None, r"\bcane\b", "cane"),
)


def read(node_modules: pathlib.Path) -> list[dict]:
  """Reads the concepts of emoji-datasource, in Unicode order.

  Returns:
    One record for each: code points (hexadecimal, without variation selector),
    name (plain lower-case words, unique), keywords, category, subcategory, and
    `aliases`, the other names by which an icon set may know it.
  """
  rows = json.loads((node_modules / "emoji-datasource/emoji.json").read_text())
  words = json.loads(
    (node_modules / "emojilib/dist/emoji-en-US.json").read_text()
  )
  keywords = {code_points(glyph): names for glyph, names in words.items()}
  concepts, seen = [], set()
  for row in sorted(rows, key=lambda row: row["sort_order"]):
    if row["category"] in SKIPPED_CATEGORIES:
      continue
    code = row["unified"].lower().replace("-fe0f", "")
    first, *rest = keywords.get(code) or [row["name"], *row["short_names"]]
    name = plain(first)
    # The mirror image of another concept adds nothing but a near-duplicate.
    if name.endswith("facing right") or name in seen:
      continue
    seen.add(name)
    concepts.append(
      dict(
        code=code,
        name=name,
        keywords=list(dict.fromkeys(filter(None, map(plain, rest)))),
        category=row["category"],
        subcategory=row["subcategory"],
        aliases=[first, row["name"] or "", *row["short_names"]],
      )
    )
  return concepts


def code_points(glyph: str) -> str:
  return "-".join(f"{ord(c):x}" for c in glyph if c != "\ufe0f")


def plain(text: str) -> str:
  """Spells out "Piñata_(Party)" as "pinata party"."""
  text = unicodedata.normalize("NFKD", text.replace("’", "'").lower())
  text = text.encode("ascii", "ignore").decode()
  text = " ".join(re.sub(r"[^a-z0-9' ]", " ", text).split())
  # emojilib writes "woman_s_clothes" and "one_o_clock".
  return re.sub(r"(\w\w) s\b", r"\1's", text.replace(" o clock", " o'clock"))


def caption_phrases(concepts: list[dict]) -> list[tuple[str, ...]]:
  """Chooses the phrases for each concept in captions: its name, then keywords.

  The names in HELD_OUT are left out, and so are empty keywords.
  """
  held_out = set(HELD_OUT.values())
  phrases = []
  for concept in concepts:
    kept = [concept["name"]]
    for word in concept["keywords"]:
      useful = len(word) > 2 and not word.isdigit() and len(word.split()) < 5
      if useful and word not in USELESS and word not in kept:
        kept.append(word)
    kept = [phrase for phrase in kept if phrase not in held_out]
    # An odd one out keeps its name in other words rather than no caption.
    kept = kept or [f"{concept['name']} symbol"]
    phrases.append(tuple(kept[:MAX_PHRASES]))
  return phrases


def group_key(concept: dict) -> str:
  """Names the group of near-duplicates that a concept belongs to."""
  for subcategory, pattern, key in FAMILIES:
    right_kind = subcategory in (None, concept["subcategory"])
    if right_kind and re.search(pattern, concept["name"]):
      return key
  words = [w for w in concept["name"].split() if w not in VARIANT_WORDS]
  # "old woman" and "man" have no word left: portraits are one group.
  return " ".join(words) or concept["subcategory"]


def splits(concepts: list[dict], alike: list[tuple[int, int]]) -> list[str]:
  """Assigns each concept to "train", "validation" or "test".

  Near-duplicates go together: those with one `group_key`, and the pairs of
  indices `alike`, whose drawings are the same in some style. Within each
  subcategory the groups are taken in the order of a hash of their key, so
  the split of one concept hardly depends on which others exist.
  """
  group = _unite([group_key(c) for c in concepts], alike)
  members = collections.defaultdict(list)
  for i, key in enumerate(group):
    members[key].append(i)
  by_subcategory = collections.defaultdict(list)
  for key, indices in members.items():
    by_subcategory[concepts[indices[0]]["subcategory"]].append(key)

  result = ["train"] * len(concepts)
  for keys in by_subcategory.values():
    keys = sorted(keys, key=lambda k: hashlib.sha256(k.encode()).hexdigest())
    total = sum(len(members[key]) for key in keys)
    room = {split: round(share * total) for split, share in SHARES.items()}
    for key in keys:
      split = max(room, key=room.get)
      # A group too large to hold out, such as the clock faces, is trained on.
      if len(members[key]) > room[split]:
        continue
      room[split] -= len(members[key])
      for i in members[key]:
        result[i] = split
  return result


def _unite(keys: list[str], pairs: list[tuple[int, int]]) -> list[str]:
  """Merges the groups `keys` [n] wherever a pair of indices joins two."""
  parent = {key: key for key in keys}

  def root(key):
    while parent[key] != key:
      key = parent[key]
    return key

  for i, j in pairs:
    a, b = sorted((root(keys[i]), root(keys[j])))
    parent[b] = a
  return [root(key) for key in keys]
