// The page: view, selection and keys. The panels on the right are in panels.js.

import { ask, bytesOf, floats, json, rows as rowsOf, save, saveFile } from "/static/api.js";
import { Panels } from "/static/panels.js";
import { crowding, Scatter, tidy } from "/static/scatter.js";
import { Selection } from "/static/selection.js";
import { Volumes } from "/static/volumes.js";

export const by = (id) => document.getElementById(id);
const DENSITY = "density"; // a colour that is computed here
const state = { run: null, columns: new Map(), picked: null, busy: 0 };
const selection = new Selection();
let scatter, volumes, panels;

export function say(words) { by("status").textContent = words; }

export function complain(error) {
  by("message").hidden = false;
  by("message").firstElementChild.textContent = error.message ?? String(error);
  console.warn(error);
}

// Wraps what a person starts: says that it is going on, and says in words what went wrong.
export function act(work, words = "") {
  return async (...given) => {
    by("message").hidden = true;
    if (words) say(words);
    state.busy += 1;
    try { return await work(...given); } catch (error) { complain(error); } finally {
      state.busy -= 1;
      if (!state.busy) say("");
    }
  };
}

async function column(name) {
  if (!state.columns.has(name)) state.columns.set(name, await floats(`column/${encodeURIComponent(name)}`));
  return state.columns.get(name);
}

const kindOf = (name) => state.run.columns.find((one) => one.name === name)?.kind;

const noun = () => (state.run.tilts ? "tilt images" : "particles"); // what a row is

function label(name) {
  const share = name.startsWith("PC") && state.run.explained[Number(name.slice(2)) - 1];
  return share ? `${name} (${Math.round(100 * share)} % of the variance)` : name;
}

// One drawing after the other: of two at once, the first may be the last to end.
function draw() {
  state.drawing = (state.drawing ?? Promise.resolve()).catch(() => {}).then(drawNow);
  return state.drawing;
}

async function drawNow() {
  const [x, y, colour] = ["axis-x", "axis-y", "colour"].map((id) => by(id).value);
  say("drawing");
  const [across, up] = [await column(x), await column(y)];
  const values = colour === DENSITY ? crowding(across, up) : colour ? await column(colour) : null;
  await scatter.draw(
    { name: x, values: across, label: label(x) },
    { name: y, values: up, label: label(y) },
    { name: colour === DENSITY ? "log10 of particles around" : colour, values, kind: kindOf(colour) },
  );
  say("");
}

function fill(select, columns, wanted, none) {
  const kept = select.value || wanted;
  select.replaceChildren(...(none ? [new Option(none, "")] : []));
  for (const group of new Set(columns.map((one) => one.group))) {
    const part = document.createElement("optgroup");
    part.label = group;
    part.append(...columns.filter((one) => one.group === group).map((one) => new Option(one.name, one.name)));
    select.append(part);
  }
  if ([...select.options].some((option) => option.value === kept)) select.value = kept;
}

async function load() {
  state.run = await json("run");
  state.columns.clear();
  const { columns, n } = state.run;
  selection.n = n;
  document.title = `${state.run.name} · drgn explorer`;
  by("run-name").textContent = state.run.name;
  by("run-facts").textContent = `${n.toLocaleString("en")} ${noun()}, z of ${state.run.zdim}, box ${state.run.box_size}` +
    ` · ${state.run.trained} · ${state.run.path}`;
  by("run-facts").title = by("run-facts").textContent;
  by("empty").hidden = columns.length > 0;
  by("make-analysis").hidden = !columns.length || columns.some((one) => one.group === "clusters");
  by("halves").hidden = by("local").hidden = !state.run.halves;
  by("show-tilts").hidden = !state.run.tilts;
  if (!columns.length) return;
  const classes = columns.filter((one) => one.group === "clusters");
  const flat = columns.some((one) => one.name === "UMAP1") ? ["UMAP1", "UMAP2"] : ["PC1", state.run.zdim > 1 ? "PC2" : "z_norm"];
  fill(by("axis-x"), columns, flat[0]);
  fill(by("axis-y"), columns, flat[1]);
  fill(by("colour"), [{ name: DENSITY, group: "crowding" }, ...columns], classes[0]?.name ?? DENSITY, "none");
  fill(by("threshold-column"), columns.filter((one) => one.kind === "number"), "z_norm");
  fill(by("cluster-column"), columns.filter((one) => one.kind === "class"), classes[0]?.name);
  by("row").max = n - 1;
  by("path-pc").max = state.run.zdim;
  await draw();
}

