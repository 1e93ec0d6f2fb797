"""Every command, link and file in the documentation is sound.

Flags, fields, files and names are checked here, by `doc_commands`;
`test_docs_run` runs what a CPU can run.
"""

import ast
import json
import pathlib
import re

import pytest
from doc_blocks import (
  LANGUAGES,
  NOTEBOOK,
  ROOT,
  all_commands,
  headings,
  inline,
  links,
  notebook,
  pages,
  read,
)
from doc_commands import check

from synthjax import main
from synthjax.config.arguments import unknown_fields

pytest_plugins = ("doc_workspace",)  # fixtures

PAGES = pages()
# Here the checks of tasks take half a minute, as they outline large networks.
SLOW = ("docs/paper.md",)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_sound(page, workspace, launcher):
  workspace(page)
  launcher.check_tasks = page not in SLOW
  check_all(page, launcher)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_tasks_take_the_fields_of_every_command(page, workspace, launcher):
  workspace(page)
  check_all(page, launcher)


def check_all(page, launcher):
  for command in all_commands(page):
    try:
      check(command, launcher)
    except Exception as error:
      raise AssertionError(f"{command.where}: {command.text}") from error


@pytest.mark.parametrize("page", PAGES)
def test_links_images_files_and_languages_are_there(page):
  for target in links(page):
    if "://" in target:  # to others: by its syntax alone
      assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[^\s<>]*)?", target)
      continue
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.exists(), f"{page}: {target}"
    if anchor:
      assert anchor in headings(str(file.resolve().relative_to(ROOT))), target
  for block in read(page)[0]:
    assert block.language in LANGUAGES, block.where
  places = r"(?:synthjax|tests|configs|launch|benchmarks|docs)/[\w/.]+"
  for text in inline(page):
    if re.fullmatch(places, text) and "NAME" not in text:
      assert (ROOT / text).exists(), f"{page}: {text}"


def test_configs_and_fields_in_the_prose_are_there(workspace):
  workspace()
  known = [
    main.load_config(f"configs/{path.name}{arg}")
    for path in (ROOT / "configs").glob("*.py")
    for arg in ("", ":runlocal")
  ]
  for page in PAGES:
    for text in inline(page):
      if re.fullmatch(r"configs/\w+\.py:.*", text):
        main.load_config(text)
      for field in re.findall(r"--config\.([\w.]+)=", text):
        assert any(
          unknown_fields(config, [field], main.fields_of) is None
          for config in known
        ), f"{page}: {text}"


def test_every_config_task_and_page_is_named():
  runs = (ROOT / "docs/runs.md").read_text()
  for path in (ROOT / "configs").glob("*.py"):
    assert f"configs/{path.name}" in runs, path.name
  assert all(f"`{task}`" in runs for task in main.TASKS)
  index = links("docs/README.md")
  assert all(f"{pathlib.Path(page).name}" in index for page in PAGES[3:])


def test_commands_in_the_docstrings_of_configs_load(workspace):
  workspace()
  for path in sorted((ROOT / "configs").glob("*.py")):
    text = ast.get_docstring(ast.parse(path.read_text()))
    for arg in re.findall(r"--config=(?:configs/\w+\.py|\.{3}):(\S+)", text):
      main.load_config(f"configs/{path.name}:{arg}")


def test_pages_in_the_docstrings_of_configs_speak_of_the_config():
  """Of itself, or of another one that the docstring names."""
  for path in sorted((ROOT / "configs").glob("*.py")):
    text = ast.get_docstring(ast.parse(path.read_text()))
    names = {f"{path.stem}.py", *re.findall(r"\w+\.py", text)}
    for page in re.findall(r"[\w/]+\.md", text):
      found = set(re.findall(r"\w+\.py", (ROOT / page).read_text()))
      assert names & found, f"{path.name}: {page}"


def test_the_notebook_is_python_and_kept_without_outputs():
  for cell in notebook():
    assert ast.parse(cell.text), cell.where
  book = json.loads((ROOT / NOTEBOOK).read_text())
  for cell in book["cells"]:
    assert not cell.get("outputs") and not cell.get("execution_count")
    for link in re.findall(r"\]\(([^)]+)\)", "".join(cell["source"])):
      assert (ROOT / "docs" / link).exists(), link
