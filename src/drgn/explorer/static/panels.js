// The panels beside the volumes: point, path, particles, evidence, training, and the jobs below.

import { act, by, complain, pick, saveSelection, say, stateName } from "/static/app.js";
import { ask, fileUrl, json, save, saveFile } from "/static/api.js";
import { Images } from "/static/images.js";
import { fileButton, Path } from "/static/path.js";

const REST_MS = 300; // from a coarse surface to the request for the whole one

export class Panels {
  constructor(parts) {
    Object.assign(this, parts, { seen: new Map(), weights: null, replacing: 0 });
    this.path = new Path(this);
    this.images = new Images(this);
  }

  wire() {
    for (const tab of document.querySelectorAll("[data-tab]")) tab.onclick = () => this.open(tab.dataset.tab);
    by("go").onclick = act(() => pick(this.typed()));
    by("row").onkeydown = (event) => { if (event.key === "Enter") by("go").click(); };
    by("overlay-volume").onclick = act(() => this.decode(this.needed(), { beside: true }));
    by("difference").onclick = act(() => this.difference());
    by("halves").onclick = act(() => this.halfMaps());
    by("volume-save").onclick = act(async () => {
      const layer = this.volumes.layers.at(-1);
      await layer?.refining;
      if (!layer) throw new Error("Click a particle first: there is no volume to save.");
      save(new Blob([layer.data]), `${stateName()}_${layer.label.replace(/\W+/g, "-")}.mrc`);
    });
    by("scene-save").onclick = act(() => this.scene(), "writing for ChimeraX");
    by("picture-save").onclick = act(async () => {
      if (!this.volumes.layers.length) throw new Error("Click a particle first: there is no volume to draw.");
      save(await this.volumes.picture(), `${stateName()}_volume.png`);
    });
    by("local").onclick = act(() => this.local(), "local resolution");
    this.path.wire();
    this.images.wire();
    by("evidence").onclick = act(() => this.evidence());
  }

  open(name) {
    for (const tab of document.querySelectorAll("[data-tab]")) {
      tab.setAttribute("aria-selected", String(tab.dataset.tab === name));
      by(`tab-${tab.dataset.tab}`).hidden = tab.dataset.tab !== name;
    }
  }

  typed() {
    const { value, max, validity } = by("row");
    if (!value || !validity.valid) throw new Error(`Particle ${value || "?"}: expected a whole number from 0 to ${max}.`);
    return Number(value);
  }

  needed() {
    if (this.state.picked == null) throw new Error("Click a particle first.");
    return this.state.picked;
  }

  // ---- point
  async showPoint(row) {
    const { x, y } = this.scatter;
    const words = x ? `: ${x.name} ${x.values[row].toPrecision(3)}, ${y.name} ${y.values[row].toPrecision(3)}` : "";
    by("picked").textContent = `Particle ${row}${words}`;
    if (!this.state.run.decodes) {
      throw new Error("These weights of cryoDRGN are not decoded here: cryodrgn eval_vol makes maps.");
    }
    await this.decode(row, { beside: false });
  }

  async decode(row, { beside = false, half, minus, label = `particle ${row}` }) {
    const shown = { label, beside, difference: minus !== undefined, what: { row } };
    const begun = performance.now();
    const doing = () => (this.volumes.layers.some((layer) => layer.what === shown.what) ? "refining" : "decoding");
    const ticking = setInterval(() => say(`${doing()}, ${Math.round((performance.now() - begun) / 1000)} s`), 500);
    try {
      await this.showDecoded({ row, half, minus }, shown);
    } finally {
      clearInterval(ticking);
      say("");
    }
  }

  // A volume that is decoded; in a large box first a coarse one, then the whole one where it is still wanted.
  async showDecoded(request, shown, wanted = () => true) {
    const coarse = this.state.run.coarse_first;
    const asked = shown.beside ? this.replacing : ++this.replacing;
    const volumeAt = async (coarse) => {
      const answer = await ask("volume", { json: { ...request, coarse } });
      return { level: Number(answer.headers.get("X-Level")), data: await answer.arrayBuffer() };
    };
    const { data, level } = await volumeAt(coarse);
    const layer = await this.volumes.show(data, { ...shown, level: shown.level ?? level });
    const still = () => wanted() && this.volumes.layers.includes(layer) && (layer.kept || asked === this.replacing);
    if (coarse) await (layer.refining = this.refine(layer, () => volumeAt(false), shown.level, still));
    return layer;
  }

