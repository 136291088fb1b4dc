// Fewer points while something moves: only the first part of the buffers is drawn, which hold the points in random
// order. How large a part is measured: the time until the next frame is to be AIM_MS. When nothing has been drawn
// for STILL_MS, all points are.

const AIM_MS = 38; // 26 frames a second
const STILL_MS = 250;
const SMALL = 50000; // particles of a run whose points are all drawn always
const FEW = 4000; // points of a larger one that are always drawn
const FIRST = 20000; // points of the first frame, before anything is measured

// Numbers from 0 to n - 1 in an order that is random, and the same each time.
export function shuffled(n) {
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  let state = 0x9e3779b9;
  for (let i = n - 1; i > 0; i--) {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5; // xorshift
    const j = (state >>> 0) % (i + 1);
    const other = order[i];
    order[i] = order[j];
    order[j] = other;
  }
  return order;
}

export class Thinning {
  constructor(plot, n) {
    Object.assign(this, { plot, share: Math.min(1, FIRST / n), drawn: n, n, measuring: false, all: false, timer: 0 });
    const gl = plot.get("regl")._gl;
    const draw = gl.drawArrays.bind(gl);
    gl.drawArrays = (mode, first, count) => draw(mode, first, mode === gl.POINTS ? this.part(count) : count);
  }

  // How many of so many points are drawn now.
  part(count) {
    if (this.n <= SMALL || count <= FEW) return count;
    if (!this.measuring) this.measure();
    if (this.all) return count;
    const part = Math.min(count, Math.max(FEW, Math.ceil(this.share * count)));
    if (count === this.n) this.drawn = part;
    return part;
  }

  measure() {
    this.measuring = true;
    clearTimeout(this.timer);
    const begun = performance.now();
    const all = this.all;
    requestAnimationFrame(() => setTimeout(() => { // what was drawn is then on the screen, or nearly so
      this.measuring = this.all = false;
      const took = performance.now() - begun;
      if (!all && this.drawn < this.n) this.timer = setTimeout(() => this.still(), STILL_MS);
      if (all && took > AIM_MS) return; // all points take longer: that is known
      this.share = Math.min(1, Math.max(FEW / this.n, this.share * Math.min(1.4, Math.max(0.4, AIM_MS / took))));
    }));
  }

  still() {
    this.all = true;
    this.drawn = this.n;
    this.plot.redraw();
  }

  // All points are drawn when this is over.
  async whole() {
    this.still();
    await new Promise((done) => this.plot.subscribe("draw", done, 1));
  }
}

// Many points are drawn to a canvas that lies in the page, below the one that the mouse is over: an image of float
// numbers between, for blending, and a copy would each take longer than the points that are drawn while the view moves.
export function directly(renderer, canvas) {
  renderer.canvas.className = "below";
  canvas.before(renderer.canvas);
  renderer.render = (draw) => {
    renderer.regl.clear({ color: [0, 0, 0, 0], depth: 1 });
    draw();
  };
}

// What make() makes has canvases without antialiasing, which squares need not.
export function withoutAntialiasing(make) {
  const { getContext } = HTMLCanvasElement.prototype;
  HTMLCanvasElement.prototype.getContext = function plain(kind, options) {
    return getContext.call(this, kind, options && { ...options, antialias: false });
  };
  try { return make(); } finally { HTMLCanvasElement.prototype.getContext = getContext; }
}
