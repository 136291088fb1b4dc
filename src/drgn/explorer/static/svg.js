// A canvas's context, as far as the axes and marks of the plot need one, which makes SVG: lines stay lines, words stay words.

const near = (value) => +value.toFixed(2);
const escape = (words) => words.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
const ANCHORS = { left: "start", center: "middle", right: "end" };

export class SvgContext {
  constructor() {
    Object.assign(this, { parts: [], path: "", turns: [], fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, textAlign: "left" });
  }

  save() { this.kept = [...this.turns]; }
  restore() { this.turns = this.kept; }
  translate(x, y) { this.turns.push(`translate(${near(x)} ${near(y)})`); }
  rotate(angle) { this.turns.push(`rotate(${near(angle * 180 / Math.PI)})`); }

  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${near(x)} ${near(y)}`; }
  lineTo(x, y) { this.path += `${this.path ? "L" : "M"}${near(x)} ${near(y)}`; }
  // whole circles alone
  arc(x, y, radius) {
    const [across, r] = [near(2 * radius), near(radius)];
    this.moveTo(x - radius, y);
    this.path += `a${r} ${r} 0 1 0 ${across} 0a${r} ${r} 0 1 0 ${-across} 0`;
  }

  stroke() { this.put("path", { d: this.path, fill: "none", stroke: this.strokeStyle, "stroke-width": this.lineWidth }); }
  fill() { this.put("path", { d: this.path, ...this.filled() }); }
  fillRect(x, y, width, height) {
    this.put("rect", { x: near(x), y: near(y), width: near(width), height: near(height), ...this.filled() });
  }

  fillText(words, x, y) {
    const about = { x: near(x), y: near(y), "font-family": "sans-serif", "font-size": parseInt(this.font), "text-anchor": ANCHORS[this.textAlign] };
    this.put("text", { ...about, ...this.filled() }, escape(words));
  }

  filled() {
    const [, red, green, blue, opacity] = /^rgba\((\d+),(\d+),(\d+),([.\d]+)\)$/.exec(this.fillStyle) ?? [];
    return opacity ? { fill: `rgb(${red},${green},${blue})`, "fill-opacity": opacity } : { fill: this.fillStyle };
  }

  put(name, attributes, inside = "") {
    const all = this.turns.length ? { ...attributes, transform: this.turns.join(" ") } : attributes;
    const given = Object.entries(all).map(([key, value]) => ` ${key}="${value}"`).join("");
    this.parts.push(inside ? `<${name}${given}>${inside}</${name}>` : `<${name}${given}/>`);
  }

  // The whole figure, with a canvas of the points below the marks.
  figure(width, height, points, title) {
    const size = `width="${width}" height="${height}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size} viewBox="0 0 ${width} ${height}"><title>${escape(title)}</title>` +
      `<rect ${size} fill="#fff"/><image ${size} href="${points.toDataURL()}"/>${this.parts.join("")}</svg>`;
  }
}
