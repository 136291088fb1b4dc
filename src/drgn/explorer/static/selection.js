// The current selection: sorted rows, combined by set operations, with undo.

const UNDO_STEPS = 50;

export class Selection extends EventTarget {
  constructor() {
    super();
    this.n = 0;
    this.rows = new Uint32Array(0);
    this.before = [];
  }

  set(rows) {
    this.before.push(this.rows);
    if (this.before.length > UNDO_STEPS) this.before.shift();
    this.rows = rows;
    this.dispatchEvent(new Event("change"));
  }

  // how: replace, add, intersect or remove
  combine(rows, how) {
    const inside = new Uint8Array(this.n);
    if (how !== "replace") for (const row of this.rows) inside[row] = 1;
    for (const row of rows) inside[row] |= 2;
    const keep = {
      replace: (bits) => bits & 2,
      add: (bits) => bits,
      intersect: (bits) => bits === 3,
      remove: (bits) => bits === 1,
    }[how];
    this.set(this.where((row) => keep(inside[row])));
  }

  complement() {
    const inside = new Uint8Array(this.n);
    for (const row of this.rows) inside[row] = 1;
    this.set(this.where((row) => !inside[row]));
  }

  undo() {
    if (!this.before.length) return;
    this.rows = this.before.pop();
    this.dispatchEvent(new Event("change"));
  }

  where(test) {
    const found = new Uint32Array(this.n);
    let count = 0;
    for (let row = 0; row < this.n; row++) if (test(row)) found[count++] = row;
    return found.slice(0, count);
  }
}
