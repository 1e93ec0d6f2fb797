"""The page as a reader has it: in a browser, by mouse, by keyboard, on a phone.

It is opened from disk as it was written, with its policy in force.
"""

import importlib.util
import json

import pytest
from browser import CHROMIUM, BrowserError, open_browser
from page_probes import (
  CONTRAST,
  FOCUS,
  HEADINGS,
  NAMELESS,
  SMALL_TARGETS,
  SMALL_TEXT,
)
from test_report import MAKERS, make_config, make_workdir, write
from test_report_detections import SYN, make_detect
from test_report_few_shot import METHODS, make_encoder, make_few_shot

from synthjax import main
from synthjax.report import paper

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason="needs chromium on the PATH"),
]
PHONE = dict(width=390, height=844, scale=2, mobile=True)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  """Writes a page of all tasks that classify or detect."""
  workdir = make_workdir(tmp_path_factory.mktemp("made_up"), MAKERS)
  make_few_shot(workdir / "few_shot", [*METHODS, "RF", "CoOp"])
  make_encoder(workdir / "tune_encoder")
  make_detect(workdir / "detect")
  write(workdir, make_config(paper=tuple(paper.keys())))
  return workdir / "report"


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
  """Runs the quick start with 64 images and one seed, and exports them."""
  workdir = tmp_path_factory.mktemp("quickstart")
  config = main.load_config("configs/quickstart.py:images_per_class=4")
  config.generate.seeds = config.tune.seeds = (0,)
  config.tasks = (*config.tasks[:-1], "export", "report")
  formats = ["webdataset", "png_folder"]
  if importlib.util.find_spec("pyarrow"):
    formats.append("parquet")
  config.export = dict(formats=formats)
  config.report.paper = ("table1",)
  config.report.price_per_device_hour = 2.5
  main.run_tasks(config, str(workdir))
  return workdir / "report"


@pytest.fixture(scope="module", params=["made_up", "quickstart"])
def folder(request):
  return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def chromium():
  with open_browser() as tab:
    yield tab


@pytest.fixture
def tab(chromium):
  chromium.resize(1280, 900)
  chromium.prefer()
  return chromium


@pytest.fixture
def page(tab, folder):
  tab.open(folder / "report.html")
  return tab


@pytest.fixture
def made_up_page(tab, made_up):
  tab.open(made_up / "report.html")
  return tab


def focused(tab, what="outerHTML.slice(0, 120)"):
  return tab.run(f"document.activeElement.{what}")


def settle(tab):
  """Waits for what the page does when a dialog has closed."""
  tab.run("new Promise((done) => setTimeout(done, 50))")


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


# --- sorting ----------------------------------------------------------------

_COLUMN = """((table, column) => ({{
  order: table.tHead.rows[0].cells[column].getAttribute("aria-sort"),
  sorted: [...table.tHead.rows[0].cells].filter((c) => c.ariaSort).length,
  cells: [...table.tBodies[0].rows].map((row) => row.cells[column].innerText),
}}))(document.querySelectorAll("{tables}")[{index}], {column})"""


def column_of(tab, tables, index, column):
  return tab.run(_COLUMN.format(tables=tables, index=index, column=column))


def test_heads_of_columns_sort_names_and_numbers(page):
  table = "#classes table"
  names = column_of(page, table, 0, 0)
  assert names["order"] is None
  head = f"{table} thead button"
  page.click(head, 0)
  rising = column_of(page, table, 0, 0)
  assert rising["order"] == "ascending" and rising["sorted"] == 1
  collate = "((names) => names.sort((a, b) => a.localeCompare(b)))"
  assert rising["cells"] == page.run(f"{collate}({json.dumps(names['cells'])})")
  page.click(head, 0)
  falling = column_of(page, table, 0, 0)
  assert falling["order"] == "descending"
  assert falling["cells"] == rising["cells"][::-1]

  number = lambda text: float(text.replace("−", "-"))
  for times, order in ((1, "descending"), (2, "ascending")):
    page.click(head, 3)  # the gain; of numbers the largest come first
    found = column_of(page, table, 0, 3)
    assert (found["order"], found["sorted"]) == (order, 1), times
    values = [number(cell) for cell in found["cells"]]
    assert values == sorted(values, reverse=order == "descending")
  assert column_of(page, table, 0, 0)["order"] is None


def test_keys_sort_too(page):
  page.run("document.querySelector('#classes .scroll').focus()")
  page.press("Tab")
  assert focused(page, "innerText").strip() == "class"
  page.press("Enter")
  assert column_of(page, "#classes table", 0, 0)["order"] == "ascending"
  page.press("Space")
  assert column_of(page, "#classes table", 0, 0)["order"] == "descending"
  page.press("Tab")
  page.press("Space")
  assert column_of(page, "#classes table", 0, 1)["order"] == "descending"


def test_methods_are_sorted_by_their_means(made_up_page):
  page = made_up_page
  best = lambda: column_of(page, "#few-shot table", 0, 0)["cells"][0]
  page.click("#few-shot thead button", 1)
  assert best() == "CT w. Syn (RG)"
  page.click("#few-shot thead button", 1)
  assert best() == "CoOp"
  page.click("#accuracy thead button", 1)
  assert column_of(page, "#accuracy table", 0, 0)["cells"][0] == "LE+CF SCE"
  tables = page.run("document.querySelectorAll('#paper h3').length")
  assert tables == len(paper.keys())


