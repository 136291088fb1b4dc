// Colours that people with any colour vision can tell apart: viridis for numbers,
// for classes those of the pictures: Okabe and Ito's hues, lighter, darker (analysis/plots.py, label_colours).

const STOPS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
export const UNKNOWN = "#b9bfc6";
export const CLASSES = [
  "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c8c00",
  "#80b8d8", "#f2cf80", "#80ceb9", "#eaae80", "#abdaf4", "#e6bcd3", "#c6c680",
  "#00446b", "#8a5f00", "#005f45", "#803800", "#346c8c", "#7a4964", "#545400",
];
const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const hex = (rgb) => "#" + rgb.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("");

export function viridis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  const [a, b] = [parts(STOPS[low]), parts(STOPS[low + 1])];
  return hex(a.map((part, i) => part + (at - low) * (b[i] - part)));
}

export const classColour = (number) => (number < 0 ? UNKNOWN : CLASSES[number % CLASSES.length]);

// The value of each point for the scatter plot in [0, 1], its colour map, and a legend.
export function encode(values, kind) {
  if (!values) return { z: null, map: ["#33658a"], legend: null };
  if (kind === "class") {
    const numbers = [...new Set(values)].filter(Number.isFinite).sort((a, b) => a - b);
    const place = new Map(numbers.map((number, i) => [number, i + 1]));
    const z = Float32Array.from(values, (value) => place.get(value) ?? 0);
    return { z, map: [UNKNOWN, ...numbers.map(classColour)], classes: true, legend: { numbers } };
  }
  const finite = values.filter(Number.isFinite);
  const some = finite.length > 100000 ? finite.filter((_, i) => i % Math.ceil(finite.length / 100000) === 0) : finite;
  const sorted = Float32Array.from(some).sort();
  const low = sorted[Math.floor(0.01 * (sorted.length - 1))] ?? 0;
  const high = sorted[Math.ceil(0.99 * (sorted.length - 1))] ?? 1;
  const width = high - low || 1;
  // colour 0 is for what is not known, 1 to 255 for the range
  const z = Float32Array.from(values, (v) =>
    Number.isFinite(v) ? (1 + 254 * Math.min(Math.max((v - low) / width, 0), 1)) / 255 : 0);
  const map = [UNKNOWN, ...Array.from({ length: 255 }, (_, i) => viridis(i / 254))];
  return { z, map, legend: { low, high } };
}
