"use strict";

/* What the page was given: a JSON document, the packed curves in it, and perhaps the video. */

/** @param {string} text base64 @returns {Uint8Array} */
function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Undo `packing.pack`: times in seconds, Float32Array a curve, and one byte a frame for `tracked`. */
async function unpack(report) {
  const packed = new Blob([fromBase64(report.data)]);
  const stream = packed.stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const count = report.frames;
  const times = new Float64Array(buffer, 0, count);
  const curves = new Map();
  let at = 8 * count;
  for (const [key, [offset, step]] of Object.entries(report.scales)) {
    curves.set(key, undoSteps(new Uint16Array(buffer, at, count), offset, step));
    at += 2 * count;
  }
  return { times, curves, tracked: new Uint8Array(buffer, at, count) };
}

function undoSteps(steps, offset, step) {
  const values = new Float32Array(steps.length);
  let sum = 0;
  for (let i = 0; i < steps.length; i++) {
    sum = (sum + steps[i]) & 0xffff;
    values[i] = offset + step * sum;
  }
  return values;
}

/** The address of the video: beside the page, or inside it. */
function videoAddress(video) {
  if (video.src) return video.src;
  const bytes = fromBase64(document.getElementById("embedded").textContent);
  return URL.createObjectURL(new Blob([bytes], { type: video.type }));
}

/** Index of the last time that is not after `time`; 0 before the first. */
function lastNotAfter(times, time) {
  let low = 0;
  let high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

/** Index of the time nearest to `time`. */
function nearest(times, time) {
  const before = lastNotAfter(times, time);
  const after = Math.min(before + 1, times.length - 1);
  return times[after] - time < time - times[before] ? after : before;
}
