"""Which language model writes prompts, and how, from fields of plain data.

The fields are those of `writer` of the task `prompts`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from synthjax.errors import (
  COUNT,
  FLAG,
  NOT_NEGATIVE,
  SHARE,
  TEXT,
  WHOLE,
  Kind,
  UserError,
  one_of,
  unknown_names,
)
from synthjax.text import sentences

PER_CLASS, WRITER = 200, "grammar"
# The fields of a writer's block, and the paper's values.
WRITERS = {
  "t5": {
    "weights": None,
    "tokenizer": None,  # its spiece.model
    "dtype": "float32",
    "batch_size": 256,
    "max_length": 20,  # tokens, with the start
    "temperature": 1.0,  # 0: always the likeliest token
    "top_k": 50,  # 0: all
    "top_p": 1.0,
    "num_samples": None,  # of a class, at a time; None: per_class + 50
    "article": False,  # "a" before the name, as in the authors' EuroSAT labels
    "sentence_template": None,  # with {}; None: the space's first prompt
    # Filters, none of which the paper has; see `text.sentences.Filters`.
    "contains_class": False,
    "min_words": 0,
    "max_words": 0,
    "blocklist": (),  # words, or a file with one on each line
  },
}
KNOWN = {
  "name": one_of(WRITERS),
  "weights": TEXT,
  "tokenizer": TEXT,
  "dtype": one_of(("float32", "bfloat16")),
  "batch_size": COUNT,
  "max_length": COUNT,
  "temperature": NOT_NEGATIVE,
  "top_k": WHOLE,
  "top_p": SHARE,
  "num_samples": COUNT,
  "article": FLAG,
  "sentence_template": TEXT,
  "contains_class": FLAG,
  "min_words": WHOLE,
  "max_words": WHOLE,
  "blocklist": Kind(
    lambda x: isinstance(x, str | tuple | list), "words, or the name of a file"
  ),
}


def read(
  block: Mapping[str, Any], validate: Callable[..., None]
) -> dict[str, Any] | None:
  """Returns every field of the writer's block, or None for the grammar.

  Args:
    block: of the task `prompts`.
    validate: (fields, known names, name=, required=), which raises a UserError
      about names that are not known and those that lack.

  Raises:
    UserError: about an unknown writer or field, or listing every bad value.
  """
  writer = block.get("writer", WRITER)
  if writer == WRITER or "enhanced" not in block["strategies"]:
    return None
  name = writer.get("name") if isinstance(writer, Mapping) else writer
  if name not in WRITERS:
    raise unknown_names("prompts.writer", [name], [WRITER, *WRITERS])
  if not isinstance(writer, Mapping):
    raise UserError(
      f"config.prompts.writer={name!r} needs a block: dict(name={name!r}, "
      "weights=..., tokenizer=...)."
    )
  if "grammar" in block:
    raise UserError(
      f"config.prompts has a grammar and the writer {name!r}, which reads "
      "none: leave one of them out."
    )
  validate(writer, KNOWN, name="prompts.writer", required=("name",))
  writer = WRITERS[name] | dict(writer)
  if writer["num_samples"] is None:
    writer["num_samples"] = block.get("per_class", PER_CLASS) + 50
  template = writer["sentence_template"]
  wrong = {
    "max_length": writer["max_length"] < 2,
    "top_p": not 0 < writer["top_p"] <= 1,
    "max_words": 0 < writer["max_words"] < writer["min_words"],
    "sentence_template": template is not None and template.count("{}") != 1,
  }
  if bad := [
    f"{key}={writer[key]!r}" for key, is_bad in wrong.items() if is_bad
  ]:
    raise UserError(
      f"config.prompts.writer has {', '.join(bad)}. Needed: max_length of 2 "
      "or more, top_p in (0, 1], max_words of min_words or more (or 0), and "
      "one {} in sentence_template."
    )
  writer["blocklist"] = _blocklist(writer["blocklist"])
  return writer


def _blocklist(listed: Any) -> tuple[str, ...]:
  if not isinstance(listed, str):
    return tuple(listed)
  try:
    lines = epath.Path(listed).expanduser().read_text().splitlines()
  except OSError as error:
    raise UserError(
      f"Cannot read config.prompts.writer.blocklist={listed!r}: {error}. It is "
      "a file with one word on each line, or a tuple of words."
    ) from error
  return sentences.read_blocklist(lines)