def test_every_table_can_be_sorted(page):
  """Whatever is in it: all heads, twice."""
  page.run("""document.querySelectorAll("thead button").forEach((button) => {
    button.click(); button.click(); })""")
  assert page.problems == []
  unsorted = page.run("""[...document.querySelectorAll("table")].filter((t) =>
    t.tHead.querySelectorAll("[aria-sort]").length !== 1)
    .map((t) => t.caption.innerText)""")
  assert unsorted == []


# --- enlarging --------------------------------------------------------------


def entries(tab):
  """Returns what the viewer tells of the image that it shows."""
  return tab.run("""Object.fromEntries([["class",
    viewer.querySelector("h2").innerText], ["src",
    viewer.querySelector(".large").src], ...[...viewer.querySelectorAll("dd")]
    .map((dd) => [dd.dataset.of, dd.innerText])])""")


def thumb(tab, index):
  return tab.run(f"""((t) => ({{...t.dataset,
    src: t.querySelector("img").src}}))(
    document.querySelectorAll(".thumb")[{index}])""")


def same(told, known):
  words = lambda text: " ".join(text.split())
  return all(words(told[key]) == words(known[key]) for key in known)


def test_a_click_enlarges_and_tells_prompt_seed_and_score(page):
  page.click(".thumb", 1)
  assert page.run("viewer.open")
  told = entries(page)
  assert same(told, thumb(page, 1))
  assert all(told[key] for key in ("prompt", "seed", "p_own", "filter", "id"))
  assert page.run("""((i) => i.complete && i.naturalWidth > 0 &&
    i.alt.length > 0 && i.getBoundingClientRect().width >= 200)(
    viewer.querySelector(".large"))""")
  page.click("#viewer .next")
  assert same(entries(page), thumb(page, 2))
  page.click("#viewer .previous")
  assert same(entries(page), thumb(page, 1))
  page.click_at(5, 5)  # beside it
  assert not page.run("viewer.open")


def test_keys_enlarge_walk_and_close(page):
  page.run("document.querySelectorAll('.thumb')[0].focus()")
  page.press("Enter")
  assert page.run("viewer.open")
  page.press("ArrowRight", 2)
  assert same(entries(page), thumb(page, 2))
  page.press("ArrowLeft", 3)
  last = page.run("document.querySelectorAll('.thumb').length") - 1
  assert same(entries(page), thumb(page, last))
  page.press("ArrowRight", 2)
  page.press("Escape")
  assert not page.run("viewer.open")
  settle(page)
  # Focus goes to the image that was seen last.
  assert focused(page, "dataset.id") == thumb(page, 1)["id"]
  page.press("Space")
  assert page.run("viewer.open") and same(entries(page), thumb(page, 1))


def test_keys_stay_in_the_open_dialog(page):
  page.run("document.querySelectorAll('.thumb')[0].focus()")
  page.press("Enter")
  seen = set()
  for shift in (False, True):
    for _ in range(6):
      page.press("Tab", shift=shift)
      # The browser's own bar takes part in the round, and is no element.
      assert page.run("""viewer.contains(document.activeElement) ||
        document.activeElement === document.body""")
      seen.add(focused(page, "className"))
  assert {"previous", "next", "close"} <= seen
  page.run("viewer.querySelector('.close').focus()")
  page.press("Enter")
  assert not page.run("viewer.open")


def test_detections_are_enlarged(made_up_page):
  page = made_up_page
  page.click(".zoom")
  assert page.run("zoom.open")
  page.press("ArrowRight")
  words = page.run("zoom.querySelector('h2').textContent")
  assert words.split(":")[0] == SYN
  assert page.run("zoom.querySelector('svg use').getBBox().width") == 100
  page.press("Escape")
  assert not page.run("zoom.open")
  settle(page)
  assert page.run(
    "document.activeElement === document.querySelectorAll('.zoom')[1]"
  )
  page.press("Enter")
  page.click("#zoom .close")
  assert not page.run("zoom.open")


# --- the keyboard -----------------------------------------------------------


def test_the_first_key_skips_to_the_results(page):
  page.press("Tab")
  assert focused(page, "innerText") == "Skip to the results"
  box = page.run("document.activeElement.getBoundingClientRect().toJSON()")
  assert box["left"] >= 0 and box["top"] >= 0
  page.press("Enter")
  assert page.run("location.hash") == "#main"
  page.press("Tab")
  assert page.run("main.contains(document.activeElement)")


def test_tab_reaches_everything_in_order_with_a_ring(page):
  """All that can be pressed or scrolled, each once, seen where it is."""
  page.run("document.querySelectorAll('details').forEach((d) => d.open = true)")
  page.run("document.documentElement.style.scrollBehavior = 'auto'")
  wanted = page.run("""(() => {
    const all = [...document.querySelectorAll(
      "a[href], button, summary, [tabindex='0']")]
      .filter((e) => !e.closest("dialog"));
    all.forEach((e, i) => e.dataset.nth = i);
    return all.length;
  })()""")
  reached = []
  while len(reached) <= 2 * wanted:
    page.press("Tab")
    found = page.run(FOCUS)
    if found is None:  # a figure that scrolls
      continue
    if reached and found["nth"] == reached[0]:  # once around
      break
    assert found["ring"], found
    assert found["seen"], found
    reached.append(found["nth"])
  assert reached == list(range(wanted))


# --- the driver -------------------------------------------------------------


def test_a_browser_that_dies_is_told(tmp_path):
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
