"""The meanings of a class name: "crane" is a bird and a machine.

A generator that is asked for a crane draws one or the other, or both in turn.
The meanings are those of WordNet 3.0 that an image can show, from the table of
`wordnet`. A name is ambiguous if common meanings look nothing alike, as animals
and machines do.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from synthjax.labels import articles, wordnet
from synthjax.runtime.errors import UserError

# --- which meanings of a word are common --------------------------------------
# A meaning is common, it "stands", if it is the usual word of something that
# ImageNet-21K-P has images of, or if WordNet's tagged texts use the word for it
# often enough. The numbers below were chosen by the names that they flag among
# ImageNet's 1,000.

# If one meaning has more tagged uses than COMMON, another one needs this share
# of them.
COMMON, SHARE = 25, 0.05
LEAST_USES, LEAST_SHARE = 2, 0.2  # of a common meaning without pictures
PERSON_USES = 3  # more than figures of speech have


def stands(row: wordnet.Row, lemma: str, uses: int, most: int) -> bool:
  """Returns whether a meaning of a word is common.

  Args:
    row: the meaning.
    lemma: the word.
    uses: of the word in this meaning, in WordNet's tagged texts.
    most: uses of the word's most used meaning.
  """
  if (lemma, row.key) in wordnet.STANDING:
    return True
  if row.single:
    return uses > 0
  usual = row.words[0][0].lower() == lemma
  if row.branch in ("person", "phenomenon") and uses < PERSON_USES:
    # "He is a tiger"; and pictures of microwaves show ovens alone.
    is_known = row.pictured and usual or uses == most > 0
    is_frequent = uses >= LEAST_SHARE * most and most < COMMON
    return is_known and is_frequent and not _is_figure(row)
  if uses < max(most, 1) and re.search(
    rf"\b{re.escape(lemma)}(s|es)?\b", row.gloss
  ):
    return False  # the flesh, fur, ball or player of the other meaning
  if uses == most > 0 or uses >= max(LEAST_USES, LEAST_SHARE * most):
    return True
  is_known = usual or uses >= LEAST_SHARE * most > 0
  return row.pictured and is_known and (most < COMMON or uses >= SHARE * most)


def _is_figure(row: wordnet.Row) -> bool:
  """Returns whether it is a figure of speech for a person: "a skunk"."""
  above = wordnet.table()[0][row.above[0]] if row.above else row
  figures = ("person", "unpleasant person", "unpleasant woman", "large person")
  return above.words[0][0] in figures


# --- meanings of a name -------------------------------------------------------

# Things made by people, which differ by kind where they have one.
UNSPECIFIC = {"device", "thing"}
MADE = set(list(wordnet.BRANCHES.values())[7:]) - {"place", "game"}
# Branches of one look, or of one thing: the plum and its tree.
ALIKE = [
  {"building", "place"},
  {"building", "furniture"},
  {"tool", "weapon"},
  {"tool", "container"},
  {"tool", "sports equipment"},
  {"container", "furniture"},
  {"container", "sports equipment"},
  {"container", "food"},
  {"plant", "food"},
  {"animal", "food"},
]


class Sense(NamedTuple):
  """One meaning of a word."""

  key: str  # ImageNet's id, such as n02012849; "" for one of nouns.YOUNGER
  branch: str  # a value of nouns.BRANCHES
  words: tuple[str, ...]  # all that are used so, the usual one first
  description: str  # what it is, in few words: "a wading bird"
  gloss: str  # WordNet's, shortened
  stands: bool


def senses_of(name: str) -> tuple[Sense, ...]:
  """Returns the meanings of a name that an image can show, likeliest first.

  Case, articles and plurals do not count. A name that WordNet does not know has
  none. Common ones come first. The position is the number of a meaning, from 1.
  """
  lemma = wordnet.find_lemma(name)
  rows, _ = wordnet.table()
  candidates = [
    (rows[i], _use(rows[i], lemma)) for i in wordnet.index().get(lemma, ())
  ]
  most = max((uses for _, (_, uses) in candidates), default=0)
  ranked = []
  for row, (place, uses) in candidates:
    words = tuple(word for word, *_ in row.words)
    sense = Sense(
      row.key,
      row.branch,
      words,
      wordnet.describe(row, lemma),
      row.gloss,
      stands(row, lemma, uses, most),
    )
    ranked.append((not sense.stands, -uses, place, sense))
  senses = [sense for *_, sense in sorted(ranked, key=lambda rank: rank[:3])]
  if lemma in wordnet.YOUNGER:
    branch, text = wordnet.YOUNGER[lemma]
    young = Sense("", branch, (lemma,), text, text, True)
    senses.insert(sum(sense.stands for sense in senses), young)
  return tuple(senses)


def usual_branch(
  names: Iterable[str], *, share: float = 0.5, least: int = 3
) -> str:
  """Returns the branch of most of the classes, such as "animal"; or "".

  Args:
    names: of the classes; those of several meanings do not count.
    share: of the classes, which the branch must exceed.
    least: classes that the branch must have.
  """
  branches = [
    senses[0].branch
    for name in names
    if (senses := senses_of(name)) and not ambiguous(name)
  ]
  most = max(branches, key=branches.count, default="")
  count = branches.count(most)
  return most if count >= least and count > share * len(branches) else ""


def likeliest(name: str, usual: str = "") -> Sense | None:
  """Returns the likeliest meaning, among classes of a `usual` branch."""
  senses = senses_of(name)
  fitting = [s for s in senses if s.stands and s.branch == usual]
  return next(iter((*fitting, *senses)), None)


def ambiguous(name: str, usual: str = "") -> dict[int, Sense]:
  """Returns number -> meaning, one of each look; empty if there is only one.

  Args:
    name: of a class.
    usual: branch of most other classes, from `usual_branch`. Among musical
      instruments, a recorder has two meanings.
  """
  different: dict[int, Sense] = {}
  senses = senses_of(name)
  for number, sense in enumerate(senses, 1):
    others = [other.branch for other in different.values()]
    differs = all(_differ(sense.branch, other) for other in others)
    differs |= not sense.key or wordnet.find_lemma(name) in wordnet.AMBIGUOUS
    if sense.stands and differs:
      different[number] = sense
  if len(different) > 1:
    return different
  fitting = [n for n, s in enumerate(senses, 1) if s.branch == usual]
  if fitting and not senses[fitting[0] - 1].stands:
    first = senses[0]
    # Names of dogs and birds are used for people, but not in pictures.
    if first.branch != "person" and _differ(
      first.branch, usual, strictly=False
    ):
      return {1: first, fitting[0]: senses[fitting[0] - 1]}
  return {}


def choose(name: str, hint: int | str) -> Sense:
  """Returns the meaning that a hint chooses.

  Args:
    name: of a class.
    hint: the number of a meaning, its ImageNet id, or words of it, of its
      branch, of a wider meaning or of its gloss: "bird", "lifting device".

  Raises:
    UserError: listing the meanings, if the hint fits none.
  """
  senses = senses_of(name)
  if not senses:
    raise UserError(
      f"WordNet has no meaning of {name!r} that an image can show; give a "
      f"`description` instead of sense={hint!r}"
    )
  if isinstance(hint, int) or hint.strip().isdigit():
    if 1 <= int(hint) <= len(senses):
      return senses[int(hint) - 1]
  elif keyed := [s for s in senses if s.key and s.key == hint.strip()]:
    return keyed[0]
  else:
    scores = [_fit(sense, _tokens(hint)) for sense in senses]
    if max(scores):
      return senses[scores.index(max(scores))]
  listed = "; ".join(
    f"{number}) {sense.description}" for number, sense in enumerate(senses, 1)
  )
  raise UserError(f"{hint!r} is no meaning of {name!r}. Allowed: {listed}")


def related(sense: Sense, limit: int = 12) -> tuple[str, ...]:
  """Returns other words for a meaning, and for kinds of it.

  Kinds that ImageNet-21K-P has images of come first, level by level. People
  have none, as some of WordNet's words for them insult.
  """
  rows, below = wordnet.table()
  number = wordnet.numbers().get(sense.key)
  if number is None or sense.branch == "person":
    return ()
  # A word that usually means something else would bring the confusion back.
  words = dict.fromkeys(_usual(rows[number]))
  level, seen = [number], {number}
  while level and len(words) < limit:
    level = sorted({kind for i in level for kind in below.get(i, ())} - seen)
    seen |= set(level)
    for i in sorted(level, key=lambda i: not rows[i].pictured):
      if rows[i].key not in wordnet.NOT_NAMED and not rows[i].single:
        words |= dict.fromkeys(_usual(rows[i])[:1])
  return tuple(words)[:limit]


def warnings_of(
  names: Sequence[str], prompt: str, settled: Sequence[str] = ()
) -> list[str]:
  """Returns a line about each ambiguous name, with prompts that settle it.

  Args:
    names: of the classes without a hint.
    prompt: with {} for the name: "a photo of a {}".
    settled: names of the other classes.
  """
  classes = [*names, *settled]
  usual = usual_branch(classes)
  most = usual_branch(classes, share=0, least=1)
  lines = []
  for name in names:
    if senses := ambiguous(name, usual):
      prompts = "  ".join(
        f"{number}) {articles.fill(prompt, f'{name}, {sense.description}')!r}"
        for number, sense in senses.items()
      )
      likely = [n for n, s in senses.items() if s.branch == most]
      number = (likely or list(senses))[0]
      hint = f"{{name: {name}, sense: {number}}}"
      lines.append(f"{name}: {prompts}  -> {hint}")
  return lines


# --- looks ------------------------------------------------------------------


def _differ(one: str, other: str, *, strictly: bool = True) -> bool:
  """Returns whether things of two branches look nothing alike.

  Args:
    one: a branch.
    other: another.
    strictly: made things of no known kind are alike.
  """
  if one == other or "substance" in (one, other) or {one, other} in ALIKE:
    return False
  unspecific = strictly and {one, other} & UNSPECIFIC
  return not (unspecific and {one, other} <= MADE | {"phenomenon"})


# --- words of a meaning -------------------------------------------------------


def _fit(sense: Sense, tokens: Sequence[str]) -> int:
  rows, _ = wordnet.table()
  above, waiting = set(), [wordnet.numbers().get(sense.key)]
  while waiting:
    if (i := waiting.pop()) is not None:
      above |= {word.lower() for word, *_ in rows[i].words}
      waiting += rows[i].above
  weights: Mapping[int, set[str]] = {
    1: set(_tokens(sense.gloss)),
    2: set(_tokens(" ".join([*above, sense.description]))),
    3: set(_tokens(" ".join([sense.branch, *sense.words]))),
  }
  return sum(
    max((w for w, words in weights.items() if token in words), default=0)
    for token in tokens
  )


def _tokens(text: str) -> list[str]:
  words = re.findall(r"[a-z]+", text.lower())
  return [word for word in words if word not in ("a", "an", "the", "of")]


def _usual(row: wordnet.Row) -> list[str]:
  """Returns the words that usually mean this, without scientific names."""
  # "Siamese cat", which is pictured, and not "Pteropus capestratus".
  named, kept = row.branch in ("animal", "plant"), int(row.pictured)
  return [
    word
    for i, (word, place, _) in enumerate(row.words)
    if place == 1 and not (named and i >= kept and word[0].isupper())
  ]


def _use(row: wordnet.Row, lemma: str) -> tuple[int, int]:
  return next((p, n) for word, p, n in row.words if word.lower() == lemma)