  // After the coarse surface is drawn: decoding would take the processor from that. Not where another is asked for by then.
  async refine(layer, whole, given, wanted) {
    await new Promise((resolve) => setTimeout(resolve, REST_MS));
    if (!wanted()) return;
    const { data, level } = await whole();
    await this.volumes.refine(layer, data, given ?? level);
  }

  async difference() {
    const row = this.needed();
    const other = this.volumes.layers.findLast((layer) => layer.kept && layer.what?.row !== undefined);
    if (!other) throw new Error("Tick “keep” at a volume first, then click another particle.");
    await this.decode(row, { minus: { row: other.what.row }, label: `particle ${row} − ${other.what.row}` });
  }

  async halfMaps() {
    const row = this.needed();
    await this.decode(row, { half: 1, label: `particle ${row}, half 1` });
    await this.decode(row, { half: 2, label: `particle ${row}, half 2`, beside: true });
  }

  // The surface in colours of how far the half maps agree around each of its places.
  async local() {
    const row = this.needed();
    await this.decode(row, { label: `particle ${row}` });
    const layer = this.volumes.layers.at(-1);
    const answer = await ask("confidence", { json: { row } });
    const [low, high, window] = answer.headers.get("X-Low-High-Window").split(",").map(Number);
    await this.volumes.colourBy(layer, await answer.arrayBuffer(), { low, high, window });
  }

  async scene() {
    if (!this.volumes.layers.length) throw new Error("Click a particle first: there is no volume to write.");
    await Promise.all(this.volumes.layers.map((layer) => layer.refining));
    const made = await json(`scenes/${encodeURIComponent(by("selection-name").value || "scene")}`, { method: "PUT", body: this.volumes.scene() });
    await saveFile(made.files.at(-1));
  }

  // ---- evidence
  async evidence() {
    if (!this.selection.rows.length) throw new Error("Select particles first.");
    const name = by("selection-name").value || `selection-${this.selection.rows.length}`;
    await saveSelection(name);
    await this.start({ kind: "evidence", selection: name });
  }

  async showEvidence(job, result) {
    const words = Object.assign(document.createElement("p"), { textContent: job.lines.findLast((line) => line.includes("half maps")) ?? job.lines.at(-1) ?? "" });
    const files = Object.fromEntries(result.files.map((name) => [name.split("/").pop(), name]));
    const both = Object.assign(document.createElement("button"), { textContent: "Show images’ map beside the neural one" });
    both.onclick = act(async () => {
      for (const [file, label, beside] of [["neural.mrc", "neural", false], ["map.mrc", "images alone", true]]) {
        if (!files[file]) continue; // of a run of cryoDRGN, whose own map is the one of the particle beside it
        const data = await (await ask(fileUrl(files[file]))).arrayBuffer();
        await this.volumes.show(data, { label, level: levelOf(data), beside });
      }
    });
    const panels = files["fsc.png"] ? await halves(await (await ask(fileUrl(files["fsc.png"]))).blob()) : [];
    const list = Object.assign(document.createElement("div"), { className: "files" });
    list.append(both, ...result.files.filter((name) => name.endsWith(".mrc")).map(fileButton));
    by("evidence-result").replaceChildren(words, list, ...panels);
  }

  // ---- jobs and training
  async start(asked) {
    const jobs = await json("jobs", { json: asked });
    this.seen.set(jobs.at(-1).number, { ...jobs.at(-1), mine: true });
    this.list(jobs);
  }

  async refresh() {
    const [jobs, live] = await Promise.all([json("jobs"), json("live")]);
    this.list(jobs);
    for (const job of jobs) {
      const known = this.seen.get(job.number);
      this.seen.set(job.number, { ...job, mine: known?.mine });
      if (known?.mine && known.state === "running" && job.state === "done") await this.finished(job).catch(complain);
    }
    this.training(live, jobs);
    return live;
  }

  async finished(job) {
    const { result } = await json(`jobs/${job.number}`);
    if (job.title.startsWith("path")) {
      this.open("path");
      await this.path.show(result);
    } else if (job.title.startsWith("evidence")) {
      this.open("evidence");
      await this.showEvidence(job, result);
    }
  }

