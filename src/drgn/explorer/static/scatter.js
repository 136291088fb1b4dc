// The latent space: regl-scatterplot for the points, a canvas above it for axes, legend, anchors and path.

import { createScatterplot } from "/static/vendor/regl-scatterplot.js";
import { classColour, encode, viridis } from "/static/colours.js";
import { between, handle } from "/static/handle.js";
import { SvgContext } from "/static/svg.js";
import { directly, shuffled, Thinning, withoutAntialiasing } from "/static/thinning.js";

const MANY = 500000; // points, from which on they are squares, not blended
const FOLLOW_MS = 150; // until axes follow many points
const SELECTED = "#d5261f";
const [LEFT, RIGHT, BOTTOM, TOP] = [-0.82, 0.94, -0.88, 0.93]; // of the canvas, from -1 to 1
const [LEGEND_LEFT_PX, LEGEND_BOTTOM_PX] = [52, 40]; // of a legend on the left or at the bottom: beside the axes

export class Scatter extends EventTarget {
  constructor(canvas, overlay, n) {
    super();
    Object.assign(this, { canvas, overlay, marks: {}, x: null, y: null, selected: [], lassoing: false, many: n > MANY });
    this.order = shuffled(n); // row of each point that is drawn
    this.place = new Uint32Array(n); // point of each row
    this.order.forEach((row, point) => { this.place[row] = point; });
    overlay.getContext("2d", { willReadFrequently: true }); // drawn by the processor: a few lines, many times
    this.plot = (this.many ? withoutAntialiasing : (make) => make())(() => createScatterplot({
      canvas,
      backgroundColor: "#ffffff",
      performanceMode: this.many,
      pointOutlineWidth: 0,
      pointSizeSelected: 0,
      opacityInactiveMax: 0.5,
      opacityInactiveScale: 0.7,
      lassoColor: "#0b5a9c",
      lassoMinDist: 3,
      showReticle: false,
      deselectOnDblClick: false,
      deselectOnEscape: false,
      actionKeyMap: { lasso: "shift" },
    }));
    this.renderer = this.plot.get("renderer");
    if (this.many) directly(this.renderer, canvas);
    this.thinning = new Thinning(this.plot, n);
    handle(this);
    this.plot.subscribe("lassoStart", () => { this.lassoing = true; });
    // a lasso that ends where it began is a click too, which is then no choice of a particle
    canvas.addEventListener("pointerdown", () => { this.lassoing = this.lassoed = false; });
    canvas.addEventListener("mousedown", () => this.settle(), { capture: true });
    // it begins where the button went down, not where the mouse was at its first move
    canvas.addEventListener("mousedown", ({ clientX, clientY, buttons, shiftKey }) => {
      if (!shiftKey && this.plot.get("mouseMode") === "panZoom") return;
      canvas.dispatchEvent(new MouseEvent("mousemove", { clientX, clientY, buttons, bubbles: true }));
    });
    this.plot.subscribe("select", ({ points }) => {
      if (this.lassoing) {
        this.lassoing = false;
        this.lassoed = true;
        this.emit("lasso", Uint32Array.from(points, (point) => this.order[point]).sort());
      } else if (this.lassoed) this.highlight(this.selected);
      else {
        this.highlight(this.selected);
        this.emit("pick", this.order[points[points.length - 1]]);
      }
    });
    // of what is selected already, nothing is told when it is clicked
    canvas.addEventListener("click", () => {
      if (this.selected.length === 1 && this.hovered === this.selected[0] && !this.lassoed) this.emit("pick", this.hovered);
    });
    this.plot.subscribe("deselect", () => this.highlight(this.selected));
    this.plot.subscribe("pointover", (point) => this.emit("hover", this.hovered = this.order[point]));
    this.plot.subscribe("pointout", () => this.emit("hover", this.hovered = null));
    this.plot.subscribe("view", () => this.follow());
    new ResizeObserver(() => { this.fit(); this.decorate(); }).observe(canvas.parentElement);
  }

