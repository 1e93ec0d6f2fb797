"""Language enhancement by a grammar: many different texts about one class.

The paper has a language model write sentences around the name of a class
(Section 3.1). Here a small grammar puts the class's related words into
templates, so that the same texts are written everywhere, without a download.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from synthjax.labels import articles
from synthjax.runtime.errors import UserError, unknown_names

# `{word}` is a word of the class; every other slot is one of `slots`.
GRAMMARS = {
  "photo": {
    "templates": (
      "a photo of a {word}",
      "a {quality} photo of a {word}",
      "a photo of a {word} {setting}",
      "a {quality} photo of a {word} {setting}",
    ),
    "slots": {
      "quality": (
        "bright",
        "dark",
        "colourful",
        "blurry",
        "clear",
        "close-up",
        "black and white",
        "low contrast",
        "high contrast",
        "beautiful",
        "cropped",
        "wide-angle",
      ),
      "setting": (
        "in the evening",
        "in the morning",
        "at night",
        "on a sunny day",
        "on a rainy day",
        "in winter",
        "in summer",
        "seen from above",
        "seen from the side",
        "in the distance",
        "in a city",
        "in the countryside",
        "in front of a wall",
        "on a plain background",
        "next to another one",
        "in the middle of the picture",
      ),
    },
  },
  # What the captions of the embedded world look like.
  "drawing": {
    "templates": (
      "{word}",
      "a drawing of {word}",
      "an emoji of {word}",
      "a picture of {word}",
      "a {style} drawing of {word}",
      "a {style} emoji of {word}",
      "{word}, {style}",
    ),
    "slots": {
      "style": (
        "shaded",
        "soft",
        "detailed",
        "simple",
        "plain",
        "glossy three dimensional",
        "shiny",
        "rendered",
        "flat",
        "colourful flat",
        "outlined",
        "cartoon",
      ),
    },
  },
}

DEFAULT = "photo"  # the grammar of a config that names none

Grammar = Mapping[str, Iterable]
_SLOT = re.compile(r"(\b[Aa]n? )?\{(\w*)\}")


def enhance(
  words: Iterable[str],
  num_texts: int,
  *,
  grammar: str | Grammar,
  rng: np.random.Generator,
) -> list[str]:
  """Writes different texts, which use the words evenly.

  Args:
    words: names of the class, or of things that belong to it.
    num_texts: at most so many.
    grammar: a key of GRAMMARS, or a dict like one of them.
    rng: of the choice and the order.

  Returns:
    Distinct texts: num_texts of them, or all there are. As long as no word has
    run out of texts, each has as many as any other, or one more.

  Raises:
    UserError: about an unknown or incomplete grammar.
  """
  forms = read_grammar(grammar)
  words = list(dict.fromkeys(" ".join(word.split()) for word in words))
  # Each word meets the forms in an order of its own.
  orders = [iter(rng.permutation(len(forms))) for _ in words]
  texts, left = {}, list(range(len(words)))
  while left and len(texts) < num_texts:
    # A round takes one text of each word that has any left.
    rng.shuffle(left)
    for i in list(left)[: num_texts - len(texts)]:
      candidates = (_fill(*forms[form], words[i]) for form in orders[i])
      text = next((t for t in candidates if t not in texts), None)
      if text is None:
        left.remove(i)
      else:
        texts[text] = True
  return list(texts)


def read_grammar(grammar: str | Grammar) -> list[tuple[str, dict[str, str]]]:
  """Returns every form of a grammar: a template, and what fills its slots.

  Raises:
    UserError: about an unknown grammar, a template without {word}, or a slot
      that nothing fills.
  """
  if isinstance(grammar, str):
    if grammar not in GRAMMARS:
      raise unknown_names("grammar", [grammar], GRAMMARS)
    grammar = GRAMMARS[grammar]
  if unknown := [key for key in grammar if key not in ("templates", "slots")]:
    raise unknown_names("field of a grammar,", unknown, ("templates", "slots"))
  slots = {k: tuple(v) for k, v in dict(grammar.get("slots") or {}).items()}
  templates, forms = tuple(grammar.get("templates") or ()), []
  if not templates:
    raise UserError("A grammar needs `templates`, such as 'a photo of {word}'.")
  for template in templates:
    names = _slots_of(template)
    if "word" not in names:
      raise UserError(
        f"The template {template!r} has no {{word}}: its texts would be the "
        "same for every class."
      )
    others = [name for name in names if name != "word"]
    if empty := [name for name in others if not slots.get(name)]:
      raise UserError(
        f"Nothing fills {empty} in the template {template!r}; the grammar has "
        f"the slots {sorted(slots) or 'none'}."
      )
    for values in itertools.product(*(slots[name] for name in others)):
      forms.append((template, dict(zip(others, values, strict=True))))
  return forms


def _slots_of(template: str) -> Sequence[str]:
  return list(dict.fromkeys(name for _, name in _SLOT.findall(template)))


def _fill(template: str, values: Mapping[str, str], word: str) -> str:
  """Fills the slots, each behind the right article."""
  values = {**values, "word": word}

  def fill(match):
    article, value = match[1] or "", values[match[2]]
    if article:
      article = article[0] + articles.article_of(value)[1:] + " "
    return article + value

  return _SLOT.sub(fill, template)