  list(jobs) {
    by("jobs").replaceChildren(...jobs.slice(-4).reverse().map((job) => {
      const row = Object.assign(document.createElement("div"), { className: "job" });
      row.classList.toggle("over", job.state === "done" || job.state === "cancelled");
      row.innerHTML = '<span></span><span class="end"></span><span class="said"></span>';
      row.firstChild.textContent = `${job.title}: ${job.state}, ${Math.round(job.seconds)} s`;
      row.title = job.command;
      row.lastChild.textContent = job.lines.at(-1) ?? "starting";
      const end = row.querySelector(".end");
      if (job.state === "running") {
        const cancel = Object.assign(document.createElement("button"), { textContent: "Cancel" });
        cancel.onclick = act(async () => { await ask(`jobs/${job.number}`, { method: "DELETE" }); this.list(await json("jobs")); });
        end.append(document.createElement("progress"), " ", cancel);
      } else if (job.state === "done" && /^(path|evidence)/.test(job.title)) {
        const show = Object.assign(document.createElement("button"), { textContent: "Show" });
        show.onclick = act(() => this.finished(job));
        end.append(show);
      }
      return row;
    }));
  }

  training(live, jobs) {
    const losses = live.losses["heldout/loss"] ?? live.losses["train/loss"] ?? [];
    by("training-words").textContent = live.epochs.length
      ? `${live.epochs.length} epoch${live.epochs.length === 1 ? "" : "s"}; ${Object.entries(live.losses).map(([name, all]) => `${name} ${all.at(-1)?.toPrecision(5)}`).join(", ")}.`
      : "No losses are logged in this folder.";
    const newer = this.weights && live.weights !== this.weights;
    // in place of the particle's own volume, not of a path, a difference or a coloured surface
    const own = (layer) => layer.what?.row === this.state.picked && !layer.kept && !layer.difference && !layer.scale;
    if (newer && by("follow").checked && this.state.picked != null && this.volumes.layers.some(own)) {
      act(() => this.decode(this.state.picked, { label: `particle ${this.state.picked}, new weights` }))();
    }
    // when no encoding is going on: weights that come meanwhile are for the next one
    this.stale ||= newer;
    const encoding = jobs.some((job) => job.state === "running" && job.title.startsWith("encode"));
    if (this.stale && by("follow-latents").checked && !encoding) {
      this.stale = false;
      act(() => this.start({ kind: "encode" }))();
    }
    this.weights = live.weights;
    if (losses.length) curves(by("losses"), live);
  }
}

// A picture of two panels side by side, one below the other, each as wide as the column; others as they are.
async function halves(blob) {
  const { width, height } = await createImageBitmap(blob);
  const src = URL.createObjectURL(blob);
  const made = (className) => Object.assign(document.createElement("img"), { src, className, alt: "Fourier shell correlation" });
  return width > 2 * height ? ["left", "right"].map(made) : [made("")];
}

// Contour level of a map that comes without one: four standard deviations above the mean.
function levelOf(buffer) {
  const values = new Float32Array(buffer.slice(1024));
  let [sum, square] = [0, 0];
  for (const value of values) { sum += value; square += value * value; }
  const mean = sum / values.length;
  return mean + 4 * Math.sqrt(Math.max(square / values.length - mean * mean, 0));
}

function curves(canvas, live) {
  const draw = canvas.getContext("2d");
  const [width, height, left, bottom] = [canvas.width, canvas.height, 60, 20];
  draw.clearRect(0, 0, width, height);
  draw.font = "11px system-ui, sans-serif";
  const all = Object.values(live.losses).flat().filter((value) => value != null);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (i) => left + (width - left - 10) * (live.epochs.length < 2 ? 0.5 : i / (live.epochs.length - 1));
  const y = (value) => 10 + (height - bottom - 16) * (1 - (value - low) / (high - low || 1));
  draw.strokeStyle = "#aab4be";
  draw.strokeRect(left, 6, width - left - 6, height - bottom - 6);
  draw.fillStyle = "#1b2530";
  draw.fillText(high.toPrecision(4), 8, 14); draw.fillText(low.toPrecision(4), 8, height - bottom - 2);
  draw.fillText(`epoch ${live.epochs[0]} to ${live.epochs.at(-1)}`, left, height - 5);
  Object.entries(live.losses).forEach(([name, values], number) => {
    draw.strokeStyle = draw.fillStyle = ["#0072b2", "#d55e00"][number];
    draw.lineWidth = 2; draw.setLineDash(number ? [5, 3] : []); draw.beginPath();
    values.forEach((value, i) => { if (value != null) draw.lineTo(x(i), y(value)); });
    draw.stroke();
    values.forEach((value, i) => { if (value != null) draw.fillRect(x(i) - 2, y(value) - 2, 4, 4); });
    draw.fillText(name, width - 90, 20 + 14 * number);
  });
  draw.setLineDash([]);
}
