// Images of particles: eight of the selection, each beside its reconstruction, or the tilt images of one particle.

import { act, by, pick } from "/static/app.js";
import { ask, json } from "/static/api.js";

export class Images {
  constructor(panels) { Object.assign(this, { panels, shown: null }); }

  wire() {
    by("show-images").onclick = act(() => this.selected(), "reading images");
    by("show-tilts").onclick = act(() => this.tilts(), "reading tilt images");
    by("tilt-panel").onchange = () => this.drawTilts();
  }

  async read(rows) {
    const answer = await ask("images", { json: { rows, lowpass_A: Number(by("lowpass").value) } });
    const names = answer.headers.get("X-Panels").split(",");
    const [, panels, height, width] = answer.headers.get("X-Shape").split(",").map(Number);
    const grey = new Uint8Array(await answer.arrayBuffer());
    const canvas = (image, panel) => {
      const made = Object.assign(document.createElement("canvas"), { width, height });
      const data = new ImageData(width, height);
      const start = (image * panels + panel) * width * height;
      for (let at = 0; at < width * height; at++) data.data.set([grey[start + at], grey[start + at], grey[start + at], 255], 4 * at);
      made.getContext("2d").putImageData(data, 0, 0);
      return made;
    };
    return { rows, names, canvas };
  }

  async selected() {
    const { selection } = this.panels;
    const chosen = selection.rows.length ? selection.rows : [this.panels.needed()];
    const step = Math.max(1, Math.floor(chosen.length / 8));
    const { rows, names, canvas } = await this.read(Array.from(chosen).filter((_, i) => i % step === 0).slice(0, 8));
    const grid = by("images");
    by("tilt-panel").parentElement.hidden = true;
    grid.style.gridTemplateColumns = `46px repeat(${names.length}, 1fr)`;
    grid.replaceChildren(document.createElement("span"), ...names.map(words));
    rows.forEach((row, i) => grid.append(link(row), ...names.map((_, panel) => canvas(i, panel))));
  }

  // Side by side, the least exposed first.
  async tilts() {
    const { rows, b_factor_A2: factors } = await json(`tilts/${this.panels.needed()}`);
    this.shown = { ...await this.read(rows), factors };
    const kept = by("tilt-panel").value || "low-passed";
    by("tilt-panel").replaceChildren(...this.shown.names.map((name) => new Option(name, name)));
    by("tilt-panel").value = this.shown.names.includes(kept) ? kept : this.shown.names[0];
    this.drawTilts();
  }

  drawTilts() {
    const { rows, names, canvas, factors } = this.shown;
    const panel = names.indexOf(by("tilt-panel").value);
    const grid = by("images");
    by("tilt-panel").parentElement.hidden = false;
    grid.style.gridTemplateColumns = "repeat(5, 1fr)";
    grid.replaceChildren(...rows.map((row, i) => {
      const one = Object.assign(document.createElement("figure"), { title: `image ${row}` });
      one.append(canvas(i, panel), Object.assign(document.createElement("figcaption"), { textContent: `B ${factors[i].toFixed(0)} Å²` }));
      return one;
    }));
  }
}

const words = (name) => Object.assign(document.createElement("span"), { textContent: name });

function link(row) {
  const button = Object.assign(document.createElement("button"), { textContent: row, title: "Show its volume" });
  button.onclick = act(() => pick(row));
  return button;
}