async function listSaved() {
  const found = await json("selections");
  by("saved").replaceChildren(...found.map(({ name, count }) => {
    const row = document.createElement("li");
    row.innerHTML = '<button></button><button aria-label="Forget it" title="Forget it">×</button>';
    const [take, forget] = row.children;
    take.textContent = `${name} (${count.toLocaleString("en")})`;
    take.title = "Take this selection";
    take.onclick = act(async () => selection.combine(await rowsOf(`selections/${name}`), by("combine").value));
    forget.onclick = act(async () => { await ask(`selections/${name}`, { method: "DELETE" }); await listSaved(); });
    return row;
  }));
}

export async function saveSelection(name) {
  await ask(`selections/${encodeURIComponent(name)}`, { method: "PUT", body: bytesOf(selection.rows) });
  await listSaved();
}

export async function pick(row) {
  state.picked = row;
  by("row").value = row;
  scatter.mark({ picked: row });
  await panels.showPoint(row);
}

// What the page shows, for the names of the files that are saved.
export function stateName() {
  const colour = by("colour").value;
  const parts = [state.run.name, by("axis-x").value, by("axis-y").value, colour && `by-${colour}`,
    selection.rows.length && `${selection.rows.length}-selected`, state.picked != null && `particle-${state.picked}`];
  return parts.filter(Boolean).join("_").replace(/[^\w.-]+/g, "-");
}

function wireSelection() {
  selection.addEventListener("change", () => {
    const count = selection.rows.length;
    by("count").textContent = count
      ? `${count.toLocaleString("en")} of ${selection.n.toLocaleString("en")} ${noun()} selected` : "No particles selected";
    by("undo").disabled = !selection.before.length;
    scatter.highlight(selection.rows);
  });
  const choose = (found) => selection.combine(found, by("combine").value);
  scatter.addEventListener("lasso", ({ detail }) => choose(detail));
  by("threshold-apply").onclick = act(async () => {
    const values = await column(by("threshold-column").value);
    const [low, high] = [["threshold-low", -Infinity], ["threshold-high", Infinity]]
      .map(([id, open]) => by(id).value === "" ? open : Number(by(id).value));
    choose(selection.where((row) => values[row] >= low && values[row] <= high));
  });
  by("cluster-apply").onclick = act(async () => {
    if (!by("cluster-column").value) throw new Error("There are no clusters yet: make clusters and UMAP first.");
    const wanted = new Set(by("cluster-list").value.split(/[\s,]+/).filter(Boolean).map(Number));
    if (!wanted.size || [...wanted].some(Number.isNaN)) throw new Error("Give the numbers of clusters, for instance 0,3,7.");
    const values = await column(by("cluster-column").value);
    choose(selection.where((row) => wanted.has(values[row])));
  });
  by("selection-file").onchange = act(async ({ target }) => {
    const [file] = target.files;
    if (file) choose(await rowsOf(`selected?file=${encodeURIComponent(file.name)}`, { method: "POST", body: file }));
    target.value = "";
  }, "reading the file");
  by("undo").onclick = () => selection.undo();
  by("complement").onclick = () => selection.complement();
  by("clear").onclick = () => selection.set(new Uint32Array(0));
  by("selection-save").onclick = act(async () => {
    if (!by("selection-name").value) throw new Error("Give the selection a name first.");
    await saveSelection(by("selection-name").value);
    say(`saved ${by("selection-name").value}`);
  });
  by("export").onclick = act(async () => {
    const [form, name] = [by("export-form").value, by("selection-name").value || "selection"];
    const made = await json(`export/${form}/${encodeURIComponent(name)}`, { method: "POST", body: bytesOf(selection.rows) });
    for (const file of made.files) await saveFile(file);
    say(`written to ${made.path}`);
  }, "writing the particles");
  by("figure-png").onclick = act(async () => (await scatter.picture()).toBlob((blob) => save(blob, `${stateName()}.png`)));
  by("figure-svg").onclick = act(async () => save(await scatter.svg(stateName()), `${stateName()}.svg`));
}

