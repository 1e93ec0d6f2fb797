"""What the pages hold besides prose: commands, code and files.

An indented block holds commands, and so does a fenced one of `bash` or of no
language. One of `python` is run, unless its first line is a comment that names
a file: then it is that file, as is one of `yaml`. Others (`text`) are only
shown.
"""

import json
import pathlib
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from synthjax.__main__ import COMMANDS as COMMANDS_OF_US

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = "docs/quick_start.ipynb"
COMMANDS = ("", "bash", "sh")
LANGUAGES = (*COMMANDS, "python", "yaml", "json", "text")
_ENVIRONMENT = re.compile(r"[A-Z_]+=.*")


class Block(NamedTuple):
  """One block of code."""

  page: str
  line: int
  language: str  # of LANGUAGES; "" for an indented one
  text: str

  @property
  def where(self) -> str:
    return f"{self.page}:{self.line}"

  @property
  def file(self) -> str | None:
    """The file that its first line says it is."""
    found = re.match(r"# ([\w./]+\.(?:py|yaml|json))\n", self.text)
    return found[1] if found and self.language not in COMMANDS else None


class Command(NamedTuple):
  """One command line."""

  where: str
  environment: dict[str, str]
  words: list[str]

  @property
  def text(self) -> str:
    return " ".join(self.words)


def pages() -> list[str]:
  return [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
  ]


def read(page: str) -> tuple[list[Block], str]:
  """Returns the blocks of a page in order, and its prose without them."""
  blocks, prose, lines = [], [], (ROOT / page).read_text().splitlines()
  i = 0
  while i < len(lines):
    fence = re.fullmatch(r"```(\w*)", lines[i])
    indented = lines[i].startswith("    ") and not prose[-1].strip()
    if not fence and not indented:
      prose.append(lines[i])
      i += 1
      continue
    start = i = i + bool(fence)
    if fence:
      while lines[i] != "```":
        i += 1
      body, language = lines[start:i], fence[1]
    else:
      while i < len(lines) and (lines[i].startswith("    ") or not lines[i]):
        i += 1
      body, language = [line[4:] for line in lines[start:i]], ""
    text = "\n".join(body).rstrip() + "\n"
    blocks.append(Block(page, start + 1, language, text))
    prose.append("")
    i += bool(fence)
  return blocks, "\n".join(prose)


def notebook() -> list[Block]:
  """Returns the code of the notebook's cells, without installing anything."""
  cells = json.loads((ROOT / NOTEBOOK).read_text())["cells"]
  install = "!pip install --quiet synthjax-*.whl"  # the only line of a shell
  return [
    Block(NOTEBOOK, i, "python", "".join(cell["source"]).replace(install, "1"))
    for i, cell in enumerate(cells)
    if cell["cell_type"] == "code"
  ]


def commands(block: Block) -> list[Command]:
  """Returns the commands of a block; those of other languages have none."""
  if block.language not in COMMANDS:
    return []
  text = block.text.replace("\\\n", " ")
  return [
    _command(block.where, line)
    for line in text.splitlines()
    if line.strip() and not line.lstrip().startswith("#")
  ]


def inline(page: str) -> Iterator[str]:
  """Yields what stands between backticks in the prose of a page."""
  _, prose = read(page)
  for paragraph in prose.split("\n\n"):
    yield from re.findall(r"(?<!`)`([^`]+)`", " ".join(paragraph.split()))


def inline_commands(page: str) -> list[Command]:
  """Returns the commands that stand in the prose of a page."""
  starts = ("python -m ", "synthjax ", "bash ", "pip ")
  return [
    _command(page, text) for text in inline(page) if text.startswith(starts)
  ]


def all_commands(page: str) -> list[Command]:
  """Returns the commands of a page: of its blocks, and of its prose."""
  blocks, _ = read(page)
  return [c for b in blocks for c in commands(b)] + inline_commands(page)


def links(page: str) -> list[str]:
  """Returns the targets of all links and images of a page."""
  return re.findall(r"\]\(([^)\s]+)\)", read(page)[1])


def headings(page: str) -> set[str]:
  """Returns the anchors of a page's headings, as GitHub makes them."""
  titles = re.findall(r"^#+ (.*)$", read(page)[1], re.MULTILINE)
  plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
  return {title.replace(" ", "-") for title in plain}


def _command(where: str, line: str) -> Command:
  words, environment = shlex.split(line, comments=True), {}
  while words and _ENVIRONMENT.fullmatch(words[0]):
    name, _, value = words.pop(0).partition("=")
    environment[name] = value
  return Command(where, environment, _as_module(words))


def _as_module(words: list[str]) -> list[str]:
  """Returns `python -m MODULE ...` for `synthjax COMMAND ...`."""
  if words[0] != "synthjax":
    return words
  command, *rest = words[1:]
  module, _ = COMMANDS_OF_US[command]
  if command == "run" and not rest[0].startswith("-"):
    rest = [f"--config={rest[0]}", *rest[1:]]
  return ["python", "-m", module.removesuffix(".__main__"), *rest]
