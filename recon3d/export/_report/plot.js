/* Drawing. Everything here is in device pixels; `view` is the part of the clip that is shown, in seconds. */

const COLOURS = ["cursor", "left", "right", "centre", "third", "line", "grid", "muted", "text", "lost", "lost-line", "panel", "window"];

/** The colours of the style sheet, as the scheme in force has them. */
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const theme = Object.fromEntries(COLOURS.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  theme.font = style.getPropertyValue("--sans");
  return theme;
}

/** Colour names of a plot's curves: two are the subject's sides, three are axes. */
function curveColours(count) {
  return count === 1 ? ["centre"] : count === 2 ? ["left", "right"] : ["left", "right", "third"];
}

/** Give a canvas as many pixels as the screen has under it; returns its context and size. */
function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

/**
 * What a curve looks like in columns of pixels. Frames that share a column become its first, lowest, highest
 * and last value, so that no peak is lost at any zoom, and there is never more to draw than there are pixels.
 */
function columnsOf(times, values, view, width) {
  const scale = width / (view.end - view.start);
  const first = lastNotAfter(times, view.start);
  const last = Math.min(times.length - 1, lastNotAfter(times, view.end) + 1);
  const columns = [];
  let column = null;
  for (let i = first; i <= last; i++) {
    const x = (times[i] - view.start) * scale;
    const value = values[i];
    if (column === null || Math.floor(x) !== column.index) {
      column = { index: Math.floor(x), x, first: value, last: value, low: value, high: value };
      columns.push(column);
      continue;
    }
    if (value < column.low) column.low = value;
    if (value > column.high) column.high = value;
    column.last = value;
  }
  return { columns, dense: last - first > 4 * width };
}

/** The curve as a line, down and up each column that holds several frames. */
function linePath(columns, toY) {
  const path = new Path2D();
  for (const { index, x, first, low, high, last } of columns) {
    path.lineTo(x, toY(first));
    if (low === high) continue;
    for (const value of [low, high, last]) path.lineTo(index + 0.5, toY(value));
  }
  return path;
}

/** The outline between the lowest and the highest values, at least `thick` high: cheap to fill. */
function bandPath(columns, toY, thick) {
  const path = new Path2D();
  const step = (from, to, y) => {
    path.lineTo(from, y);
    path.lineTo(to, y);
  };
  for (const { index, high } of columns) step(index, index + 1, toY(high) - thick / 2);
  for (const { index, low } of columns.toReversed()) step(index + 1, index, toY(low) + thick / 2);
  path.closePath();
  return path;
}

/** All below the highest values, down to zero. */
function areaPath(columns, toY) {
  const path = new Path2D();
  path.lineTo(columns[0].x, toY(0));
  for (const { x, high } of columns) path.lineTo(x, toY(high));
  path.lineTo(columns[columns.length - 1].x, toY(0));
  return path;
}

/** Hatch the stretches without the face; `stretches` are pairs of seconds. */
function shadeLost(context, stretches, view, width, height, theme, ratio) {
  const scale = width / (view.end - view.start);
  context.save();
  context.beginPath();
  for (const [start, end] of stretches) {
    if (end < view.start || start > view.end) continue;
    const x = (start - view.start) * scale;
    context.rect(x, 0, Math.max(ratio, (end - start) * scale), height);
  }
  context.fillStyle = theme.lost;
  context.fill();
  context.clip();
  context.strokeStyle = theme["lost-line"];
  context.lineWidth = ratio;
  context.beginPath();
  if (stretches.length > 0) {
    for (let x = -height; x < width; x += 6 * ratio) {
      context.moveTo(x, height);
      context.lineTo(x + height, 0);
    }
  }
  context.stroke();
  context.restore();
}

/** Steps of time that read well: the smallest that leaves `least` px between two. */
function tickStep(span, width, least) {
  const steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  return steps.find((step) => (step / span) * width >= least) ?? steps[steps.length - 1];
}

function ticks(view, width, ratio) {
  const step = tickStep(view.end - view.start, width / ratio, 84);
  const found = [];
  for (let k = Math.ceil(view.start / step - 1e-9); k * step <= view.end + 1e-9; k++) found.push(k * step);
  return { step, found };
}

function drawGrid(context, view, width, height, theme, ratio) {
  context.fillStyle = theme.grid;
  const scale = width / (view.end - view.start);
  for (const time of ticks(view, width, ratio).found) {
    context.fillRect(Math.round((time - view.start) * scale), 0, ratio, height);
  }
}