function mode(name) {
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === name));
  }
  scatter.mode(name);
}

function wireView() {
  for (const id of ["axis-x", "axis-y", "colour"]) by(id).onchange = act(draw);
  for (const button of document.querySelectorAll("[data-mode]")) button.onclick = () => mode(button.dataset.mode);
  scatter.addEventListener("pick", act(({ detail }) => pick(detail)));
  scatter.addEventListener("hover", ({ detail: row }) => {
    by("hover").hidden = row == null;
    if (row == null) return;
    const { x, y, colour } = scatter;
    const lines = [`particle ${row}`, `${x.name}  ${tidy(x.values[row])}`, `${y.name}  ${tidy(y.values[row])}`];
    if (colour.values) lines.push(`${colour.name}  ${tidy(colour.values[row])}`);
    by("hover").textContent = lines.join("\n");
    const [left, top] = scatter.position(row) ?? [0, 0];
    by("hover").style.left = `${Math.min(left + 12, scatter.canvas.clientWidth - 150)}px`;
    by("hover").style.top = `${Math.min(top + 12, scatter.canvas.clientHeight - 90)}px`;
  });
  by("make-analysis").onclick = by("encode").onclick = by("encode-again").onclick = act(({ target }) =>
    panels.start({ kind: target.id === "make-analysis" ? "analyze" : "encode" }));
  by("message").lastElementChild.onclick = () => { by("message").hidden = true; };
  by("help-button").onclick = () => by("help").showModal();
}

const step = (by_) => () => state.run && pick(Math.min(Math.max((state.picked ?? 0) + by_, 0), state.run.n - 1));
const press = (id) => () => by(id).click();
const KEYS = {
  p: () => mode("panZoom"), l: () => mode("lasso"), b: () => mode("box"), u: press("undo"), c: press("complement"),
  Escape: press("clear"), ArrowLeft: step(-1), ArrowRight: step(1), v: press("go"), o: press("overlay-volume"),
  d: press("difference"), a: press("add-anchor"), "+": () => volumes.nudge(1.1), "-": () => volumes.nudge(1 / 1.1),
  f: () => scatter.plot.zoomToOrigin(), "?": press("help-button"),
};

function wireKeys() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || by("help").open) return;
    if (event.target.matches("input:not([type=checkbox]), select, textarea, [role=slider]")) return;
    const work = KEYS[event.key];
    if (!work) return;
    event.preventDefault();
    act(async () => work())();
  });
}

// Every three seconds: jobs, selections of other tabs, and what a training has written.
async function watch() {
  try {
    const live = await panels.refresh();
    if (state.run && live.stamp !== state.run.stamp) await load();
    await listSaved();
  } catch (error) { complain(error); }
  setTimeout(watch, document.hidden ? 15000 : 3000);
}

async function begin() {
  const run = await json("run").catch((error) => { complain(error); return { n: 0 }; });
  scatter = new Scatter(by("points"), by("overlay"), run.n);
  volumes = new Volumes(by("viewer"), by("layers"));
  panels = new Panels({ state, selection, scatter, volumes });
  globalThis.explorer = { state, selection, scatter, volumes, panels }; // for tests and the console
  wireView();
  wireSelection();
  wireKeys();
  panels.wire();
  by("undo").disabled = true;
  await act(load, "loading")();
  await volumes.ready.catch(complain);
  watch();
}

addEventListener("DOMContentLoaded", begin);
if (document.readyState !== "loading") removeEventListener("DOMContentLoaded", begin), begin();
