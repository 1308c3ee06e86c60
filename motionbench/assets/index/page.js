// The page of a run: filter and sort the cards, and show the player of the one whose name is behind the # of the address.
"use strict";
{
  const $ = id => document.getElementById(id), make = (tag, attributes = {}, ...children) => {
    const e = document.createElement(tag);
    for (const [k, v] of Object.entries(attributes)) if (v !== null && v !== undefined) e.setAttribute(k, v);
    e.append(...children);
    return e;
  };
  const list = $("cards"), items = [...list.children], card = item => item.querySelector(".card"), detail = $("detail"), overview = $("overview"), clipView = $("clip");
  const search = $("search"), robot = $("robot"), sort = $("sort"), buttons = [...document.querySelectorAll(".grades button")];
  const rank = { fail: 0, error: 1, warn: 2, pass: 3, "n/a": 4 }, loaded = new Map(), narrow = matchMedia("(max-width: 899px)");
  let grade = "", player = null, shown = null, turn = 0;

  function order() {
    const key = sort.value, number = e => e.dataset[key] === undefined ? -Infinity : +e.dataset[key], name = (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true });
    const by = { name, grade: (a, b) => rank[a.dataset.grade] - rank[b.dataset.grade] || b.dataset.failed - a.dataset.failed, robot: (a, b) => a.dataset.robot.localeCompare(b.dataset.robot) };
    items.sort((a, b) => (by[key] ?? ((x, y) => number(y) - number(x)))(a, b) || name(a, b) || a.dataset.robot.localeCompare(b.dataset.robot));
    list.append(...items);
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    for (const e of items) {
      const text = e.dataset.text, fits = (!grade || e.dataset.grade === grade) && (!robot?.value || e.dataset.robot === robot.value) && words.every(w => text.includes(w));
      e.hidden = !fits;
      n += fits;
    }
    $("count").value = n === items.length ? `${n} ${n === 1 ? "clip" : "clips"}` : `${n} of ${items.length} clips`;
    $("none").hidden = n > 0;
    for (const b of buttons) b.setAttribute("aria-pressed", String((b.dataset.is ?? "") === grade));
  }

  // One script file, once; resolves when it has run.
  function load(source) {
    if (!loaded.has(source)) loaded.set(source, new Promise((done, failed) => {
      const tag = make("script", { src: source });
      tag.onload = () => { tag.remove(); done(); };
      tag.onerror = () => { tag.remove(); loaded.delete(source); failed(new Error(`${decodeURI(source)} is missing: it must lie beside this page. Run motionbench again to have it.`)); };
      document.head.append(tag);
    }));
    return loaded.get(source);
  }

  const verdict = row => make("tr", {}, make("td", { class: "unbroken" }, make("span", { class: "grade", "data-is": row.result }, row.result)), make("td", {}, row.gate), make("td", { class: "unbroken" }, row.value),
    make("td", { class: "unbroken" }, row.good), make("td", { class: "unbroken" }, row.fail));

  function facts(found) {
    const parts = [];
    if (found.files?.length) parts.push(make("p", { class: "links" }, ...found.files.map(([text, href]) => make("a", { href }, text))));
    if (found.verdicts?.length) {
      const head = make("tr", {}, ...["result", "gate", "value", "good up to", "fails above"].map(t => make("th", { scope: "col" }, t)));
      parts.push(make("section", {}, make("h2", {}, "Gates"), make("div", { class: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...found.verdicts.map(verdict))))));
    }
    return parts;
  }

  async function open(item) {
    const mine = ++turn, { id, name, script, note } = item.dataset, is = item.dataset.grade;
    player?.dispose();
    player = null;
    shown = item;
    for (const e of items) card(e).removeAttribute("aria-current");
    card(item).setAttribute("aria-current", "true");
    item.scrollIntoView({ block: "nearest" });
    const stage = make("div", { class: "stage" }, make("p", { role: "status" }, script ? "Loading …" : note || "There is no motion to show.")), close = make("button", { class: "close", type: "button", title: "Close (Escape)" }, "Close");
    close.addEventListener("click", leave);
    const rest = make("div");
    clipView.replaceChildren(make("div", { class: "head" }, make("h2", { id: "clip-name", tabindex: "-1" }, `${name} · ${item.dataset.robot}`), make("span", { class: "grade", "data-is": is }, is), close), stage, rest);
    overview.hidden = true;
    clipView.hidden = false;
    detail.classList.add("clip");
    detail.scrollTop = 0;
    if (narrow.matches) $("clip-name").focus();
    if (!script) return;
    try {
      await load(script);
      const found = globalThis.motionbenchClips[id];
      rest.replaceChildren(...facts(found));
      if (!found.clip) throw new Error(found.note || "There is no motion to show.");
      await Promise.all([load(list.dataset.player), load(found.model)]);
      if (mine !== turn) return;
      const host = make("div");
      stage.replaceChildren(host);
      const made = await motionbench.mount(host, { key: found.key, model: globalThis.motionbenchModels[`model-${found.key}`], clip: found.clip, options: { ...found.options, autoplay: true } });
      if (mine !== turn) made?.dispose();
      else globalThis.player = player = made;
    } catch (e) { if (mine === turn) stage.replaceChildren(make("p", { role: "alert" }, e.message)); }
  }

  function shut() {
    const last = shown;
    turn++;
    player?.dispose();
    globalThis.player = player = shown = null;
    clipView.replaceChildren();
    clipView.hidden = true;
    overview.hidden = false;
    detail.classList.remove("clip");
    if (last) { card(last).removeAttribute("aria-current"); card(last).focus(); }
  }

  function leave() { history.pushState(null, "", "#"); shut(); }

  function follow() {
    let id = location.hash.slice(1);
    try { id = decodeURIComponent(id); } catch { /* not ours: no clip has this name */ }
    const item = id && items.find(e => e.dataset.id === id);
    if (item) { if (item !== shown) open(item); } else if (shown) shut();
  }

  // Arrows go from card to card, Enter opens (it is a link), / searches, Escape closes.
  function key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) { e.preventDefault(); search.focus(); search.select(); return; }
    if (e.key === "Escape" && shown && !document.fullscreenElement) { leave(); return; }
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key], here = e.target.closest?.("#cards li");
    if (!step || !here) return;
    const visible = items.filter(i => !i.hidden), next = visible[visible.indexOf(here) + step];
    if (next) { e.preventDefault(); card(next).focus(); if (shown && !narrow.matches) location.replace(card(next).href); }
  }

  for (const b of buttons) b.addEventListener("click", () => { grade = grade === b.dataset.is ? "" : b.dataset.is ?? ""; filter(); });
  for (const b of document.querySelectorAll(".gates button")) b.addEventListener("click", () => { search.value = b.textContent; filter(); if (sort.value !== "grade") { sort.value = "grade"; order(); } list.scrollIntoView({ block: "nearest" }); });
  search.addEventListener("input", filter);
  robot?.addEventListener("change", filter);
  sort.addEventListener("change", order);
  document.addEventListener("keydown", key);
  addEventListener("hashchange", follow);
  // A card of a clip with an odd name is found by its data, not by its address.
  list.addEventListener("click", e => { const item = e.target.closest("li"); if (item && item === shown) e.preventDefault(); });
  document.querySelector(".tools").hidden = false;
  const fold = () => { overview.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();
  order();
  filter();
  follow();
}