  emit(name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })); }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    this.plot.set({ width, height, aspectRatio: width / height });
    this.renderer.resize(width, height); // not the whole window: each of its pixels costs time
    this.renderer.refresh();
    this.overlay.width = width * devicePixelRatio;
    this.overlay.height = height * devicePixelRatio;
  }

  // axes: {name, values}; colour: {name, values, kind}
  async draw(x, y, colour) {
    const moved = this.x?.values !== x.values || this.y?.values !== y.values;
    this.x = { ...x, ...range(x.values) };
    this.y = { ...y, ...range(y.values) };
    if (moved) this.corner = emptiest(this.x, this.y);
    this.colour = colour;
    this.encoded = encode(colour.values, colour.kind);
    const n = x.values.length;
    const drawn = (values) => Float32Array.from(this.order, (row) => values[row]);
    const points = { x: drawn(placed(x.values, this.x, LEFT, RIGHT)), y: drawn(placed(y.values, this.y, BOTTOM, TOP)) };
    if (this.encoded.z) points.z = drawn(this.encoded.z);
    this.plot.set({
      pointColor: this.encoded.map.length > 1 ? this.encoded.map : this.encoded.map[0],
      pointColorActive: this.encoded.map.map(() => SELECTED), // one for each colour, or it is not used
      pointColorHover: this.encoded.map.map(() => "#000000"),
      colorBy: this.encoded.z ? "valueA" : null,
      opacityBy: this.many ? null : "density",
      opacity: 1,
      pointSize: n > 200000 ? 2 : n > 20000 ? 3 : 4,
    });
    const index = moved ? undefined : this.plot.get("spatialIndex");
    await this.plot.draw(points, {
      zDataType: this.encoded.classes ? "categorical" : "continuous",
      spatialIndex: index,
      preventFilterReset: true,
    });
    this.highlight(this.selected);
    this.decorate();
  }

  highlight(rows) {
    this.selected = rows;
    if (rows.length) this.plot.select(Array.from(rows, (row) => this.place[row]), { preventEvent: true });
    else this.plot.deselect({ preventEvent: true });
  }

  mode(name) {
    this.plot.set({
      mouseMode: name === "panZoom" ? "panZoom" : "lasso",
      lassoType: name === "box" ? "rectangle" : "freeform",
    });
  }

  mark(marks) {
    Object.assign(this.marks, marks);
    this.decorate();
  }

  // Pixels of a particle.
  position(row) { return this.plot.getScreenPosition(this.place[row]); }

  // pixels of data coordinates, from where four particles are on the screen
  scales() {
    const axis = (which, part) => {
      const [low, high] = which.at;
      const [a, b] = [this.position(low), this.position(high)];
      if (!a || !b) return null;
      const width = which.high - which.low || 1;
      const slope = (b[part] - a[part]) / width;
      return { of: (value) => a[part] + (value - which.low) * slope, value: (px) => which.low + (px - a[part]) / slope };
    };
    const [x, y] = [axis(this.x, 0), axis(this.y, 1)];
    return x && y ? { x, y } : null;
  }

  // While the button is down, a frame moves the view by what the mouse went since the frame before: also by what it
  // went before the button was down, where frames are slow, and a click is then no longer on its particle. So this
  // is the frame before.
  settle() {
    const camera = this.plot.get("camera");
    if (camera.tick()) camera.setView(camera.view); // it was zoomed: the next frame is to know it
  }

  // Axes and marks after the points; of many points a few times a second, for the canvas costs as much as they do.
  follow() {
    if (!this.many) return this.decorate();
    if (this.following) return undefined;
    this.following = setTimeout(() => { this.following = 0; this.decorate(); }, FOLLOW_MS);
    return undefined;
  }

  decorate() {
    const draw = this.overlay.getContext("2d");
    const [width, height] = [this.overlay.width / devicePixelRatio, this.overlay.height / devicePixelRatio];
    draw.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    draw.clearRect(0, 0, width, height);
    this.decorateOn(draw, width, height);
  }

  decorateOn(draw, width, height) {
    if (!this.x) return;
    const scales = this.scales();
    if (!scales) return;
    axes(draw, width, height, this.x, this.y, scales);
    this.legend(draw, width, height);
    const { anchors = [], picked } = this.marks;
    const way = this.pathPixels(scales);
    if (way.length) {
      draw.strokeStyle = "#000"; draw.lineWidth = 2; draw.beginPath();
      for (const [x, y] of way) draw.lineTo(x, y);
      draw.stroke();
      for (const [x, y] of way) disc(draw, x, y, 4, "#fff");
      disc(draw, ...this.handleAt(scales), 7, "#f5c400");
    }
    anchors.forEach((row, i) => {
      const [x, y] = this.spot(scales, row);
      disc(draw, x, y, 9, "#f5c400");
      text(draw, String(i + 1), x, y + 4, "center");
    });
    if (picked != null) {
      const [x, y] = this.spot(scales, picked);
      for (const [colour, line] of [["#fff", 5], ["#000", 2.5]]) {
        draw.strokeStyle = colour; draw.lineWidth = line;
        draw.beginPath(); draw.arc(x, y, 8, 0, 7); draw.stroke();
      }
    }
  }

  // Pixels of the points of the path: where its latents are on axes that are linear in z, and on others where the
  // particle is that is nearest to each.
  pathPixels(scales = this.scales()) {
    const { path } = this.marks;
    if (!path || !scales) return [];
    const along = (axis) => path.at[axis.name] ?? path.nearest.map((row) => axis.values[row]);
    const [across, up] = [along(this.x), along(this.y)];
    return across.map((value, i) => [scales.x.of(value), scales.y.of(up[i])]);
  }

  handleAt(scales = this.scales()) {
    const way = this.pathPixels(scales);
    return way.length ? between(way, this.marks.at ?? 0) : null;
  }

  spot(scales, row) { return [scales.x.of(this.x.values[row]), scales.y.of(this.y.values[row])]; }

  // In the corner with the fewest points.
  legend(draw, width, height) {
    const { legend } = this.encoded;
    if (!legend) return;
    const shown = legend.numbers?.slice(0, 24);
    const rows = Math.min(shown?.length, 12);
    const columns = Math.ceil(shown?.length / rows);
    const [wide, high] = shown ? [46 * columns + 4, rows * 16 + 24] : [184, 46];
    const left = this.corner % 2 ? LEGEND_LEFT_PX : width - wide - 6;
    const top = this.corner < 2 ? 6 : height - high - LEGEND_BOTTOM_PX;
    draw.fillStyle = "rgba(255,255,255,.85)";
    draw.fillRect(left, top, wide, high);
    text(draw, this.colour.name, left + wide - 4, top + 14, "right");
    shown?.forEach((number, i) => {
      const [x, y] = [left + 6 + 46 * Math.floor(i / rows), top + 26 + 16 * (i % rows)];
      disc(draw, x + 5, y, 5, classColour(number), 0);
      text(draw, String(number), x + 14, y + 4, "left");
    });
    if (shown) return;
    for (let i = 0; i < 160; i++) { draw.fillStyle = viridis(i / 159); draw.fillRect(left + 20 + i, top + 20, 1.5, 9); }
    text(draw, tidy(legend.low), left + 20, top + 42, "left");
    text(draw, tidy(legend.high), left + 180, top + 42, "right");
  }

  // a canvas with all points
  async pixels() {
    if (this.many) {
      await this.thinning.whole();
      return this.renderer.canvas;
    }
    const image = await this.plot.export();
    const points = document.createElement("canvas");
    [points.width, points.height] = [image.width, image.height];
    points.getContext("2d").putImageData(image, 0, 0);
    return points;
  }

  // points and overlay as one picture
  async picture() {
    const all = document.createElement("canvas");
    const points = await this.pixels();
    [all.width, all.height] = [points.width, points.height];
    const draw = all.getContext("2d");
    draw.fillStyle = "#fff"; draw.fillRect(0, 0, all.width, all.height);
    draw.drawImage(points, 0, 0);
    draw.drawImage(this.overlay, 0, 0, all.width, all.height);
    return all;
  }

  // the same with lines and words that can be changed
  async svg(title) {
    const { clientWidth: width, clientHeight: height } = this.canvas.parentElement;
    const draw = new SvgContext();
    this.decorateOn(draw, width, height);
    return new Blob([draw.figure(width, height, await this.pixels(), title)], { type: "image/svg+xml" });
  }
}