/** The scale of time, with a flag where the cursor stands. */
function drawRuler(canvas, view, now, theme, label) {
  const { context, width, height, ratio } = prepared(canvas);
  const scale = width / (view.end - view.start);
  const { step, found } = ticks(view, width, ratio);
  context.font = `${11 * ratio}px ${theme.font}`;
  context.textBaseline = "middle";
  for (const time of found) {
    const x = Math.round((time - view.start) * scale);
    context.fillStyle = theme.grid;
    context.fillRect(x, 0, ratio, height);
    context.fillStyle = theme.muted;
    const text = label(time, step);
    if (x + context.measureText(text).width + 5 * ratio < width) context.fillText(text, x + 5 * ratio, height / 2);
  }
  const flag = (now - view.start) * scale;
  context.fillStyle = theme.cursor;
  context.beginPath();
  context.moveTo(flag - 5 * ratio, height - 7 * ratio);
  context.lineTo(flag + 5 * ratio, height - 7 * ratio);
  context.lineTo(flag, height);
  context.fill();
}

/** The range of a plot's values that its height stands for. */
function valueRange(row, curves, fit) {
  if (row.unit === "" && !fit) return [0, 1];
  let low = 0;
  let high = 0;
  for (const key of row.curves) {
    for (const value of curves.get(key)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (row.unit === "") return [0, Math.max(high, 0.02)];
  const reach = Math.max(-low, high, 1);
  return [-reach, reach];
}

/** Draw a curve; the second of a pair has gaps, so that the first shows where they agree. */
function drawCurve(context, { columns, dense }, toY, colour, { filled, dashed, ratio }) {
  context.fillStyle = colour;
  if (filled) {
    context.globalAlpha = 0.1;
    context.fill(areaPath(columns, toY));
    context.globalAlpha = 1;
  }
  if (dense) {
    context.globalAlpha = dashed ? 0.6 : 1;
    context.fill(bandPath(columns, toY, 1.5 * ratio));
    context.globalAlpha = 1;
    return;
  }
  context.lineWidth = 1.5 * ratio;
  context.lineJoin = "round";
  context.strokeStyle = colour;
  context.setLineDash(dashed ? [5 * ratio, 4 * ratio] : []);
  context.stroke(linePath(columns, toY));
  context.setLineDash([]);
}

/** Draw one row: lost stretches, grid, filled curves. */
function drawPlot(canvas, row, range, data, view, theme) {
  const { context, width, height, ratio } = prepared(canvas);
  const margin = 3 * ratio;
  const [low, high] = range;
  const toY = (value) => height - margin - ((value - low) / (high - low)) * (height - 2 * margin);
  drawGrid(context, view, width, height, theme, ratio);
  shadeLost(context, data.lost, view, width, height, theme, ratio);
  context.fillStyle = theme.line;
  context.fillRect(0, Math.round(toY(0)), width, ratio);
  const names = curveColours(row.curves.length);
  row.curves.forEach((key, k) => {
    const dashed = k === 1 && row.curves.length === 2;
    const curve = columnsOf(data.times, data.curves.get(key), view, width);
    drawCurve(context, curve, toY, theme[names[k]], { filled: row.unit === "", dashed, ratio });
  });
  if (row.unit !== "" || high !== 1) drawRange(context, row, range, theme, ratio, width, height);
}

/** Say what the top (and, below zero, the bottom) of a plot stands for, where it is not 0 to 1. */
function drawRange(context, row, [low, high], theme, ratio, width, height) {
  const digits = row.unit === "" ? 2 : 0;
  context.font = `${10 * ratio}px ${theme.font}`;
  context.textAlign = "right";
  context.fillStyle = theme.muted;
  context.textBaseline = "top";
  context.fillText(`${high.toFixed(digits)}${row.unit}`, width - 4 * ratio, 3 * ratio);
  context.textBaseline = "bottom";
  if (low < 0) context.fillText(`${low.toFixed(digits)}${row.unit}`.replace("-", "−"), width - 4 * ratio, height - 2 * ratio);
  context.textAlign = "left";
}

/** The whole clip in one strip, with a frame round the part that the plots show. */
function drawOverview(canvas, data, view, whole, frame, theme) {
  const { context, width, height, ratio } = prepared(canvas);
  shadeLost(context, data.lost, whole, width, height, theme, ratio);
  const toY = (value) => height - 2 * ratio - value * (height - 4 * ratio);
  const confidence = columnsOf(data.times, data.curves.get("confidence"), whole, width);
  drawCurve(context, confidence, toY, theme.muted, { filled: false, dashed: false, ratio });
  const scale = width / (whole.end - whole.start);
  if (view.end - view.start < whole.end - whole.start) {
    const from = view.start * scale;
    const size = Math.max(3 * ratio, (view.end - view.start) * scale);
    context.fillStyle = theme.window;
    context.fillRect(from, 0, size, height);
    context.strokeStyle = theme.centre;
    context.strokeRect(from + ratio / 2, ratio / 2, size - ratio, height - ratio);
  }
  context.fillStyle = theme.text;
  context.fillRect(Math.round(data.times[frame] * scale), 0, 2 * ratio, height);
}
