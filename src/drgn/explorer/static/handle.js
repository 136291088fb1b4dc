// The yellow handle of a path on the plot: dragged along the path, it says where it is.

const NEAR_PX = 13;

export function handle(scatter) {
  const { canvas } = scatter;
  let dragged = false;
  let moved = false;
  const near = (event) => {
    const at = scatter.handleAt();
    return at && Math.hypot(event.offsetX - at[0], event.offsetY - at[1]) < NEAR_PX;
  };
  canvas.addEventListener("pointerdown", (event) => {
    moved = false;
    if (event.button || !near(event)) return;
    event.stopImmediatePropagation();
    event.preventDefault(); // and no mousedown, which moves the view
    canvas.setPointerCapture(event.pointerId);
    dragged = moved = true;
  }, { capture: true });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged) scatter.emit("along", nearest(scatter.pathPixels(), event.offsetX, event.offsetY));
    canvas.style.cursor = dragged ? "grabbing" : near(event) ? "grab" : "";
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { dragged = false; });
  for (const name of ["mousedown", "click"]) { // of a drag of the handle
    canvas.addEventListener(name, (event) => { if (moved) event.stopImmediatePropagation(); }, { capture: true });
  }
}

// Where on a line through points [x, y] the point nearest to (x, y) is: 1.5 is halfway from the second to the third.
export function nearest(points, x, y) {
  let [least, found] = [Infinity, 0];
  for (let i = 0; i + 1 < points.length; i++) {
    const [[a, b], [c, d]] = [points[i], points[i + 1]];
    const [along, up] = [c - a, d - b];
    const share = Math.min(1, Math.max(0, ((x - a) * along + (y - b) * up) / (along ** 2 + up ** 2 || 1)));
    const far = Math.hypot(a + share * along - x, b + share * up - y);
    if (far < least) [least, found] = [far, i + share];
  }
  return found;
}

// The point at such a place.
export function between(points, at) {
  const low = Math.min(Math.floor(at), points.length - 2);
  if (low < 0) return points[0];
  return points[low].map((value, axis) => value + (at - low) * (points[low + 1][axis] - value));
}
