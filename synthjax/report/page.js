"use strict";
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table");
    const body = table.tBodies[0], column = head.cellIndex;
    const numeric = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = now === first ? second : first;
    for (const other of table.tHead.rows[0].cells)
      other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => {
      const cell = row.cells[column];
      if (!numeric) return cell.textContent.trim();
      return cell.dataset.value === undefined ? null : +cell.dataset.value;
    };
    const rows = [...body.rows].map((row) => [value(row), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (numeric ? a - b : a.localeCompare(b));
    });
    body.append(...rows.map(([, row]) => row));
  });
}

// Lets pressing an item open a dialog, which walks through all of the items.
function gallery(dialog, items, show) {
  if (!dialog) return;
  let now = 0;
  const go = (index) => {
    now = (index + items.length) % items.length;
    show(items[now]);
  };
  items.forEach((item, index) => item.addEventListener("click", () => {
    go(index);
    dialog.showModal();
  }));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") go(now + 1);
    if (event.key === "ArrowLeft") go(now - 1);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => items[now].focus());
  const press = (name, action) =>
    dialog.querySelector(name).addEventListener("click", action);
  press(".previous", () => go(now - 1));
  press(".next", () => go(now + 1));
  press(".close", () => dialog.close());
}

const viewer = document.getElementById("viewer");
gallery(viewer, [...document.querySelectorAll(".thumb")], (thumb) => {
  const image = thumb.querySelector("img");
  const large = viewer.querySelector(".large");
  large.src = image.src;
  large.alt = image.alt;
  viewer.querySelector("h2").textContent = thumb.dataset.class;
  for (const entry of viewer.querySelectorAll("dd"))
    entry.textContent = thumb.dataset[entry.dataset.of];
});

const zoom = document.getElementById("zoom");
gallery(zoom, [...document.querySelectorAll(".zoom")], (drawing) => {
  const copy = drawing.querySelector("svg").cloneNode(true);
  for (const part of copy.querySelectorAll("[id]")) part.removeAttribute("id");
  zoom.querySelector(".drawing").replaceChildren(copy);
  zoom.querySelector("h2").textContent =
    drawing.closest("figure").querySelector("figcaption").textContent;
});
