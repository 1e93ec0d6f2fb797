"""Reads a report page: its tags, texts and tables."""

from html.parser import HTMLParser

TO = "\u00a0to\u00a0"  # between the ends of an interval
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
  """Collects tags, texts and tables, and notices tags that do not match."""

  def __init__(self, html):
    super().__init__()
    self.open, self.tags, self.text, self.tables = [], [], [], []
    self.feed(html)
    self.close()
    assert not self.open, f"never closed: {self.open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)
    if tag == "table":
      self.tables.append({"caption": "", "rows": []})
    elif tag == "tr":
      self.tables[-1]["rows"].append([])
    elif tag in ("td", "th"):
      self.tables[-1]["rows"][-1].append("")

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open and self.open.pop() == tag, f"stray </{tag}>"

  def handle_data(self, data):
    if self.open and self.open[-1] not in ("style", "script"):
      self.text.append(data)
    if "td" in self.open or "th" in self.open:
      self.tables[-1]["rows"][-1][-1] += data
    elif "caption" in self.open:
      self.tables[-1]["caption"] += data

  def of(self, tag, kind=None):
    return [
      attrs
      for name, attrs in self.tags
      if name == tag and (not kind or kind in attrs.get("class", "").split())
    ]

  def table(self, caption):
    (found,) = [t for t in self.tables if t["caption"].startswith(caption)]
    return found["rows"]
