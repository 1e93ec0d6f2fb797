"""The site of the documentation: its pages, its links, and that it builds."""

import importlib.util
import os

import pytest
from doc_blocks import ROOT, pages

from tools import build_site


def test_every_page_is_in_the_navigation():
  settings = (ROOT / "docs/mkdocs.yml").read_text()
  for page in pages():
    assert f": {build_site.in_site(page)}\n" in settings, page


@pytest.mark.parametrize(
  ("page", "link", "moved", "file"),
  [
    ("README.md", "docs/tpu.md#a-b", "tpu.md#a-b", "docs/tpu.md"),
    ("docs/tpu.md", "../README.md", "index.md", "README.md"),
    ("docs/README.md", "../LICENSE", "LICENSE", "LICENSE"),
    ("benchmarks/visits/README.md", "../../docs/tpu.md", "../../tpu.md", None),
    ("docs/tpu.md", "gone.md", "gone.md", ""),
    ("docs/tpu.md", "#a-b", "#a-b", ""),
    ("docs/tpu.md", "https://a.org/docs/b.md", "https://a.org/docs/b.md", ""),
  ],
)
def test_links_lead_to_the_same_page_of_the_site(page, link, moved, file):
  text, linked = build_site.move_links(f"[a](x.md) [text]({link})", page)
  assert text == f"[a](x.md) [text]({moved})"
  assert linked == ([file or "docs/tpu.md"] if file != "" else [])


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path, capfd):
  """Strictly: links, anchors, pages and docstrings are as they should be."""
  if importlib.util.find_spec("mkdocs") is None:
    assert "CI" not in os.environ, "mkdocs is in the extra `docs`"
    pytest.skip("mkdocs is not installed")
  code = build_site.build(tmp_path)
  assert code == 0, capfd.readouterr().err
  home = (tmp_path / "site/index.html").read_text()
  assert 'href="python.html"' in home and "docs/" not in home
  reference = (tmp_path / "site/reference/index.html").read_text()
  assert "sx.load_generator" in reference
