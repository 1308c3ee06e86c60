// Curves and bars over time under the picture; a click or a drag goes to that time.
import { element } from "./dom.js";

const GUTTER = 44;     // for the numbers of the axis, right of the curves

export class Strip {
  constructor(tracks, clip, seek) {
    this.clip = clip;
    this.root = element("div", { class: "mb-strip" });
    this.tracks = tracks.map(track => this.#track(track));
    this.root.append(...this.tracks.map(t => t.row));
    const to = e => {
      const box = this.tracks[0].canvas.getBoundingClientRect();
      seek(Math.round(Math.min(1, Math.max(0, (e.clientX - box.left) / (box.width - GUTTER))) * (clip.n_frames - 1)));
    };
    let down = false;
    this.root.addEventListener("pointerdown", e => { if (e.target.tagName !== "CANVAS" || clip.n_frames < 2) return; down = true; this.root.setPointerCapture(e.pointerId); to(e); });
    this.root.addEventListener("pointermove", e => { if (down) to(e); });
    for (const end of ["pointerup", "pointercancel"]) this.root.addEventListener(end, () => { down = false; });
  }

  #track(track) {
    const canvas = element("canvas", { "aria-hidden": "true" }), cursor = element("i", { class: "mb-cursor" }), T = this.clip.n_frames;
    const values = track.lines.map(line => element("b"));
    const legend = track.lines.map((line, i) => element("span", { class: "mb-key" }, element("i", { style: `background:${line.colour}` }), line.name, track.bars ? "" : " ", values[i]));
    const row = element("div", { class: "mb-track" }, element("div", { class: "mb-track-head" },
      element("span", { class: "mb-track-name" }, track.name + (track.unit ? ` [${track.unit}]` : "")), ...legend), element("div", { class: "mb-curves" }, canvas, cursor));
    const lines = track.lines.map((line, i) => ({ ...line, values: track.values.subarray(i * T, (i + 1) * T) }));
    let low = Infinity, high = -Infinity;
    for (const { values } of lines) for (const v of values) if (isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
    if (!(low <= high)) { low = 0; high = 1; }
    for (const limit of track.limits ?? []) { if (limit < high + 0.5 * (high - low)) high = Math.max(high, limit); }
    if (low > 0 && low < 0.4 * high) low = 0;
    if (high - low < 1e-9) { high += 0.5; low -= 0.5; }
    const pad = 0.06 * (high - low);
    const digits = Math.min(6, Math.max(0, 2 - Math.floor(Math.log10(Math.max(Math.abs(low), Math.abs(high))))));
    return { ...track, lines, canvas, cursor, marks: values, digits, row, low: low - pad, high: high + pad, height: track.bars ? 11 * lines.length + 3 : 58 };
  }

  resize() {
    const width = Math.floor(this.root.clientWidth), ratio = Math.min(devicePixelRatio || 1, 2);
    if (!width) return;
    this.width = width;
    const ink = getComputedStyle(this.root);
    for (const t of this.tracks) {
      t.canvas.width = Math.round(width * ratio);
      t.canvas.height = Math.round(t.height * ratio);
      t.canvas.style.height = `${t.height}px`;
      const c = t.canvas.getContext("2d");
      c.scale(ratio, ratio);
      t.bars ? this.#bars(c, t, width - GUTTER, ink) : this.#lines(c, t, width - GUTTER, ink);
    }
    this.draw(this.frame ?? 0);
  }

  #x(frame, width) { return this.clip.n_frames > 1 ? frame / (this.clip.n_frames - 1) * width : width / 2; }      // of the curves' width

  #bars(c, t, width, ink) {
    const T = this.clip.n_frames;
    t.lines.forEach((line, i) => {
      c.fillStyle = ink.getPropertyValue("--mb-lane");
      c.fillRect(0, 11 * i + 1, width, 9);
      c.fillStyle = line.colour;
      for (let a = 0; a < T; a++) {
        if (!line.values[a]) continue;
        let b = a;
        while (b + 1 < T && line.values[b + 1]) b++;
        const x = this.#x(a - 0.5, width);
        c.fillRect(Math.max(0, x), 11 * i + 1, Math.max(1, Math.min(width, this.#x(b + 0.5, width)) - Math.max(0, x)), 9);
        a = b;
      }
    });
  }

  #lines(c, t, width, ink) {
    const y = v => (1 - (v - t.low) / (t.high - t.low)) * (t.height - 2) + 1, T = this.clip.n_frames;
    const rule = (v, colour, dash) => {
      c.strokeStyle = colour; c.lineWidth = 1; c.setLineDash(dash);
      c.beginPath(); c.moveTo(0, y(v)); c.lineTo(width, y(v)); c.stroke(); c.setLineDash([]);
    };
    c.fillStyle = ink.getPropertyValue("--mb-lane");
    c.fillRect(0, 0, width, t.height);
    if (t.low < 0 && t.high > 0) rule(0, ink.getPropertyValue("--mb-rule"), []);
    for (const limit of t.limits ?? []) if (limit < t.high) rule(limit, "#cf2f3c", [5, 4]);
    for (const line of t.lines) {
      c.strokeStyle = line.colour; c.lineWidth = 1.5; c.lineJoin = "round"; c.beginPath();
      let pen = false;
      const point = (f, v) => { if (!isFinite(v)) { pen = false; return; } pen ? c.lineTo(this.#x(f, width), y(v)) : c.moveTo(this.#x(f, width), y(v)); pen = true; };
      if (T <= 2 * width) for (let f = 0; f < T; f++) point(f, line.values[f]);
      else for (let p = 0; p < width; p++) {       // the lowest and the highest value of every pixel
        const a = Math.floor(p * T / width), b = Math.max(a + 1, Math.floor((p + 1) * T / width));
        let low = a, high = a;
        for (let f = a; f < b; f++) { if (line.values[f] < line.values[low]) low = f; if (line.values[f] > line.values[high]) high = f; }
        for (const f of [Math.min(low, high), Math.max(low, high)]) point(f, line.values[f]);
      }
      c.stroke();
    }
    c.fillStyle = ink.getPropertyValue("--mb-faint");
    c.font = "10px " + ink.fontFamily;
    c.textAlign = "left";
    const text = v => Math.abs(v) < 1e-9 ? "0" : Number(v.toPrecision(2)).toString().replace("-", "−"), span = t.high - t.low;
    c.fillText(text(t.high - 0.057 * span), width + 6, 10);
    c.fillText(text(t.low + 0.057 * span), width + 6, t.height - 2);
  }

  // The curves stay as they are; a cursor moves over them.
  draw(frame, playing = false) {
    this.frame = frame;
    if (!this.width) return;
    const x = this.#x(frame, this.width - GUTTER), now = performance.now();
    for (const t of this.tracks) t.cursor.style.transform = `translateX(${(x - 0.75).toFixed(1)}px)`;
    if (playing && now - this.written < 100) return;
    this.written = now;
    const whole = Math.round(frame);
    for (const t of this.tracks) t.lines.forEach((line, i) => {
      const v = line.values[whole];
      const text = t.bars ? "" : isFinite(v) ? v.toFixed(t.digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−") : "–";
      if (t.marks[i].textContent !== text) t.marks[i].textContent = text;
    });
  }
  written = 0;
}