function range(values) {
  let [low, high, first, last] = [Infinity, -Infinity, 0, 0];
  for (let i = 0; i < values.length; i++) {
    if (values[i] < low) { low = values[i]; first = i; }
    if (values[i] > high) { high = values[i]; last = i; }
  }
  return { low, high, at: [first, last] };
}

// Number of the corner with the fewest points: top right, top left, bottom right, bottom left.
function emptiest(x, y) {
  const counts = [0, 0, 0, 0];
  const share = ({ values, low, high }, i) => (values[i] - low) / (high - low || 1);
  for (let i = 0; i < x.values.length; i += 1 + (x.values.length >> 15)) {
    const [across, up] = [share(x, i), share(y, i)];
    if (Math.abs(across - 0.5) > 0.25 && Math.abs(up - 0.5) > 0.15) counts[2 * (up < 0.5) + (across < 0.5)]++;
  }
  return counts.indexOf(Math.min(...counts));
}

function placed(values, { low, high }, from, to) {
  const scale = (to - from) / (high - low || 1);
  return Float32Array.from(values, (value) => Number.isFinite(value) ? (value - low) * scale + from : from);
}

// Logarithm of the number of particles around each, from a histogram of the two axes.
export function crowding(x, y, cells = 160) {
  const [a, b] = [range(x), range(y)];
  const at = (value, { low, high }) => Math.min(cells - 1, Math.max(0, Math.floor((value - low) / (high - low || 1) * cells)));
  const counts = new Float32Array(cells * cells);
  const cell = Uint32Array.from(x, (value, i) => at(value, a) + cells * at(y[i], b));
  for (const one of cell) counts[one] += 1;
  return Float32Array.from(cell, (one) => Math.log10(counts[one]));
}

