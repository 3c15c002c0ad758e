/* The blendshapes: curves of a clip with a cursor, or sliders for a head that stands still. */

import { byId, element } from "./text.js";

/** Names in rows: pairs of left and right together, in the file's order. */
function rowsOf(names) {
  const rows = new Map();
  names.forEach((name, index) => {
    const side = /^(.+)(Left|Right)$/.exec(name);
    const key = side ? side[1] : name;
    if (!rows.has(key)) rows.set(key, []);
    rows.get(key).push({ index, name, side: side ? side[2].toLowerCase() : "centre" });
  });
  return new Map([...rows].map(([key, units]) => [titled(key, units), units.sort((a, b) => a.side.localeCompare(b.side))]));
}

/** "eyeBlink" says enough; "jaw", of jawLeft and jawRight, does not. */
const titled = (key, units) => (/[A-Z]/.test(key) || units.length < 2 ? key : `${key} to the side`);

export class Curves {
  /** `seek(seconds)`: somebody points at a moment; `set(index, value)`: somebody moves a slider. */
  constructor(seek, set) {
    this.seek = seek;
    this.set = set;
    this.rows = [];
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    new ResizeObserver(() => this.redraw()).observe(byId("units"));
  }

  /** Show the units of a file: see Viewer.load. */
  begin({ names, rest, curves }) {
    this.curves = curves;
    this.count = names.length;
    this.rest = rest;
    this.rows = [];
    const rows = [...rowsOf(names)].map(([label, units]) => (curves ? this.plot(label, units) : this.sliders(label, units)));
    byId("units").replaceChildren(...rows);
    this.redraw();
  }

  row(label, middle, units) {
    const line = element("div", "unit");
    const now = element("span", "now");
    const values = units.map(({ side }, k) => {
      const value = element("span", side);
      now.append(...(k > 0 ? [" ", value] : [value]));
      return value;
    });
    line.append(element("span", "label", label), middle, now);
    return { line, values };
  }

  plot(label, units) {
    const plot = element("div", "plot");
    const canvas = element("canvas");
    const cursor = element("i");
    plot.append(canvas, cursor);
    const point = (event) => {
      const box = plot.getBoundingClientRect();
      this.seek(((event.clientX - box.left) / box.width) * this.curves.duration);
    };
    plot.addEventListener("pointerdown", (event) => {
      plot.setPointerCapture(event.pointerId);
      point(event);
    });
    plot.addEventListener("pointermove", (event) => {
      if (event.buttons === 1) point(event);
    });
    const { line, values } = this.row(label, plot, units);
    this.rows.push({ units, plot, canvas, cursor, values });
    return line;
  }

  sliders(label, units) {
    const box = element("div", "sliders");
    const inputs = units.map(({ index, name, side }) => {
      const input = element("input", side);
      Object.assign(input, { type: "range", min: "0", max: "1", step: "0.01" });
      input.setAttribute("aria-label", name);
      input.addEventListener("input", () => this.moved(index, Number(input.value)));
      box.append(input);
      return input;
    });
    const { line, values } = this.row(label, box, units);
    this.rows.push({ units, inputs, values });
    return line;
  }

  moved(index, value) {
    this.set(index, value);
    this.tell((other) => (other === index ? value : null));
  }

  /** Give all sliders the values of a list. */
  put(values) {
    for (const { units, inputs } of this.rows) {
      units.forEach(({ index }, k) => {
        inputs[k].value = String(values[index]);
        this.set(index, values[index]);
      });
    }
    this.tell((index) => values[index]);
  }

  tell(valueOf) {
    for (const { units, values } of this.rows) {
      units.forEach(({ index }, k) => {
        const value = valueOf(index);
        if (value === null) return;
        const text = value.toFixed(2);
        if (values[k].textContent !== text) values[k].textContent = text;
      });
    }
  }

  /** Move the cursors; the values are those of the latest frame. */
  show(seconds) {
    if (!this.curves) return;
    const { times, values, duration } = this.curves;
    let frame = 0;
    let end = times.length;
    while (frame + 1 < end) {
      const middle = (frame + end) >> 1;
      if (times[middle] <= seconds + 1e-4) frame = middle;
      else end = middle;
    }
    const share = duration > 0 ? seconds / duration : 0;
    for (const { plot, cursor } of this.rows) cursor.style.transform = `translateX(${share * (plot.clientWidth - 1)}px)`;
    this.tell((index) => values[frame * this.count + index]);
  }

  redraw() {
    if (!this.curves) return;
    const style = getComputedStyle(document.documentElement);
    const colours = Object.fromEntries(["left", "right", "centre", "line"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
    for (const row of this.rows) this.draw(row, colours);
  }

  draw({ units, canvas }, colours) {
    const ratio = Math.min(window.devicePixelRatio, 2);
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height) return;
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    context.fillStyle = colours.line;
    context.fillRect(0, height - ratio, width, ratio);
    context.lineWidth = 1.5 * ratio;
    context.lineJoin = "round";
    for (const { index, side } of units) {
      context.strokeStyle = colours[side];
      context.setLineDash(side === "right" ? [5 * ratio, 3 * ratio] : []);
      this.trace(context, index, width, height - 2 * ratio);
    }
  }

  /** One line; of frames that share a column of pixels, the lowest and the highest are drawn. */
  trace(context, index, width, height) {
    const { times, values, duration } = this.curves;
    const toY = (value) => height - Math.max(0, Math.min(1, value)) * (height - 4) - 1;
    context.beginPath();
    let column = -1;
    let low = 0;
    let high = 0;
    const flush = () => {
      if (column < 0) return;
      context.lineTo(column, toY(low));
      if (high !== low) context.lineTo(column, toY(high));
    };
    for (let k = 0; k < times.length; k++) {
      const value = values[k * this.count + index];
      const x = duration > 0 ? Math.round((times[k] / duration) * (width - 1)) : 0;
      if (x !== column) {
        flush();
        column = x;
        low = high = value;
      } else {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    flush();
    context.stroke();
  }
}
