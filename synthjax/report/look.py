"""The style of the page."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fcfcfa; --panel: #f3f2ee; --ink: #1d1c1a; --soft: #5d5a54;
  --line: #d9d6ce; --link: #1c5cb8;
  --c0: #2563b8; --c1: #b54c06; --c2: #0b7a5b; --c3: #8536a8; --c4: #8f6b00;
  --c5: #b8275a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #171716; --panel: #222220; --ink: #ecebe6; --soft: #aaa79f;
    --line: #3c3b37; --link: #8db8ff;
    --c0: #74a5f5; --c1: #f0935a; --c2: #4cc39f; --c3: #c78ee2; --c4: #d8b64a;
    --c5: #f07fa4;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 5.5rem; }
body {
  margin: 0 auto; padding: 0 1rem 4rem; max-width: 76rem;
  background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
h1 { margin: 2rem 0 .25rem; font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 3rem 0 .75rem; font-size: 1.35rem; }
h3 { margin: 1.5rem 0 .5rem; font-size: 1.05rem; }
h4 { margin: 0 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; max-width: 70ch; }
h1, h3, h4, p, dd { overflow-wrap: anywhere; }
td, th { overflow-wrap: break-word; }
a { color: var(--link); }
.note, .strategy, figcaption, caption { color: var(--soft); font-size: .85rem; }
.note { font-weight: normal; max-width: none; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--page); z-index: 2; }

nav {
  position: sticky; top: 0; z-index: 2; margin: 1rem -1rem 0;
  padding: .5rem 1rem;
  background: var(--page); border-bottom: 1px solid var(--line);
}
nav a { display: inline-block; margin-right: .85rem; padding: .15rem 0;
  text-decoration: none; }
nav a:hover { text-decoration: underline; }

.tiles { display: grid; gap: .75rem; margin: 1.25rem 0 .5rem; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr));
  list-style: none; }
.tiles li { padding: .75rem 1rem; border-radius: .5rem;
  background: var(--panel); }
.tiles strong { display: block; font-size: 1.6rem; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.tiles strong small { font-size: .95rem; font-weight: normal;
  white-space: nowrap; display: inline-block; }
.tiles span { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }

/* A shade at the right edge tells that there is more. */
.scroll { overflow: auto; margin: .75rem 0; max-width: 100%; background:
  linear-gradient(var(--page), var(--page)) right / 1rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .75rem 100%
    no-repeat; }
.long { max-height: 44rem; }
.long thead { position: sticky; top: 0; background: var(--page); }
table { border-collapse: collapse; font-size: .9rem; }
/* Wide tables scroll, and what they are stays in sight. */
caption { text-align: left; padding-bottom: .35rem; position: sticky; left: 0;
  max-width: calc(100vw - 2rem); }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); min-width: 3.5rem; }
tbody th { font-weight: normal; min-width: 7.5rem; max-width: 18rem; }
td small, th small { display: block; color: var(--soft); font-size: .8rem;
  white-space: nowrap; }
td.number { white-space: nowrap; }
.remark { color: var(--c1); font-size: .85rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
thead th { border-bottom: 2px solid var(--soft); vertical-align: bottom;
  padding: 0; }
thead button { width: 100%; padding: .3rem .6rem; border: 0; background: none;
  color: inherit; font: inherit; font-weight: 600; text-align: inherit;
  cursor: pointer; overflow-wrap: normal; }
thead button:hover { background: var(--panel); }
[aria-sort="ascending"] button::after { content: " \\2191"; }
[aria-sort="descending"] button::after { content: " \\2193"; }
/* The names of the rows stay when a table scrolls sideways. */
tbody th, thead th:first-child { position: sticky; left: 0;
  background: var(--page); }
tbody tr:hover, tbody tr:hover th { background: var(--panel); }

.pair { display: grid; gap: 1rem 2rem; align-items: start; margin-bottom: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); }
.pair > * { min-width: 0; }
@media (min-width: 68rem) { .lean { grid-template-columns: 2fr 3fr; } }
.charts { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; overflow-x: auto; }
figure > svg { display: block; width: 100%; max-width: 30rem; height: auto; }
figure > svg.wide { max-width: 48rem; min-width: 45rem; }
figcaption { margin-top: .25rem; }
svg text { fill: var(--ink); font-size: 11px; }
svg .tick, svg .axis { fill: var(--soft); }
svg .on { fill: var(--page); }
svg .grid { stroke: var(--line); fill: none; }
svg .zero { stroke: var(--ink); }
svg .reference { stroke: var(--ink); stroke-dasharray: 5 4; stroke-width: 1.5; }
svg .frame { fill: none; stroke: var(--line); }
svg .faint { fill: var(--soft); fill-opacity: .5; }
svg .error { stroke: var(--ink); stroke-width: 1.5; fill: none; }
svg .heat { fill: var(--c0); }
svg .line { fill: none; stroke-width: 1.75; }
svg .thick { stroke-width: 4; }
svg .printed { stroke-width: 1; stroke-dasharray: 4 3; }
svg .bar { stroke-width: 1; stroke-opacity: .7; fill: none; }
svg .dash1 { stroke-dasharray: 6 3; }
svg .dash2 { stroke-dasharray: 2 3; }
svg .c0 { stroke: var(--c0); } svg .c1 { stroke: var(--c1); }
svg .c2 { stroke: var(--c2); } svg .c3 { stroke: var(--c3); }
svg .c4 { stroke: var(--c4); } svg .c5 { stroke: var(--c5); }
svg .fill { stroke: none; }
svg .c0.fill { fill: var(--c0); } svg .c1.fill { fill: var(--c1); }
svg .c2.fill { fill: var(--c2); } svg .c3.fill { fill: var(--c3); }
svg .c4.fill { fill: var(--c4); } svg .c5.fill { fill: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .25rem 0 0;
  padding: 0; list-style: none; font-size: .85rem; }
.legend .key { width: 18px; height: 10px; margin-right: .4rem; }

details { margin: .75rem 0; }
summary { cursor: pointer; padding: .25rem 0; color: var(--link); }
pre { padding: .75rem; max-height: 32rem; overflow: auto; font-size: .8rem;
  background: var(--panel); border-radius: .5rem; }

.classes { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); }
.class { padding: .75rem; border-radius: .5rem; background: var(--panel);
  min-width: 0; }
.class h3, .class h4 { margin: 0 0 .25rem; }
.strategy { margin: .4rem 0 .1rem; }
.versus { display: grid; gap: .25rem;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.thumbs { display: flex; flex-wrap: wrap; gap: 2px; }
.thumb { padding: 0 0 .1rem; border: 2px solid transparent; border-radius: 6px;
  background: none; color: var(--soft); font-family: inherit;
  font-size: .75rem; line-height: 1.4; cursor: zoom-in; overflow: hidden; }
.thumb img, .large { image-rendering: pixelated; display: block;
  object-fit: contain; background: #fff; }
.thumb span { font-variant-numeric: tabular-nums; }
.thumb.kept { border-color: var(--c0); }
.thumb.dropped { border-color: var(--c1); border-style: dashed; }

.twin-list { display: grid; gap: .75rem; margin: .75rem 0;
  grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
.twins { padding: .6rem; border-radius: .5rem; background: var(--panel); }
.twins div { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.twins span { font-size: .75rem; line-height: 1.3; overflow-wrap: anywhere; }
.twins img { display: block; width: 100%; max-width: 6rem; height: auto;
  aspect-ratio: 1; object-fit: contain; image-rendering: pixelated;
  background: #fff; margin-bottom: .2rem; }

.zoom { display: block; width: 100%; padding: 0; border: 0; background: none;
  color: inherit; font: inherit; cursor: zoom-in; }
.drawn { margin-top: 1.25rem; }
svg.boxes { display: block; width: 100%; max-height: 26rem; }
svg .halo { fill: none; stroke: var(--page); stroke-width: 4;
  stroke-opacity: .75; }
svg .truth { fill: none; stroke: var(--ink); stroke-width: 1.5;
  stroke-dasharray: 5 4; }
svg.boxes .line { stroke-width: 2; }
svg .named { stroke: var(--page); stroke-width: 3; stroke-linejoin: round;
  paint-order: stroke; }
svg.pixels { image-rendering: pixelated; }
#zoom { width: min(64rem, calc(100vw - 2rem)); }
#zoom svg.boxes { max-height: 76vh; }
#zoom path { vector-effect: non-scaling-stroke; }

dialog { width: min(26rem, calc(100vw - 2rem)); padding: 1rem;
  color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: .6rem; }
dialog::backdrop { background: rgb(0 0 0 / .6); }
dialog h2 { margin: 0 0 .75rem; font-size: 1.15rem; }
.large { width: min(20rem, 100%); height: auto; aspect-ratio: 1;
  margin: 0 auto .75rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem .9rem;
  margin: 0; font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; }
.buttons { display: flex; gap: .5rem; margin-top: 1rem; }
.buttons button { padding: .4rem .9rem; font: inherit; color: inherit;
  cursor: pointer; background: var(--panel); border: 1px solid var(--line);
  border-radius: .4rem; }
.buttons .close { margin-left: auto; }
@media (max-width: 40rem) {
  body { padding: 0 .75rem 3rem; }
  html { scroll-padding-top: 3.5rem; }
  nav { margin: 1rem -.75rem 0; padding: .5rem .75rem; overflow-x: auto;
    white-space: nowrap; }
  th, td, thead button { padding: .3rem .4rem; }
  thead th { padding: 0; }
  tbody th { min-width: 5.5rem; }
  .thumbs { display: grid;
    grid-template-columns: repeat(auto-fill, minmax(4.5rem, 1fr)); }
  .thumb img { width: 100%; height: auto; aspect-ratio: 1; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  nav, .buttons, dialog { display: none; }
  .scroll, pre { overflow: visible; max-height: none; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  tr, figure, .class, .twins { break-inside: avoid; }
}
"""
