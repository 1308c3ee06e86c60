// The player: a picture, its controls, a strip of curves.
import { Vector3 } from "three";
import { button, element, icon, select } from "./dom.js";
import { Human, Marks, Robot } from "./figure.js";
import { poses, SHARES, stateAt } from "./kinematics.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const SHARE_NAMES = { limits: "joint range used", velocity: "speed / limit", torque: "torque / limit" };

// Whether the player stands in something dark: JupyterLab says so, a page shows it; null where the reader's system decides.
function surroundings(host) {
  let jupyter;
  try { jupyter = (host ? document : window.parent.document).body.dataset.jpThemeLight; } catch { /* a frame of another site */ }
  if (jupyter) return jupyter === "false";
  if (!host) return null;
  for (let e = host; e; e = e.parentElement) {
    const [r, g, b, a = 1] = getComputedStyle(e).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    if (a > 0.5) return 0.3 * r + 0.6 * g + 0.1 * b < 110;
  }
  return /dark/.test(getComputedStyle(document.documentElement).colorScheme) ? null : false;
}

export class Player {
  constructor(host, model, clip, options = {}) {
    Object.assign(this, { host, model, clip, options, frame: 0, playing: false, speed: 1, loop: options.loop ?? true, follow: options.follow ?? true, listeners: new Set(), durations: [] });
    this.still = clip.n_frames < 2;
    this.state = new Float64Array(clip.frames.length / clip.n_frames);
    this.abort = new AbortController();
    this.#page();
    this.#figures();
    this.#observe();
    this.setColour(options.colour ?? "");
    this.setFrame(Math.min(Math.max(0, options.frame ?? 0), clip.n_frames - 1));
    this.resetView();
    if (options.speed) this.setSpeed(options.speed);
    if ((options.autoplay ?? false) && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
  }

  #on(target, type, f, more = {}) { target.addEventListener(type, f, { signal: this.abort.signal, ...more }); }

  #page() {
    const { clip, model, options } = this, dis = this.still;
    this.canvas = element("canvas", { role: "img", "aria-label": `3-D view of ${clip.title || "a motion"} on ${model.name}; drag to turn, scroll to zoom` });
    this.stage = new Stage(this.canvas, options.software);
    this.legend = element("div", { class: "mb-legend", hidden: true });
    this.view = element("div", { class: "mb-view" }, this.canvas, this.legend);
    const title = element("div", { class: "mb-title" }, element("strong", {}, clip.title || model.name), element("span", {}, clip.subtitle || ""));
    if (clip.note) title.append(element("span", { class: "mb-note" }, clip.note));
    this.view.append(title);
    this.playButton = button("play", "Play (space)");
    this.scrub = element("input", { type: "range", class: "mb-scrub", min: 0, max: Math.max(1, clip.n_frames - 1), step: 1, value: 0, "aria-label": "Frame" });
    this.readout = element("output", { class: "mb-readout" });
    this.speedSelect = select("Speed (+ and -)", SPEEDS.map(s => [s, `${s}×`]), 1);
    this.loopButton = button("loop", "Loop (L)", this.loop);
    this.followButton = button("follow", "Camera follows (F)", this.follow);
    this.homeButton = button("home", "Reset view (R)");
    const more = element("div", { class: "mb-more" }, this.speedSelect, this.loopButton, this.followButton, this.homeButton), show = element("div", { class: "mb-more mb-show" });
    this.#choices(show);
    const full = button("full", "Full screen");
    if (document.fullscreenEnabled) { more.append(full); this.#on(full, "click", () => document.fullscreenElement ? document.exitFullscreen() : this.root.requestFullscreen()); }
    this.bar = element("div", { class: "mb-bar", role: "toolbar", "aria-label": "Playback" }, this.playButton, this.scrub, this.readout, show, more);
    for (const e of [this.playButton, this.scrub, this.speedSelect, this.loopButton]) e.disabled = dis;
    this.root = element("div", { class: `mb-player${this.options.page ? " mb-page" : ""}`, tabindex: 0, role: "group", "aria-label": `Player: ${clip.title || "motion"} on ${model.name}` }, this.view, this.bar);
    if (clip.tracks?.length) { this.strip = new Strip(clip.tracks, clip, f => { this.pause(); this.setFrame(f); }); this.root.append(this.strip.root); }
    if (this.options.height && !this.options.page) this.view.style.height = `${this.options.height}px`;
    this.host.replaceChildren(this.root);
    this.#on(this.playButton, "click", () => this.toggle());
    this.#on(this.scrub, "input", () => { this.pause(); this.setFrame(+this.scrub.value); });
    this.#on(this.speedSelect, "change", () => this.setSpeed(+this.speedSelect.value));
    this.#on(this.loopButton, "click", () => this.#press("loop"));
    this.#on(this.followButton, "click", () => this.#press("follow"));
    this.#on(this.homeButton, "click", () => this.resetView());
    this.#on(this.options.page ? document : this.root, "keydown", e => this.#key(e));
    this.#on(this.stage.controls, "change", () => this.draw());
    this.#on(this.canvas, "webglcontextlost", e => { e.preventDefault(); this.fail("The graphics context was lost. Reload the page to see the motion again."); });
    if (!this.options.page) {     // a page scrolls past a player until it has been touched
      this.stage.controls.enableZoom = false;
      this.#on(this.root, "pointerdown", () => { this.stage.controls.enableZoom = true; });
      this.#on(document, "pointerdown", e => { if (!this.root.contains(e.target)) this.stage.controls.enableZoom = false; });
    }
  }

  #choices(more) {
    const { clip, model } = this;
    const colours = ["limits", "velocity", "torque"].filter(k => model.tree.joint_slot.some(j => SHARES[k](model, clip, 0, j) !== null));
    if (colours.length) {
      this.colourSelect = select("Colour of the links", [["", "own colours"], ...colours.map(k => [k, SHARE_NAMES[k]])], this.options.colour ?? "");
      this.#on(this.colourSelect, "change", () => this.setColour(this.colourSelect.value));
      more.append(this.colourSelect);
    }
    this.colours = colours;
    if (clip.ghost) {
      this.ghostSelect = select(clip.ghost.name || "Second motion", [["over", "ghost over"], ["beside", "ghost beside"], ["off", "no ghost"]], clip.ghost.where);
      this.#on(this.ghostSelect, "change", () => this.setGhost(this.ghostSelect.value));
      more.append(this.ghostSelect);
    }
    const toggles = [["human", "human"], ["contacts", "contacts"]].filter(([k]) => clip[k]);
    for (const [key, text] of toggles) {
      const b = element("button", { type: "button", class: "mb-button mb-text", "aria-pressed": "true", title: `Show ${text}` }, text);
      this.#on(b, "click", () => { const on = b.getAttribute("aria-pressed") !== "true"; b.setAttribute("aria-pressed", on); this[key].visible = on; this.draw(); });
      more.append(b);
    }
  }

