"""Chooses "a" or "an" before a word.

Only our sentences need it: those of `prompts.sentences`, and those
of a user's own label space. Built-in label spaces fill their templates as they
were published: "a photo of a umbrella." is what the paper's numbers, and
CLIP's, were measured with.
"""

import re
import unicodedata

# Letters whose names begin with a vowel: an MRI, an x-ray; but a UFO.
_LETTERS = set("aefhilmnorsx")
# Read letter by letter, though they look like words.
_SPELLED = {"HIV", "LED", "SUV", "USB"}
# Vowels that are spoken as "you" or "won": a unicorn, a euro, a one-way sign.
_A = re.compile(
  r"eu|ew|oui|one(?![ir])|once\b|uni(?![dmn])|unanim"
  r"|u(?:bi|fo|k|r[aeio]|s[aeu]|t[aeio]|v)"
)
# A silent h; and numbers.
_AN = re.compile(r"heir|honest|honou?r|hour|8|1[18](?!\d)")
_BEFORE_SLOT = re.compile(r"\b([Aa])n? (?=\{\})")


def article_of(phrase: str) -> str:
  """Returns "a" or "an", by the spelling of the first word."""
  match = re.search(r"\w+", phrase)
  word = match[0] if match else ""
  # "éclair" begins with an e.
  plain = unicodedata.normalize("NFKD", word)[:1].lower()
  if _is_spelled(word):
    return "an" if plain in _LETTERS else "a"
  if _AN.match(word.lower()):
    return "an"
  vowel = plain in set("aeiou") and not _A.match(word.lower())
  return "an" if vowel else "a"


def fill(template: str, phrase: str) -> str:
  """Writes a phrase for {}, after the right article.

  Only "a" or "an" right before the {} is changed.
  """
  ending = article_of(phrase)[1:]
  template = _BEFORE_SLOT.sub(rf"\g<1>{ending} ", template)
  return template.replace("{}", phrase)


def _is_spelled(word: str) -> bool:
  """Returns whether a word is spelled out: "MRI", or the "f" of f-hole."""
  if len(word) == 1 or word in _SPELLED:
    return not word.isdigit()
  if not word.isupper() or not word.isalpha():
    return False
  # "SAW" and "NASA" are words; "MRI", "HDTV" and "UFO" are not.
  return not re.match(r"[^AEIOUY][AEIOUY]", word) and (
    len(word) < 4 or not set(word) & set("AEIOUY")
  )
