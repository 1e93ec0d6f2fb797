"""Builds the site of the documentation.

  pip install -e ".[docs]"
  python -m tools.build_site          # into build/site

The pages are those of docs/, README.md as the home page, and a reference from
the docstrings. They are copied, with every file of the repository that they
link to, and MkDocs builds them as docs/mkdocs.yml says: a link, an anchor or a
docstring that is not sound ends the build. It needs no network.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

import synthjax

ROOT = pathlib.Path(__file__).parent.parent
# Pages that lie elsewhere in the repository, and where the site has them.
MOVED = {"README.md": "index.md", "docs/README.md": "index.md"}
_LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def copy_pages(source: pathlib.Path) -> None:
  """Writes pages, reference and mkdocs.yml into the folder `source`."""
  shutil.rmtree(source, ignore_errors=True)
  docs = sorted((ROOT / "docs").glob("*.md"))
  waiting = [f"docs/{path.name}" for path in docs if path.name != "README.md"]
  waiting += ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
  copied = set()
  while waiting:
    path = waiting.pop()
    if path in copied:
      continue
    copied.add(path)
    target = source / "docs" / in_site(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.endswith(".md"):
      text, linked = move_links((ROOT / path).read_text(), path)
      target.write_text(text)
      waiting += linked
    else:
      shutil.copyfile(ROOT / path, target)
  rooms = write_reference(source / "docs" / "reference")
  settings = (ROOT / "docs" / "mkdocs.yml").read_text()
  first = "      - Functions: reference/index.md\n"
  more = "".join(f"      - {room}: reference/{room}.md\n" for room in rooms)
  (source / "mkdocs.yml").write_text(settings.replace(first, first + more))


def move_links(text: str, page: str) -> tuple[str, list[str]]:
  """Returns a page with links as in the site, and the files that it links to.

  Links to what is not in the repository stay as they are, for MkDocs to find.
  """
  linked = []
  here = os.path.dirname(in_site(page))

  def move(match: re.Match) -> str:
    path = os.path.normpath(os.path.join(os.path.dirname(page), match[1]))
    if not (ROOT / path).is_file():
      return match[0]
    linked.append(path)
    return f"]({os.path.relpath(in_site(path), here or '.')}{match[2] or ''})"

  return _LINK.sub(move, text), linked


def in_site(path: str) -> str:
  """Returns where the site has a file of the repository."""
  return MOVED.get(path, path.removeprefix("docs/"))


def write_reference(folder: pathlib.Path) -> list[str]:
  """Writes the pages of the functions and of each room; returns the rooms."""
  folder.mkdir()
  functions = "\n".join(
    f"::: {place.replace(':', '.')}\n    options:\n      heading: sx.{name}\n"
    for name, place in synthjax._LAZY.items()
  )
  (folder / "index.md").write_text(
    "# Functions\n\nWhat `import synthjax as sx` offers;"
    f" [From Python](../python.md) has examples.\n\n{functions}"
  )
  rooms = sorted(p.parent.name for p in ROOT.glob("synthjax/*/__init__.py"))
  for room in rooms:
    (folder / f"{room}.md").write_text(
      f"# synthjax.{room}\n\n::: synthjax.{room}\n    options:\n"
      "      show_submodules: true\n      show_root_heading: false\n"
    )
  return rooms


def build(folder: pathlib.Path) -> int:
  """Builds `folder`/site from `folder`/site_source; returns the exit code."""
  source = folder / "site_source"
  copy_pages(source)
  environment = os.environ | {
    "PYTHONPATH": str(ROOT),  # where the docstrings are read
    "NO_MKDOCS_2_WARNING": "1",  # which advertises the theme's successor
  }
  command = [sys.executable, "-m", "mkdocs", "build", "--quiet"]
  return subprocess.run(command, cwd=source, env=environment).returncode


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.parse_args()
  sys.exit(build(ROOT / "build"))


if __name__ == "__main__":
  main()
