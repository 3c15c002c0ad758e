/* Small helpers for elements and for numbers as text. */

export const byId = (id) => document.getElementById(id);

/** An element with text in it; text only, whatever names hold. */
export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** 2057000 as "2.1 MB". */
export function size(bytes) {
  const units = ["B", "kB", "MB", "GB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** 83.25 s as "1:23.25". */
export function clock(seconds) {
  const hundredths = Math.round(seconds * 100);
  const whole = Math.floor(hundredths / 100);
  const two = (n) => String(n).padStart(2, "0");
  return `${Math.floor(whole / 60)}:${two(whole % 60)}.${two(hundredths % 100)}`;
}

/** 86400 s as "a day", 600 s as "10 minutes". */
export function span(seconds) {
  for (const [length, one, many] of [[86400, "a day", "days"], [3600, "an hour", "hours"], [60, "a minute", "minutes"]]) {
    const count = Math.round((seconds / length) * 10) / 10;
    if (seconds >= length) return count === 1 ? one : `${count} ${many}`;
  }
  return `${Math.round(seconds)} s`;
}

export const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
