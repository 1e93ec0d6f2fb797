"""The page as a reader has it: in a browser, on a phone, in print.

It is opened from disk as it was written, with its policy in force.
"""

import pytest
from browser import CHROMIUM, BrowserError, open_browser
from page_probes import (
  CONTRAST,
  HEADINGS,
  NAMELESS,
  SMALL_TARGETS,
  SMALL_TEXT,
)

pytest_plugins = ("report_tabs",)  # fixtures
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason="needs chromium on the PATH"),
]
PHONE = dict(width=390, height=844, scale=2, mobile=True)


# --- the whole page ---------------------------------------------------------


def test_it_opens_without_errors_and_asks_for_nothing(page, folder):
  assert page.run("document.images.length") > 10
  for scheme in ("light", "dark"):
    page.prefer(scheme)
    page.run("scrollTo(0, document.documentElement.scrollHeight)")
  assert page.problems == []
  (first, *others) = page.requests
  assert first == (folder / "report.html").as_uri()
  assert {url[:11] for url in others} == {"data:image/"}


def test_every_image_decodes(page):
  """Those in SVG have no `naturalWidth`, and are decoded beside it."""
  broken = page.run("""(async () => {
    const sources = [...document.images].filter((i) => i.hasAttribute("src"))
      .map((i) => i.src).filter((src) => src);
    const drawn = [...document.querySelectorAll("svg image")]
      .map((i) => i.href.baseVal);
    const broken = [];
    for (const src of [...sources, ...drawn]) {
      const image = new Image();
      image.src = src;
      await image.decode().catch(() => broken.push(src.slice(0, 60)));
      if (!image.naturalWidth) broken.push(src.slice(0, 60));
    }
    return broken;
  })()""")
  assert broken == []


SECTIONS = {
  "accuracy": "table tbody tr, svg",
  "classes": "table tbody tr, svg .c0.fill",
  "confusion": "svg .heat",
  "images": ".thumb img",
  "filter": ".thumb.dropped",
  "paper": "table tbody td",
  "prompts": "tbody td",
  "curves": "svg path.line",
  "run": "table tbody tr, pre",
}
ONLY = {
  "made_up": {
    "few-shot": "svg .bar",
    "encoder": "table tbody tr, svg",
    "transfer": "table tbody tr",
    "detection": ".zoom svg",
  },
  "quickstart": {
    "quality": ".twins img",
    "export": "tbody td",
    "cost": "tbody td, svg .c0.fill",
  },
}


def test_every_section_is_there_and_has_its_contents(page, folder, request):
  """A run's summary, images, filter, accuracies, confusions, gains, curves."""
  own = ONLY[request.node.callspec.params["folder"]]
  for name, inside in (SECTIONS | own).items():
    for part in inside.split(", "):
      assert page.run(f"document.querySelectorAll('#{name} {part}').length"), (
        f"#{name} lacks {part}"
      )
  found = page.run("[...document.querySelectorAll('main section[id]')].length")
  assert found >= len(SECTIONS | own)
  tiles = page.run(
    "[...document.querySelectorAll('.tiles strong')].map((t) => t.innerText)"
  )
  assert len(tiles) >= 4 and all(tiles)


def test_links_lead_to_sections(page):
  links = page.run("""[...document.querySelectorAll("nav a")].map((a) =>
    [a.getAttribute("href"), a.innerText,
     document.querySelector(a.getAttribute("href") + " h2")?.innerText])""")
  assert len(links) >= len(SECTIONS)
  for href, words, title in links:
    assert words == title, href
  page.click("nav a", len(links) - 1)
  top = page.run(f"""(async () => {{
    const section = document.querySelector("{links[-1][0]}");
    const top = () => section.getBoundingClientRect().top;
    for (let i = 0; i < 100 && top() >= innerHeight; i++)  // it moves smoothly
      await new Promise((done) => setTimeout(done, 100));
    return top();
  }})()""")
  assert 0 <= top < page.run("innerHeight")
  assert page.run("location.hash") == links[-1][0]


