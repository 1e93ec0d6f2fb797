"""Scripts that look at a page for what a reader would trip over.

Each is an expression of JavaScript for `browser.Tab.run`.
"""

# The levels of the headings that are there to be read, in their order.
HEADINGS = """[...document.querySelectorAll("h1, h2, h3, h4, h5, h6")]
  .filter((h) => !h.closest("dialog")).map((h) => +h.tagName[1])"""

# Images without a text in their place, charts and controls without a name.
NAMELESS = """(() => {
  const told = (e) => (e.getAttribute("aria-label") || e.textContent ||
    e.title || "").trim();
  const short = (e) => e.outerHTML.slice(0, 90);
  const images = [...document.images].filter((i) => !i.closest("dialog"))
    .filter((i) => !i.alt.trim());
  const charts = [...document.querySelectorAll("svg")].filter((s) =>
    !s.hasAttribute("aria-hidden") && s.closest("[aria-hidden]") === null &&
    !(s.getAttribute("role") === "img" && s.getAttribute("aria-label")));
  const controls = [...document.querySelectorAll("button, a, summary")]
    .filter((e) => !told(e) && ![...e.querySelectorAll("img, svg")].some(
      (i) => i.alt || i.getAttribute("aria-label")));
  const tables = [...document.querySelectorAll("table")]
    .filter((t) => !t.caption || !t.caption.textContent.trim());
  return [...images, ...charts, ...controls, ...tables].map(short);
})()"""

# Texts whose colour is too near to that behind them: 4.5 is WCAG's AA. Colours
# that let others through are laid over them. In a chart, the last shape below
# a text is behind it; on an image a text needs a halo.
CONTRAST = """(() => {
  const parse = (c) => {
    const n = c.match(/[\\d.]+/g).map(Number);
    return {rgb: n.slice(0, 3), a: n.length > 3 ? n[3] : 1};
  };
  const over = (top, below) =>
    top.rgb.map((x, i) => x * top.a + below[i] * (1 - top.a));
  const behind = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      layers.push(parse(style.backgroundColor));
      if (at.tagName === "DIALOG") break;
    }
    return layers.reverse().reduce((sum, l) => over(l, sum), [255, 255, 255]);
  };
  const shape = (text) => {
    const box = text.getBoundingClientRect();
    const middle = [box.x + box.width / 2, box.y + box.height / 2];
    let found = null;
    for (const s of text.ownerSVGElement.querySelectorAll("rect, image, use")) {
      if (s.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_PRECEDING)
        continue;
      const b = s.getBoundingClientRect();
      if (b.left <= middle[0] && middle[0] <= b.right &&
          b.top <= middle[1] && middle[1] <= b.bottom) found = s;
    }
    return found;
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => x / 255)
      .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const weak = [];
  let texts = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.getClientRects().length ||
        ["SCRIPT", "STYLE", "TITLE", "title"].includes(e.tagName)) continue;
    texts += 1;
    const style = getComputedStyle(e), svg = e.ownerSVGElement;
    let ground = behind(svg || e);
    if (svg) {
      const s = shape(e), halo = style.paintOrder.startsWith("stroke") &&
        parseFloat(style.strokeWidth) >= 2;
      if (halo) ground = over(parse(style.stroke), ground);
      else if (s && s.tagName !== "rect") {
        weak.push(`on an image: "${e.textContent.trim().slice(0, 40)}"`);
      } else if (s && getComputedStyle(s).fill !== "none") {
        const of = getComputedStyle(s), fill = parse(of.fill);
        fill.a *= of.fillOpacity;
        ground = over(fill, ground);
      }
    }
    const ink = over(parse(svg ? style.fill : style.color), ground);
    const found = ratio(ink, ground);
    if (found < 4.5) weak.push(`${found.toFixed(2)} ${e.tagName}.` +
      `${e.getAttribute("class")} "${e.textContent.trim().slice(0, 40)}"`);
  }
  return {texts, weak: [...new Set(weak)].slice(0, 20)};
})()"""

# Texts whose letters are smaller than 11 px, as they are shown.
SMALL_TEXT = """(() => {
  const small = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.getClientRects().length ||
        ["SCRIPT", "STYLE", "TITLE", "title"].includes(e.tagName)) continue;
    let size = parseFloat(getComputedStyle(e).fontSize);
    const svg = e.ownerSVGElement;
    if (svg && svg.viewBox.baseVal.width)
      size *= svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    if (size < 10.9) small.push(`${size.toFixed(1)} ${e.tagName}: ` +
      e.textContent.trim().slice(0, 40));
  }
  return [...new Set(small)].slice(0, 20);
})()"""

# What can be pressed and is smaller than 24 px, as WCAG 2.2 asks.
SMALL_TARGETS = """[...document.querySelectorAll("a, button, summary")]
  .filter((e) => e.getClientRects().length && !e.matches(".skip"))
  .map((e) => [e, e.getBoundingClientRect()])
  .filter(([, box]) => Math.min(box.width, box.height) < 24)
  .map(([e, box]) => `${box.width.toFixed()} x ${box.height.toFixed()}: ` +
    e.outerHTML.slice(0, 90)).slice(0, 20)"""

# What has the focus: its `data-nth`, whether a ring is drawn around it, and
# whether it is in the window and not below what sticks to its top.
FOCUS = """(() => {
  const e = document.activeElement;
  if (!e.dataset.nth) return null;
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  const bar = document.querySelector("nav").getBoundingClientRect();
  const under = e.closest("nav, header") || e.matches(".skip") ? 0 : bar.bottom;
  return {nth: +e.dataset.nth, what: e.outerHTML.slice(0, 90),
    at: [box.top, box.bottom, bar.bottom, innerHeight],
    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: box.bottom > under && box.top < innerHeight};
})()"""