  #figures() {
    const { clip, model, stage } = this;
    this.robot = new Robot(model);
    stage.scene.add(this.robot);
    if (clip.ghost) {
      this.ghostModel = clip.ghost.model ?? model;
      this.ghost = new Robot(this.ghostModel, true);
      this.ghostState = new Float64Array(clip.ghost.frames.length / clip.n_frames);
      stage.scene.add(this.ghost);
    }
    if (clip.human) { this.human = new Human(clip.human, clip.n_frames); stage.scene.add(this.human); }
    if (clip.contacts) { this.contacts = new Marks(clip.contacts, clip.n_frames); stage.scene.add(this.contacts); }
    this.setGhost(clip.ghost?.where);
  }

  #observe() {
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const theme = () => {
      const wish = this.options.theme ?? "auto", dark = wish === "auto" ? surroundings(this.options.page ? null : this.host) ?? scheme.matches : wish === "dark";
      this.root.classList.toggle("mb-dark", dark);
      this.stage.theme(dark);
      this.strip?.resize();
      this.draw();
    };
    this.#on(scheme, "change", theme);
    theme();
    this.visible = true;
    this.resizer = new ResizeObserver(() => this.#resize());
    this.resizer.observe(this.view);
    this.seen = new IntersectionObserver(([e]) => { this.visible = e.isIntersecting; if (this.visible) { this.last = null; this.draw(); } });
    this.seen.observe(this.view);
    this.#resize();
  }

  #resize() {
    const { clientWidth: w, clientHeight: h } = this.view;
    if (!w || !h) return;
    const reframe = this.width && Math.abs(w / h - this.width / this.height) > 0.25 && this.untouched;
    Object.assign(this, { width: w, height: h });
    this.stage.resize(w, h);
    this.strip?.resize();
    if (reframe || !this.stage.size) this.resetView();
    this.draw();
  }

  #key(e) {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || e.target.tagName === "SELECT") return;
    const step = e.shiftKey ? 10 : 1, to = f => { this.pause(); this.setFrame(f); }, now = Math.round(this.frame), keys = {
      " ": () => this.toggle(), ArrowLeft: () => to(now - step), ArrowRight: () => to(now + step), Home: () => to(0), End: () => to(this.clip.n_frames - 1),
      "+": () => this.#faster(1), "=": () => this.#faster(1), "-": () => this.#faster(-1), l: () => this.#press("loop"), f: () => this.#press("follow"), r: () => this.resetView(),
    };
    const act = keys[e.key] ?? keys[e.key.toLowerCase()];
    if (!act || (e.key === " " && e.target.tagName === "BUTTON")) return;
    e.preventDefault();
    if (!this.still || e.key === "r") act();
  }

  #faster(by) {
    const near = SPEEDS.findIndex(s => s >= this.speed - 1e-9);
    this.setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, (near < 0 ? SPEEDS.length - 1 : near) + by))]);
  }

  #press(what) {
    this[what] = !this[what];
    this[`${what}Button`].setAttribute("aria-pressed", String(this[what]));
    if (what === "follow" && this.follow) { this.resetView(); }
    this.draw();
  }

  #tell(what) { for (const f of this.listeners) f(what, this); }

  play() {
    if (this.still || this.playing) return;
    if (this.frame >= this.clip.n_frames - 1) this.setFrame(0);
    this.playing = true;
    this.last = null;
    this.#playing();
  }

  pause() { if (this.playing) { this.playing = false; this.setFrame(Math.round(this.frame)); this.#playing(); } }
  toggle() { this.playing ? this.pause() : this.play(); }

  #playing() {
    const label = this.playing ? "Pause (space)" : "Play (space)";
    this.playButton.replaceChildren(icon(this.playing ? "pause" : "play"));
    this.playButton.setAttribute("aria-label", label);
    this.playButton.title = label;
    this.#tell("playing");
    this.draw();
  }

  setSpeed(speed) {
    if (!(speed > 0)) return;
    this.speed = speed;
    if (![...this.speedSelect.options].some(o => +o.value === speed)) this.speedSelect.append(element("option", { value: speed }, `${Number(speed.toPrecision(3))}×`));
    this.speedSelect.value = String(speed);
    this.#tell("speed");
  }

  setColour(key) {
    this.colour = this.colours.includes(key) ? key : "";
    if (this.colourSelect) this.colourSelect.value = this.colour;
    this.legend.hidden = !this.colour;
    if (this.colour) this.legend.replaceChildren(element("span", {}, SHARE_NAMES[this.colour]), element("i", { class: "mb-ramp", role: "img", "aria-label": "from grey, none, over amber, 80 %, to red, 100 %" }),
      element("span", { class: "mb-ticks" }, element("span", {}, "0"), element("span", {}, "50"), element("span", {}, "100 %")));
    this.setFrame(this.frame);
    this.#tell("colour");
  }

  setGhost(where) {
    if (!this.ghost) return;
    this.ghost.visible = where !== "off";
    const side = where === "beside" ? 0.7 * this.#size() : 0, h = this.#heading();
    this.ghost.position.set(-Math.sin(h) * -side, Math.cos(h) * -side, 0);
    this.draw();
  }

  #heading() { const [w, x, y, z] = this.clip.start.slice(3); return Math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)); }
  #size() { return Math.max(0.2, Math.max(this.model.height, this.clip.human?.height ?? 0) + 0.75 * this.clip.rise); }

  setFrame(frame) {
    frame = Math.min(this.clip.n_frames - 1, Math.max(0, frame));
    this.frame = frame;
    const whole = Math.round(frame), { clip } = this;
    this.robot.pose(stateAt(clip, frame, this.state));
    this.robot.paint(this.colour && (j => SHARES[this.colour](this.model, clip, whole, j)));
    this.ghost?.pose(stateAt({ n_frames: clip.n_frames, frames: clip.ghost.frames }, frame, this.ghostState));
    this.human?.pose(whole);
    this.contacts?.pose(this.robot, whole);
    if (this.stage.size) this.stage.moveTo(new Vector3(...this.state.slice(0, 3)), this.follow);
    if (this.scrub.value !== String(whole)) this.scrub.value = whole;
    const time = (whole / clip.fps).toFixed(2), end = ((clip.n_frames - 1) / clip.fps).toFixed(2), number = whole * (clip.stride ?? 1);
    this.scrub.setAttribute("aria-valuetext", `${time} of ${end} s, frame ${number}`);
    this.readout.replaceChildren(element("b", {}, time), ` / ${end} s`, element("span", { class: "mb-frame" }, `frame ${number}`));
    this.strip?.draw(frame, this.playing);
    if (whole !== this.told) { this.told = whole; this.#tell("frame"); }
    this.draw();
  }

  resetView() {
    if (!this.width) return;
    const height = this.#size(), centre = new Vector3(this.state[0], this.state[1], 0.5 * height + Math.min(0, this.clip.start[2] - this.model.root_height));
    this.untouched = true;
    this.stage.frame(centre, this.#size(), this.#heading(), this.width / this.height);
    this.stage.target.set(this.state[0], this.state[1], 0);
    this.draw();
  }

  draw() { if (!this.request && !this.dead) this.request = requestAnimationFrame(t => this.#tick(t)); }

  #tick(now) {
    this.request = null;
    if (this.dead || !this.visible) return;
    if (this.playing) {
      if (this.last !== null && this.last !== undefined) {
        const dt = now - this.last, end = this.clip.n_frames - 1;
        this.durations.push(dt);
        if (this.durations.length > 240) this.durations.shift();
        let f = this.frame + Math.min(dt, 500) / 1000 * this.clip.fps * this.speed;
        if (f >= end && !this.loop) { this.setFrame(end); this.pause(); } else this.setFrame(f > end ? f % end : f);
        this.#adapt();
      }
      this.last = now;
    }
    this.stage.render();
    if (this.playing) this.draw();
  }

  // Slow machines get fewer pixels, then no shadow, rather than a jerky picture.
  #adapt() {
    if (this.durations.length < 12 || ++this.since < 12) return;
    this.since = 0;
    const recent = this.durations.slice(-12).sort((a, b) => a - b)[6], { stage } = this;
    if (recent < 36 || stage.quality <= 0.46) return;
    stage.quality = Math.max(0.45, stage.quality * 0.8);
    if (stage.quality < 0.55) { stage.key.castShadow = false; }
    stage.resize(this.width, this.height);
  }
  since = 0;

  fail(message) { this.dead = true; this.view.replaceChildren(problem(message)); }

  // For tests: world positions of all bodies at a frame.
  bodyPositions(frame) {
    const B = this.model.tree.parents.length, pos = new Float64Array(3 * B);
    poses(this.model.tree, stateAt(this.clip, frame, new Float64Array(this.state.length)), pos, new Float64Array(4 * B));
    return Array.from(pos);
  }

  dispose() {
    this.dead = true;
    cancelAnimationFrame(this.request);
    this.abort.abort();
    this.resizer.disconnect();
    this.seen.disconnect();
    this.robot.dispose();
    this.stage.dispose();
  
  }
}

export function problem(message) { return element("div", { class: "mb-problem", role: "alert" }, message); }
