// Paths: found and drawn at once, followed by a slider or the handle on the plot, written as files by drgn traverse.

import { act, by } from "/static/app.js";
import { ask, fileUrl, json, saveFile } from "/static/api.js";
import { between } from "/static/handle.js";

export class Path {
  // panels has start() and needed()
  constructor(panels) {
    Object.assign(this, { panels, anchors: [], z: [], volumes: [], level: null, wanted: null, going: null });
  }

  wire() {
    const { scatter } = this.panels;
    by("add-anchor").onclick = act(async () => this.setAnchors([...this.anchors, this.panels.needed()]));
    by("anchors-clear").onclick = () => this.setAnchors([]);
    by("path-follow").onclick = act(() => this.follow(), "finding the path");
    by("path-make").onclick = act(() => this.write(), "finding the path");
    by("path-slider").oninput = act(() => this.go(Number(by("path-slider").value)));
    by("path-play").onclick = act(() => this.play());
    by("path-how").onchange = () => { by("path-pc").parentElement.hidden = by("path-how").value !== "pc"; };
    scatter.addEventListener("along", act(({ detail: at }) => this.go(at)));
  }

  asked() {
    return { how: by("path-how").value, points: Number(by("path-points").value), pc: Number(by("path-pc").value),
      anchors: this.anchors };
  }

  setAnchors(rows) {
    this.anchors = rows;
    by("anchors").textContent = rows.length ? `Anchors: ${rows.join(" → ")}` : "No anchors: click a particle, then “Add as anchor”.";
    this.panels.scatter.mark({ anchors: rows });
  }

  // A path that is not written: each of its volumes is decoded when it is looked at.
  async follow() {
    const found = await this.find();
    if (this.panels.state.run.decodes) await this.go(0);
    return found;
  }

  async find() {
    const found = await json("route", { json: this.asked() });
    this.take(found, [], null);
    by("path-said").textContent = found.said.join(" ");
    by("path-files").replaceChildren();
    return found;
  }

  async write() {
    const { disconnected } = await this.find();
    await this.panels.start({ kind: "path", name: by("path-name").value, movie: by("path-movie").checked,
      disconnected, ...this.asked() });
  }

  // One that drgn traverse has written.
  async show(result) {
    const volumes = result.files.filter((name) => /vol_\d+\.mrc$/.test(name));
    const files = result.files.filter((name) => /\.(cxc|gif|mp4|csv|png)$/.test(name));
    by("path-files").replaceChildren(...[...files, ...volumes].map(fileButton));
    this.take(result, volumes, result.level);
    if (volumes.length) await this.go(0);
  }

  take({ z, at, nearest }, volumes, level) {
    Object.assign(this, { z, volumes, level });
    this.panels.scatter.mark({ path: { at, nearest }, at: 0 });
    by("path-result").hidden = false;
    by("path-slider").max = z.length - 1;
    by("path-slider").step = this.panels.state.run.decodes ? 0.05 : 1;
  }

  // To a place on the path, 0 for its first point. Only the newest place is decoded, not those that were passed.
  go(at) {
    this.wanted = at;
    by("path-slider").value = at;
    by("path-at").textContent = `${+(at + 1).toFixed(2)} of ${this.z.length}`;
    this.panels.scatter.mark({ at });
    this.going ??= this.arrive().finally(() => { this.going = null; });
    return this.going;
  }

  async arrive() {
    const { volumes } = this.panels;
    while (this.wanted != null) {
      const at = this.wanted;
      this.wanted = null;
      const file = this.volumes[at];
      const level = volumes.layers.find((layer) => layer.what?.path)?.level ?? this.level;
      const shown = { label: `path, ${+(at + 1).toFixed(2)}`, level, what: { path: true } };
      const layer = await (file ? volumes.show(await (await ask(fileUrl(file))).arrayBuffer(), shown)
        : this.panels.showDecoded({ z: between(this.z, at) }, shown, () => !this.playing && this.wanted == null));
      this.level ??= layer.start;
    }
  }

  async play() {
    this.playing = true;
    try {
      for (let i = 0; i < this.z.length - 1; i++) await this.go(i);
    } finally {
      this.playing = false;
    }
    await this.go(this.z.length - 1);
  }
}

export function fileButton(name) {
  const button = Object.assign(document.createElement("button"), { textContent: name.split("/").pop(), title: `Save ${name}` });
  button.onclick = act(() => saveFile(name));
  return button;
}