export function tidy(value) {
  const size = Math.abs(value);
  return size !== 0 && (size < 0.01 || size >= 1e5) ? value.toExponential(1) : String(+value.toPrecision(3));
}

function text(draw, words, x, y, align) {
  draw.font = "12px system-ui, sans-serif"; draw.textAlign = align; draw.fillStyle = "#1b2530";
  draw.fillText(words, x, y);
}

function disc(draw, x, y, radius, colour, line = 1.5) {
  draw.fillStyle = colour; draw.beginPath(); draw.arc(x, y, radius, 0, 7); draw.fill();
  if (line) { draw.strokeStyle = "#000"; draw.lineWidth = line; draw.stroke(); }
}

function ticks(low, high) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(+at.toPrecision(10));
  return found;
}

function axes(draw, width, height, x, y, scales) {
  draw.strokeStyle = "#aab4be"; draw.lineWidth = 1;
  const [left, right] = [scales.x.value(0), scales.x.value(width)];
  const [bottom, top] = [scales.y.value(height), scales.y.value(0)];
  if (![left, right, bottom, top].every(Number.isFinite)) return;
  draw.fillStyle = "rgba(255,255,255,.75)";
  draw.fillRect(0, height - 34, width, 34); draw.fillRect(0, 0, 46, height - 34);
  for (const value of ticks(left, right)) {
    const at = scales.x.of(value);
    if (at < 60 || at > width - 20) continue;
    draw.beginPath(); draw.moveTo(at, height - 34); draw.lineTo(at, height - 29); draw.stroke();
    text(draw, tidy(value), at, height - 18, "center");
  }
  for (const value of ticks(bottom, top)) {
    const at = scales.y.of(value);
    if (at < 20 || at > height - 50) continue;
    draw.beginPath(); draw.moveTo(41, at); draw.lineTo(46, at); draw.stroke();
    text(draw, tidy(value), 39, at + 4, "right");
  }
  draw.beginPath(); draw.moveTo(46, 0); draw.lineTo(46, height - 34); draw.lineTo(width, height - 34); draw.stroke();
  text(draw, x.label ?? x.name, width / 2, height - 4, "center");
  draw.save(); draw.translate(11, height / 2); draw.rotate(-Math.PI / 2); text(draw, y.label ?? y.name, 0, 0, "center"); draw.restore();
}
