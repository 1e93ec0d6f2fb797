"""What a reader may do with the page: sort, enlarge images, go by keyboard."""

import json

import pytest
from browser import CHROMIUM
from made_up_run import SYN
from page_probes import FOCUS

from synthjax.report import paper_comparison

pytest_plugins = ("report_tabs",)  # fixtures
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not CHROMIUM, reason="needs chromium on the PATH"),
]


def focused(tab, what="outerHTML.slice(0, 120)"):
  return tab.run(f"document.activeElement.{what}")


def settle(tab):
  """Waits for what the page does when a dialog has closed."""
  tab.run("new Promise((done) => setTimeout(done, 50))")


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
  assert tables == len(paper_comparison.keys())


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
  """Returns the facts that the viewer shows about its image."""
  return tab.run("""Object.fromEntries([["class",
    viewer.querySelector("h2").innerText], ["src",
    viewer.querySelector(".large").src], ...[...viewer.querySelectorAll("dd")]
    .map((dd) => [dd.dataset.of, dd.innerText])])""")


def thumb(tab, index):
  return tab.run(f"""((t) => ({{...t.dataset,
    src: t.querySelector("img").src}}))(
    document.querySelectorAll(".thumb")[{index}])""")


def same(shown, facts):
  words = lambda text: " ".join(text.split())
  return all(words(shown[key]) == words(facts[key]) for key in facts)


def test_a_click_enlarges_and_shows_prompt_seed_and_score(page):
  page.click(".thumb", 1)
  assert page.run("viewer.open")
  shown = entries(page)
  assert same(shown, thumb(page, 1))
  assert all(shown[key] for key in ("prompt", "seed", "p_own", "filter", "id"))
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
