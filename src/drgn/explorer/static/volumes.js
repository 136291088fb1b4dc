// Volumes in Mol*: isosurfaces as layers, each with a level; those that are kept stay when another is shown.

import { viridis } from "/static/colours.js";

const COLOURS = [0x56b4e9, 0xe69f00, 0x009e73, 0xcc79a7, 0x332288, 0xf0e442];
const [MORE, LESS] = [0x0a4f9c, 0xd55e00]; // of a difference, and of nothing else
const UNKNOWN = 0xb9bfc6;
const SCALE = Array.from({ length: 9 }, (_, i) => viridis(i / 8)); // of a local resolution, the best first
const REPRESENTATION = "volume-representation-3d";
const hex = (number) => `#${number.toString(16).padStart(6, "0")}`;

export class Volumes extends EventTarget {
  constructor(element, list) {
    super();
    Object.assign(this, { element, list, layers: [], queue: Promise.resolve() });
    this.ready = this.create();
  }

  async create() {
    this.viewer = await globalThis.molstar.Viewer.create(this.element, {
      layoutIsExpanded: false, layoutShowControls: false, layoutShowRemoteState: false, layoutShowSequence: false,
      layoutShowLog: false, layoutShowLeftPanel: false, viewportShowExpand: false, viewportShowControls: false,
      viewportShowSettings: false, viewportShowSelectionMode: false, viewportShowAnimation: false,
      viewportShowTrajectoryControls: false, viewportShowScreenshotControls: false, viewportShowReset: true,
      viewportShowToggleFullscreen: true, volumeStreamingDisabled: true, collapseLeftPanel: true, collapseRightPanel: true,
    });
    this.plugin = this.viewer.plugin;
    this.plugin.canvas3d?.setProps({
      renderer: { backgroundColor: 0xffffff },
      camera: { helper: { axes: { name: "off", params: {} } } },
    });
    if (softwareRendering()) this.plugin.canvas3d?.setProps({
      multiSample: { mode: "off" },
      postprocessing: { occlusion: { name: "off", params: {} }, antialiasing: { name: "off", params: {} } },
    });
  }

  // One change at a time: Mol* keeps one tree of states.
  change(work) {
    const next = this.queue.then(async () => { await this.ready; return work(); });
    this.queue = next.catch(() => {});
    return next;
  }

  // data: bytes of an MRC file; difference: two surfaces, at +level and -level; beside: other volumes stay
  show(data, { label, level, difference = false, beside = false, what = null }) {
    return this.change(async () => {
      const gone = beside ? [] : this.layers.filter((layer) => !layer.kept);
      const taken = this.layers.filter((layer) => !gone.includes(layer)).map((layer) => layer.colour);
      const colour = COLOURS.find((one) => !taken.includes(one)) ?? COLOURS[0];
      const surfaces = difference
        ? [{ type: "absolute", value: level, color: MORE }, { type: "absolute", value: -level, color: LESS }]
        : [{ type: "absolute", value: level, color: colour }];
      const { made, root } = await this.load(data, surfaces);
      const layer = { label, data, level, start: Math.abs(level), refs: surfacesOf(made), roots: [root], colour, difference, kept: false, what };
      if (!this.layers.length) this.focus(data, Math.abs(level));
      this.layers.push(layer);
      for (const old of gone) await this.drop(old);
      this.list_();
      this.dispatchEvent(new Event("shown"));
      return layer;
    });
  }

  // The whole map in place of a coarse one; a level that was moved stays moved.
  refine(layer, data, level) {
    return this.change(async () => {
      if (!this.layers.includes(layer)) return;
      const moved = layer.level / layer.start;
      const [start, old] = [Math.abs(level), layer.roots];
      const values = layer.difference ? [[moved * start, MORE], [-moved * start, LESS]] : [[moved * start, layer.colour]];
      const { made, root } = await this.load(data, values.map(([value, color]) => ({ type: "absolute", value, color })));
      Object.assign(layer, { data, start, level: moved * start, refs: surfacesOf(made), roots: [root] });
      await this.prune(old);
      this.list_();
    });
  }

  // An MRC file in Mol*'s tree: the cells that it became, and the one that they hang on.
  async load(data, surfaces) {
    const { cells, tree } = this.plugin.state.data;
    const before = new Set(cells.keys());
    const url = URL.createObjectURL(new Blob([data]));
    try {
      await this.viewer.loadVolumeFromUrl({ url, format: "ccp4", isBinary: true }, surfaces);
    } finally {
      URL.revokeObjectURL(url);
    }
    const made = [...this.plugin.state.data.cells.values()].filter((cell) => !before.has(cell.transform.ref));
    let root = made[0].transform;
    while (root.parent !== tree.root.ref) root = cells.get(root.parent).transform;
    return { made, root: root.ref };
  }

  // Colour a surface by a second volume, of a local resolution in A from low to high.
  colourBy(layer, data, { low, high, window }) {
    return this.change(async () => {
      if (!this.layers.includes(layer)) return;
      const { made, root } = await this.load(data, []);
      const volume = made.findLast((cell) => cell.obj?.data?.grid);
      layer.roots.push(root);
      layer.scale = { low, high, window, data };
      const coloring = { name: "absolute-value", params: { domain: { name: "custom", params: [low, high] },
        list: { kind: "interpolate", colors: SCALE.map((colour) => parseInt(colour.slice(1), 16)) } } };
      const update = this.plugin.build();
      for (const ref of layer.refs) update.to(ref).update((old) => ({ ...old, colorTheme: { name: "external-volume", params: {
        volume: { ref: volume.transform.ref, getValue: () => volume.obj.data },
        coloring, defaultColor: UNKNOWN, normalOffset: 0, usePalette: false } } }));
      await update.commit();
      this.list_();
    });
  }

