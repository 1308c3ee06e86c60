// A table with one chosen row for notebooks (anywidget). Only rows in sight are in the page.
const HEIGHT = 30;
const WIDTHS = { clip: "minmax(96px, 2fr)", robot: "minmax(88px, 1.3fr)", grade: "72px", seconds: "44px", failed: "minmax(90px, 2fr)" };
const GRADES = ["pass", "warn", "fail", "n/a", "error"];
const make = (tag, attributes = {}, ...children) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) if (v !== null && v !== undefined) e.setAttribute(k, v);
  e.append(...children);
  return e;
};
const text = v => v === null || v === undefined ? "" : typeof v === "number" && !Number.isInteger(v) ? String(+v.toPrecision(4)) : String(v);

function render({ model, el }) {
  const id = `mb-list-${Math.random().toString(36).slice(2)}`, head = make("div", { class: "mb-row mb-head", role: "row" }), body = make("div", { class: "mb-body", role: "rowgroup" });
  const root = make("div", { class: "mb-list", role: "grid", tabindex: "0", "aria-label": model.get("label") }, head, body);
  el.append(root);

  function draw() {
    const rows = model.get("rows"), columns = Object.entries(model.get("columns")), chosen = model.get("selected");
    const first = Math.max(0, Math.floor(root.scrollTop / HEIGHT) - 5), last = Math.min(rows.length, first + Math.ceil((root.clientHeight || 300) / HEIGHT) + 12);
    root.setAttribute("aria-rowcount", rows.length + 1);
    root.style.setProperty("--mb-columns", columns.map(([k]) => WIDTHS[k] ?? "minmax(52px, 1fr)").join(" "));
    head.replaceChildren(...columns.map(([, name]) => make("span", { role: "columnheader" }, name)));
    body.style.height = `${Math.max(1, rows.length) * HEIGHT}px`;
    body.replaceChildren(...(rows.length ? [] : [make("p", {}, "no clip fits")]));
    for (let i = first; i < last; i++) {
      const cells = columns.map(([k]) => make("span", { role: "gridcell", title: text(rows[i][k]) }, k === "grade" && GRADES.includes(rows[i][k]) ? make("b", { "data-is": rows[i][k] }, rows[i][k]) : text(rows[i][k])));
      const row = make("div", { class: "mb-row", role: "row", id: `${id}-${i}`, "aria-rowindex": i + 2, "aria-selected": String(i === chosen), style: `top:${i * HEIGHT}px` }, ...cells);
      row.addEventListener("click", () => choose(i));
      body.append(row);
    }
    if (chosen >= 0) root.setAttribute("aria-activedescendant", `${id}-${chosen}`); else root.removeAttribute("aria-activedescendant");
  }

  function choose(i) {
    const n = model.get("rows").length;
    if (!n) return;
    model.set("selected", Math.min(n - 1, Math.max(0, i)));
    model.save_changes();
  }

  function reveal() {
    const top = model.get("selected") * HEIGHT, room = root.clientHeight - HEIGHT;
    if (top < root.scrollTop) root.scrollTop = top; else if (top + HEIGHT > root.scrollTop + room) root.scrollTop = top + HEIGHT - room;
    draw();
  }

  root.addEventListener("scroll", draw);
  root.addEventListener("keydown", e => {
    const now = model.get("selected"), to = { ArrowDown: now + 1, ArrowUp: now - 1, PageDown: now + 8, PageUp: now - 8, Home: 0, End: Infinity }[e.key];
    if (to === undefined || e.ctrlKey || e.metaKey || e.altKey) return;
    e.preventDefault();
    e.stopPropagation();
    choose(to);
  });
  model.on("change:rows", draw);
  model.on("change:selected", reveal);
  const size = new ResizeObserver(draw);
  size.observe(root);
  draw();
  return () => size.disconnect();
}

export default { render };
