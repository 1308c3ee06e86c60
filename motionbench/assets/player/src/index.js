// Three ways in: mount() from a page, figures of a page that holds their data, the Jupyter widget (anywidget).
import { unpack } from "./data.js";
import { element } from "./dom.js";
import { Player, problem } from "./player.js";
import style from "./style.css";

function styled() {
  if (!document.getElementById("motionbench-player-style")) document.head.append(element("style", { id: "motionbench-player-style" }, style));
}

// Whether there is WebGL 2, and whether the processor does the work of a graphics card.
function graphics() {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) throw new Error("The 3-D view needs WebGL 2, which this browser does not offer here.");
  const info = gl.getExtension("WEBGL_debug_renderer_info"), name = info ? gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : "";
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return { software: /swiftshader|llvmpipe|software|basic render/i.test(name) };
}

const models = new Map();      // every model is unpacked once per page
function modelOf(key, source) {
  if (!models.has(key)) models.set(key, unpack(source));
  return models.get(key);
}

// Show a clip in an element. model, clip and ghostModel are packed data; resolves to the player, or to null after a message was shown.
export async function mount(host, { key, model, clip, ghostKey, ghostModel, options = {} }) {
  styled();
  try {
    const machine = graphics();
    const [m, c, g] = await Promise.all([modelOf(key, model), unpack(clip), ghostModel ? modelOf(ghostKey, ghostModel) : null]);
    if (!m.tree || !c.frames || c.frames.length !== c.n_frames * (7 + m.n_joints)) throw new Error(`The clip does not fit the robot ${m.name ?? ""}; make the page again.`);
    if (g) c.ghost.model = g;
    return new Player(host, m, c, { ...machine, ...options });
  } catch (e) {
    host.replaceChildren(problem(e.message || String(e)));
    console.warn("motionbench player:", e);
    return null;
  }
}

const stored = id => document.getElementById(id)?.textContent ?? globalThis.motionbenchModels?.[id];

// A figure names its model by id; model and clip stand in the page, or the model in a script of the site.
async function upgrade(figure) {
  if (figure.dataset.ready) return;
  figure.dataset.ready = "1";
  const data = figure.querySelector("script[type='application/x-motionbench']"), { options, ...about } = JSON.parse(figure.dataset.player);
  const model = stored(`model-${about.key}`), ghostModel = about.ghostKey && stored(`model-${about.ghostKey}`);
  if (!model || !data) return;     // the picture stays
  const host = element("div");
  const picture = figure.querySelector("img");
  figure.prepend(host);
  const player = await mount(host, { ...about, model, ghostModel, clip: data.textContent, options });
  picture?.remove();
  figure.player = player;
}

function upgradeAll() {
  const figures = [...document.querySelectorAll("figure.motionbench-player")];
  if (!figures.length) return;
  styled();
  const seen = new IntersectionObserver(entries => { for (const e of entries) if (e.isIntersecting) { seen.unobserve(e.target); upgrade(e.target); } }, { rootMargin: "100px" });
  for (const f of figures) seen.observe(f);
}

globalThis.motionbench = { mount, upgradeAll };
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", upgradeAll);
else upgradeAll();

// anywidget: frame, playing and speed go both ways; the clip may be replaced.
async function render({ model, el }) {
  const host = element("div");
  el.append(host);
  let player = null, quiet = false, timer = null;
  const push = (name, value) => { if (!quiet && model.get(name) !== value) { model.set(name, value); model.save_changes(); } };
  const tell = (what, p) => {
    if (what === "colour") { push(what, p.colour); return; }
    if (what !== "frame") { push(what, p[what]); if (what === "playing" && !p.playing) push("frame", p.told * p.clip.stride); return; }
    if (!p.playing) { push("frame", p.told * p.clip.stride); return; }
    timer ??= setTimeout(() => { timer = null; push("frame", p.told * p.clip.stride); }, 100);
  };
  const apply = (what, f) => model.on(`change:${what}`, () => { if (!player) return; quiet = true; try { f(model.get(what)); } finally { quiet = false; } });
  const show = async () => {
    player?.dispose();
    player = await mount(host, { key: model.get("_key"), model: model.get("_model"), clip: model.get("_clip"), ghostKey: model.get("_ghost_key"), ghostModel: model.get("_ghost_model")?.byteLength ? model.get("_ghost_model") : null,
      options: { ...model.get("_options"), frame: model.get("frame"), speed: model.get("speed"), autoplay: model.get("playing") } });
    player?.listeners.add(tell);
    el.player = player;
  };
  apply("frame", f => { const to = f / player.clip.stride; if (Math.round(to) !== player.told) { player.setFrame(to); } });
  apply("playing", on => on ? player.play() : player.pause());
  apply("speed", s => player.setSpeed(s));
  apply("colour", c => player.setColour(c));
  model.on("change:_clip", show);
  await show();
  return () => { clearTimeout(timer); player?.dispose(); };
}

export default { render };