  // Look at what is above the level, not at the whole box.
  focus(buffer, level) {
    const [header, density] = [new DataView(buffer), new Float32Array(buffer, 1024)];
    const size = header.getInt32(0, true);
    const pixel = header.getFloat32(40, true) / size;
    const [least, most] = [[size, size, size], [0, 0, 0]];
    density.forEach((value, i) => {
      if (value < level) return;
      [i % size, Math.floor(i / size) % size, Math.floor(i / size ** 2)].forEach((at, axis) => {
        least[axis] = Math.min(least[axis], at);
        most[axis] = Math.max(most[axis], at);
      });
    });
    const center = least.map((low, axis) => pixel * (low + most[axis]) / 2);
    const radius = pixel * Math.hypot(...least.map((low, axis) => most[axis] - low + 1)) / 2;
    if (radius > 0) this.plugin.managers.camera.focusSphere({ center, radius }, { durationMs: 0, extraRadius: 0 });
  }

  async drop(layer) {
    this.layers = this.layers.filter((other) => other !== layer);
    await this.prune(layer.roots);
  }

  async prune(roots) {
    const update = this.plugin.build();
    for (const root of [...roots].reverse()) update.delete(root);
    await update.commit();
  }

  remove(layer) { return this.change(async () => { await this.drop(layer); this.list_(); }); }

  setLevel(layer, level) {
    layer.level = level;
    if (layer.waiting) return layer.waiting; // only the newest level of a slider is drawn
    layer.waiting = this.change(async () => {
      layer.waiting = null;
      const update = this.plugin.build();
      layer.refs.forEach((ref, i) => update.to(ref).update((old) => ({
        ...old,
        type: { ...old.type, params: { ...old.type.params,
          isoValue: { kind: "absolute", absoluteValue: i ? -layer.level : layer.level } } },
      })));
      await update.commit();
    });
    return layer.waiting;
  }

  list_() {
    this.list.replaceChildren(...this.layers.map((layer) => {
      const row = document.createElement("div");
      row.className = "layer";
      row.innerHTML = `<span class="swatch"></span><span class="name"></span>
        <input type="range" min="0.2" max="3" step="0.02" aria-label="Level"><span class="level"></span>
        <label><input type="checkbox"> keep</label><button aria-label="Remove this volume">×</button>`;
      row.querySelector(".swatch").style.background = layer.difference
        ? `linear-gradient(90deg, ${hex(MORE)} 50%, ${hex(LESS)} 50%)` : hex(layer.colour);
      if (layer.scale) {
        row.querySelector(".swatch").style.background = `linear-gradient(90deg, ${SCALE.join(", ")})`;
        row.append(legend(layer.scale));
      }
      row.querySelector(".name").textContent = row.querySelector(".name").title = layer.label;
      const [slider, level, keep, remove] = [row.querySelector("[type=range]"), row.querySelector(".level"),
        row.querySelector("[type=checkbox]"), row.querySelector("button")];
      slider.value = layer.level / layer.start;
      level.textContent = layer.level.toPrecision(3);
      slider.oninput = () => {
        level.textContent = (slider.value * layer.start).toPrecision(3);
        this.setLevel(layer, slider.value * layer.start);
      };
      keep.checked = layer.kept;
      keep.onchange = () => { layer.kept = keep.checked; };
      remove.onclick = () => this.remove(layer);
      return row;
    }));
  }

  // What is shown, for ChimeraX: a line of JSON, then the files one after the other.
  scene() {
    const files = [];
    const layers = this.layers.map(({ label, level, colour, difference, data, scale }) => {
      files.push(data, ...(scale ? [scale.data] : []));
      const steps = SCALE.map((shade, i) => [scale && scale.low + (scale.high - scale.low) * i / (SCALE.length - 1), shade]);
      return { label, bytes: data.byteLength, scale_bytes: scale?.data.byteLength, scale: scale && steps,
        levels: difference ? [[level, hex(MORE)], [-level, hex(LESS)]] : [[level, hex(colour)]] };
    });
    return new Blob([`${JSON.stringify({ layers })}\n`, ...files]);
  }

  nudge(factor) {
    for (const layer of this.layers) this.setLevel(layer, layer.level * factor);
    this.list_();
  }

  async picture() { return (await fetch(await this.plugin.helpers.viewportScreenshot.getImageDataUri())).blob(); }
}

function surfacesOf(cells) {
  return cells.filter((cell) => cell.transform.transformer.definition.name === REPRESENTATION).map((cell) => cell.transform.ref);
}

function legend({ low, high, window }) {
  const bar = Object.assign(document.createElement("div"), { className: "scale",
    title: `From the half maps, under a window of ${window.toFixed(0)} Å` });
  bar.innerHTML = "<span></span><i></i><span></span>";
  const [from, colours, to] = bar.children;
  from.textContent = `local resolution ${low.toFixed(1)} Å`;
  to.textContent = `${high.toFixed(1)} Å`;
  colours.style.background = `linear-gradient(90deg, ${SCALE.join(", ")})`;
  return bar;
}

function softwareRendering() {
  const gl = document.createElement("canvas").getContext("webgl");
  const info = gl?.getExtension("WEBGL_debug_renderer_info");
  return !info || /swiftshader|llvmpipe|software/i.test(gl.getParameter(info.UNMASKED_RENDERER_WEBGL));
}