def test_headings_are_in_order_and_pictures_have_names(page):
  levels = page.run(HEADINGS)
  assert levels.count(1) == 1 and levels[0] == 1
  for above, below in zip(levels, levels[1:], strict=False):
    assert below <= above + 1
  assert page.run(NAMELESS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page, scheme):
  """By WCAG's ratio, 4.5 for text."""
  page.prefer(scheme)
  background = page.run("getComputedStyle(document.body).backgroundColor")
  light = sum(map(int, background[4:-1].split(","))) > 3 * 128
  assert light == (scheme == "light")
  found = page.run(CONTRAST)
  assert found["texts"] > 200
  assert found["weak"] == []


def test_it_prints(page):
  page.prefer(media="print")
  for gone in ("nav", ".buttons"):
    assert not page.run(
      f"[...document.querySelectorAll('{gone}')].some((e) => e.offsetHeight)"
    )
  wide = "[document.documentElement.scrollWidth, innerWidth]"
  content, window = page.run(wide)
  assert content <= window
  # What scrolls on a screen would be cut off on paper.
  assert not page.run("""[...document.querySelectorAll(".scroll, pre")]
    .filter((e) => e.scrollHeight > e.clientHeight + 1).length""")
  assert page.pdf().startswith(b"%PDF")


def test_reduced_motion_is_respected(page):
  motion = "getComputedStyle(document.documentElement).scrollBehavior"
  assert page.run(motion) == "smooth"
  page.prefer(motion="reduce")
  assert page.run(motion) == "auto"


# --- a phone ----------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_scrolls_it_in_one_direction(page, width):
  page.resize(**PHONE | {"width": width})
  page.run("document.querySelectorAll('details').forEach((d) => d.open = true)")
  content, window = page.run(
    "[document.documentElement.scrollWidth, innerWidth]"
  )
  assert window == width and content <= width


def test_on_a_phone_letters_can_be_read_and_targets_hit(page):
  page.resize(**PHONE)
  page.run("document.querySelectorAll('details').forEach((d) => d.open = true)")
  assert page.run(SMALL_TEXT) == []
  assert page.run(SMALL_TARGETS) == []


def test_a_phone_enlarges_images_within_its_window(page):
  page.resize(**PHONE)
  page.click(".thumb")
  box = page.run("viewer.getBoundingClientRect().toJSON()")
  assert box["left"] >= 0 and box["right"] <= 390
  assert box["top"] >= 0 and box["bottom"] <= 844


# --- the driver -------------------------------------------------------------


def test_a_browser_that_dies_is_reported(tmp_path):
  (tmp_path / "page.html").write_text("<h1>A page</h1>")
  with open_browser() as tab:
    tab.open(tmp_path / "page.html")
    assert tab.run("document.querySelector('h1').innerText") == "A page"
    with pytest.raises(BrowserError, match="Chromium has ended, exit code"):
      tab.call("Browser.crash")
    with pytest.raises(BrowserError, match="Chromium has ended"):
      tab.run("1")


def test_what_a_page_does_wrong_is_noticed(tab, tmp_path):
  """Or else the tests above would find nothing whatever happened."""
  path = tmp_path / "page.html"
  path.write_text(
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'\">"
    '<img src="https://pictures.invalid/a.png"><h1>A</h1><h3>B</h3>'
    '<p style="color: #aaa; background: #fff; font-size: 9px">pale</p>'
    "<button style='width: 9px; height: 9px; padding: 0'></button>"
    "<script>console.error('said'); missing()</script>"
  )
  tab.open(path)
  problems = " ".join(tab.problems)
  for words in ("Content Security Policy", "console.error: said", "missing is"):
    assert words in problems
  assert "https://pictures.invalid/a.png" in tab.requests
  with pytest.raises(BrowserError, match="nowhere is not defined"):
    tab.run("nowhere")
  assert tab.run(HEADINGS) == [1, 3]
  assert len(tab.run(NAMELESS)) == 2  # the image and the button
  (weak,) = tab.run(CONTRAST)["weak"]
  assert "pale" in weak
  assert len(tab.run(SMALL_TEXT)) == len(tab.run(SMALL_TARGETS)) == 1
