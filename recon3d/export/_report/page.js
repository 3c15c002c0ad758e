/* The page: builds it from the document, and ties player, plots and keys together. */

const byId = (id) => document.getElementById(id);

/** An element with text in it; text only, whatever names hold. */
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** 83.25 s as "1:23.250"; `digits` after the point. */
function clockTime(seconds, digits = 3) {
  const units = Math.round(Math.abs(seconds) * 10 ** digits);
  const whole = Math.floor(units / 10 ** digits);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  const fraction = digits > 0 ? `.${String(units % 10 ** digits).padStart(digits, "0")}` : "";
  return `${seconds < 0 && units > 0 ? "−" : ""}${h > 0 ? `${h}:${two(m)}` : m}:${two(s)}${fraction}`;
}

const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
const plural = (count, one, many) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** "eyeBlinkLeft" of the pair (Left, Right) is "L"; an axis of the head is its name. */
function shortName(key, count) {
  if (count === 2) return key.endsWith("Left") ? "L" : "R";
  return count === 3 ? key.replace("head", "").toLowerCase() : "";
}

/** What both curves of a pair are called: "eyeBlink". */
function stem(keys) {
  return keys.length === 2 ? keys[0].replace(/Left$/, "") : keys[0];
}

class Page {
  constructor(report, data) {
    this.report = report;
    this.data = data;
    this.whole = { start: 0, end: Math.max(report.summary.duration, data.times[data.times.length - 1], 1e-3) };
    this.view = { ...this.whole };
    this.fit = false;
    this.stretches = report.summary.lost;
    data.lost = this.stretches.map(([first, last]) => [data.times[first], this.endOf(last)]);
    this.theme = readTheme();
    this.rows = [];
    this.fillSummary();
    this.buildRegions();
    this.player = new Player(data.times, this.prepareMedia(), (frame) => this.frameChanged(frame));
    this.wireTransport();
    this.wirePlots();
    this.wireKeys();
    this.watchSize();
    this.frameChanged(0);
  }

  endOf(frame) {
    const { times } = this.data;
    return frame + 1 < times.length ? times[frame + 1] : this.whole.end;
  }

  // ---- what stands still ----

  fillSummary() {
    const { report } = this;
    const { summary } = report;
    document.title = `${report.name} – recon3d report`;
    byId("name").textContent = report.name;
    const about = [report.source !== report.name ? report.source : "", `${report.size[0]} × ${report.size[1]} px`, `head model ${report.head}`];
    byId("about").textContent = about.filter(Boolean).join("  ·  ");
    byId("made").textContent = `Made by ${report.generator} on this computer. The page holds all it needs and asks no network for anything.`;
    const rate = report.fps > 0 ? `${Number(report.fps.toFixed(3))} per second` : "";
    const range = ([low, high]) => `${signed(low, 0)} … ${signed(high, 0)}°`;
    this.figure("Duration", clockTime(summary.duration, summary.duration < 60 ? 2 : 0), report.start ? `starts at ${clockTime(report.start)}` : "");
    this.figure("Frames", report.frames.toLocaleString("en"), rate);
    this.figure("Face seen", `${(Math.floor(summary.tracked * 1000) / 10).toString()} %`, plural(this.stretches.length, "gap", "gaps"), summary.tracked);
    this.figure("Confidence", summary.confidence.toFixed(2), "median", summary.confidence);
    this.figure("Head turns", range(summary.range.headYaw), "right … left");
    this.figure("Head nods", range(summary.range.headPitch), "down … up");
    this.fillNotes();
    this.fillLost();
    this.fillActive();
  }

  figure(title, value, more, share) {
    const cell = element("div", "figure");
    cell.append(element("dt", "", title), element("dd", "value", value));
    if (more) cell.append(element("dd", "more", more));
    if (share !== undefined) {
      const bar = element("span", "share");
      bar.append(element("i"));
      bar.firstChild.style.transform = `scaleX(${share})`;
      cell.append(bar);
    }
    byId("figures").append(cell);
  }

  fillNotes() {
    for (const note of this.report.notes) byId("notes").append(element("li", "", note));
    byId("notes-panel").hidden = this.report.notes.length === 0;
  }

  fillLost() {
    const total = this.data.lost.reduce((sum, [start, end]) => sum + end - start, 0);
    const none = this.stretches.length === 0;
    byId("legend-lost").hidden = none;
    byId("lost-about").textContent = none
      ? "The face was seen in every frame."
      : `${plural(this.stretches.length, "stretch", "stretches")}, ${clockTime(total, 2)} in all. Values there are held and eased.`;
    this.stretches.forEach(([first, last], k) => {
      const [start, end] = this.data.lost[k];
      const button = element("button", "jump");
      button.append(
        element("span", "when", `${clockTime(start, 2)} – ${clockTime(end, 2)}`),
        element("span", "more", plural(last - first + 1, "frame", "frames")),
      );
      button.addEventListener("click", () => this.goTo(first));
      const item = element("li");
      item.append(button);
      byId("lost").append(item);
    });
  }

  fillActive() {
    const { active } = this.report.summary;
    byId("active-about").textContent = active.length === 0 ? "Nothing moves much in this clip." : "By the spread of their values.";
    for (const found of active) {
      const button = element("button", "jump");
      const bar = element("span", "share");
      bar.append(element("i"));
      bar.firstChild.style.transform = `scaleX(${Math.min(1, found.spread)})`;
      button.append(element("span", "when", `${found.region.split(":")[0]} · ${found.label.toLowerCase()}`), bar, element("span", "more", found.spread.toFixed(2)));
      button.addEventListener("click", () => this.reveal(found.key));
      const item = element("li");
      item.append(button);
      byId("active").append(item);
    }
  }

  reveal(key) {
    const { line } = this.rows.find((entry) => entry.row.curves[0] === key);
    line.scrollIntoView({ block: "center", behavior: "smooth" });
    line.classList.remove("flash");
    void line.offsetWidth; // so that the animation starts anew
    line.classList.add("flash");
  }

  // ---- plots ----

  buildRegions() {
    for (const region of this.report.regions) {
      const card = element("section", "panel region");
      card.append(element("h2", "", region.title));
      for (const row of region.rows) card.append(this.buildRow(row, region.title));
      byId("regions").append(card);
    }
    this.rowSizes = new Map();
    const watch = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) {
        target.entry.visible = isIntersecting;
        if (isIntersecting) this.showValues(target.entry);
      }
      this.redraw();
    }, { rootMargin: "200px" });
    for (const entry of this.rows) watch.observe(entry.line);
  }

  buildRow(row, region) {
    const line = element("div", row.curves.length === 3 ? "row plot tall" : "row plot");
    const label = element("span", "label", row.label);
    const name = row.note || stem(row.curves);
    if (name.toLowerCase() !== row.label.toLowerCase()) label.append(element("small", "", name));
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${region}, ${row.label}: ${row.curves.join(", ")}`);
    canvas.dataset.curves = row.curves.join(" ");
    const live = element("div", "live");
    const colours = curveColours(row.curves.length);
    const values = row.curves.map((key, k) => this.liveValue(live, key, row, colours[k]));
    line.append(label, canvas, live);
    const entry = { row, line, canvas, values, visible: false };
    line.entry = entry;
    this.rows.push(entry);
    return line;
  }

  /** A bar and a number that follow the cursor. */
  liveValue(live, key, row, colour) {
    const box = element("span", `value ${colour}`);
    const name = shortName(key, row.curves.length);
    box.append(element("span", "side-name", name));
    const bar = element("span", "share");
    const fill = element("i");
    bar.append(fill);
    if (row.unit === "") box.append(bar);
    const number = element("output", "number");
    number.setAttribute("aria-live", "off");
    number.setAttribute("aria-label", key);
    box.append(number);
    live.append(box);
    return { key, fill, number, unit: row.unit };
  }

  /** Draw, at the next refresh, the plots that are on the screen. */
  redraw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = 0;
      const { data, view, theme } = this;
      this.drawBar();
      for (const { row, canvas, visible } of this.rows) {
        if (visible) drawPlot(canvas, row, this.rangeOf(row), data, view, theme);
      }
      this.placeCursor();
    });
  }

  rangeOf(row) {
    const key = `${row.curves[0]} ${this.fit}`;
    if (!this.rowSizes.has(key)) this.rowSizes.set(key, valueRange(row, this.data.curves, this.fit));
    return this.rowSizes.get(key);
  }

  /** Where the plots are across the sheet: all have the same place and width. */
  get plotBox() {
    const canvas = byId("ruler").getBoundingClientRect();
    const sheet = byId("sheet").getBoundingClientRect();
    return { left: canvas.left, offset: canvas.left - sheet.left, width: canvas.width };
  }

  frameAtX(clientX) {
    const { left, width } = this.plotBox;
    const share = Math.max(0, Math.min(1, (clientX - left) / width));
    return nearest(this.data.times, this.view.start + share * (this.view.end - this.view.start));
  }

  moveLine(line, frame) {
    const { offset, width } = this.plotBox;
    const share = (this.data.times[frame] - this.view.start) / (this.view.end - this.view.start);
    line.hidden = share < 0 || share > 1;
    line.style.transform = `translateX(${offset + share * width}px)`;
  }

  placeCursor() {
    this.moveLine(byId("cursor"), this.player.frame);
  }

  // ---- time ----

  frameChanged(frame) {
    const { times, tracked } = this.data;
    byId("slider").value = frame;
    byId("slider").setAttribute("aria-valuetext", `frame ${frame}, ${clockTime(times[frame])}`);
    byId("time").textContent = clockTime(times[frame]);
    byId("frame").textContent = `frame ${frame.toLocaleString("en")} of ${(times.length - 1).toLocaleString("en")}`;
    byId("sheet").classList.toggle("unseen", !tracked[frame]);
    for (const entry of this.rows) if (entry.visible) this.showValues(entry);
    this.keepInView(times[frame]);
    this.refreshBar();
    this.placeCursor();
  }

  /** Set a row's bars and numbers to the frame's. */
  showValues({ values }) {
    for (const { key, fill, number, unit } of values) {
      const value = this.data.curves.get(key)[this.player.frame];
      if (unit === "") fill.style.transform = `scaleX(${value})`;
      number.textContent = unit === "" ? value.toFixed(2) : `${signed(value, 1)} ${unit}`;
    }
  }

  /** The strip of the whole clip and the ruler, which show the cursor themselves. */
  drawBar() {
    const { data, view, theme } = this;
    const { frame } = this.player;
    const label = (time, step) => clockTime(time, step < 0.1 ? 2 : step < 1 ? 1 : 0);
    drawRuler(byId("ruler"), view, data.times[frame], theme, label);
    drawOverview(byId("overview"), data, view, this.whole, frame, theme);
  }

  /** While the view stays, a new frame draws these two again and no plot. */
  refreshBar() {
    if (this.refreshing || this.drawing) return;
    this.refreshing = requestAnimationFrame(() => {
      this.refreshing = 0;
      this.drawBar();
    });
  }

  /** Turn the page when the cursor leaves the part that is shown. */
  keepInView(time) {
    const { start, end } = this.view;
    if (time >= start && time <= end) return;
    const span = end - start;
    this.show(time > end ? time - span * 0.05 : time - span * 0.95);
  }

  goTo(frame) {
    this.player.media.pause();
    this.player.seek(frame);
  }

  // ---- the part that is shown ----

  /** Show the stretch that begins at `start` and is `span` long, as far as the clip has it. */
  show(start, span = this.view.end - this.view.start) {
    const { whole } = this;
    const least = Math.min(whole.end, 4 * (whole.end / this.data.times.length));
    const length = Math.max(least, Math.min(whole.end, span));
    const from = Math.max(0, Math.min(whole.end - length, start));
    this.view = { start: from, end: from + length };
    this.redraw();
  }

  /** Zoom by a factor, with a moment of the clip kept in its place. */
  zoom(factor, time = this.data.times[this.player.frame]) {
    const { start, end } = this.view;
    const span = Math.min(this.whole.end, (end - start) * factor);
    this.show(time - ((time - start) / (end - start)) * span, span);
  }

  // ---- what people do ----

  prepareMedia() {
    const { video } = this.report;
    const clock = new Clock(this.whole.end);
    if (video === null) {
      this.withoutVideo("There is no overlay video beside this report.");
      return clock;
    }
    const player = byId("video");
    player.addEventListener("error", () => {
      const where = video.src ? `${decodeURIComponent(video.src.slice(2))}, beside this page,` : "The video in this page";
      this.withoutVideo(`${where} cannot be played here. The curves work without it.`);
      this.player = new Player(this.data.times, clock, (frame) => this.frameChanged(frame));
      this.wireMedia();
      this.frameChanged(0);
    });
    player.src = videoAddress(video);
    return player;
  }

  withoutVideo(reason) {
    byId("video").hidden = true;
    byId("no-video").hidden = false;
    byId("no-video").textContent = reason;
    byId("screen").classList.add("empty");
    byId("mute").hidden = true;
    byId("full").hidden = true;
  }

  wireTransport() {
    byId("slider").max = this.player.last;
    byId("slider").addEventListener("input", (event) => this.player.seek(Number(event.target.value)));
    const actions = {
      play: () => this.player.toggle(),
      back: () => this.step(-1),
      forth: () => this.step(1),
      loop: () => this.toggleLoop(),
      mute: () => this.toggleMute(),
      full: () => this.fullScreen(),
      fit: () => this.toggleFit(),
      "zoom-in": () => this.zoom(0.5),
      "zoom-out": () => this.zoom(2),
      "zoom-all": () => this.show(0, this.whole.end),
    };
    for (const [id, act] of Object.entries(actions)) byId(id).addEventListener("click", act);
    byId("video").addEventListener("click", () => this.player.toggle());
    byId("rate").addEventListener("change", (event) => {
      this.player.media.playbackRate = Number(event.target.value);
    });
    this.wireMedia();
  }

  wireMedia() {
    const { media } = this.player;
    const update = () => {
      byId("play").classList.toggle("playing", !media.paused);
      byId("play").setAttribute("aria-label", media.paused ? "Play" : "Pause");
    };
    for (const name of ["play", "pause", "ended"]) media.addEventListener(name, update);
    update();
  }

  step(frames) {
    this.goTo(this.player.frame + frames);
  }

  press(id, pressed) {
    byId(id).setAttribute("aria-pressed", String(pressed));
  }

  toggleLoop() {
    const { media } = this.player;
    media.loop = !media.loop;
    this.press("loop", media.loop);
  }

  toggleMute() {
    const video = byId("video");
    video.muted = !video.muted;
    this.press("mute", video.muted);
  }

  toggleFit() {
    this.fit = !this.fit;
    this.press("fit", this.fit);
    this.redraw();
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else byId("screen").requestFullscreen().catch(() => {});
  }

  /** To the beginning of the next stretch without the face, or of the one before. */
  toLost(direction) {
    const { frame } = this.player;
    const firsts = this.stretches.map(([first]) => first);
    const found = direction > 0 ? firsts.find((first) => first > frame) : firsts.reverse().find((first) => first < frame);
    if (found !== undefined) this.goTo(found);
  }

  wireKeys() {
    const actions = {
      " ": () => this.player.toggle(),
      ArrowLeft: (event) => this.step(event.shiftKey ? -10 : -1),
      ArrowRight: (event) => this.step(event.shiftKey ? 10 : 1),
      Home: () => this.goTo(0),
      End: () => this.goTo(this.player.last),
      "[": () => this.toLost(-1),
      "]": () => this.toLost(1),
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      0: () => this.show(0, this.whole.end),
      l: () => this.toggleLoop(),
      m: () => this.toggleMute(),
      f: () => this.fullScreen(),
    };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const inside = event.target.tagName;
      if (inside === "SELECT" || (event.key === " " && (inside === "BUTTON" || inside === "SUMMARY"))) return;
      const act = actions[event.key];
      if (!act) return;
      event.preventDefault();
      act(event);
    });
  }

  wirePlots() {
    const sheet = byId("sheet");
    const scrub = (event) => this.player.seek(this.frameAtX(event.clientX));
    const onPlot = (event) => event.target instanceof HTMLCanvasElement && event.target.id !== "overview";
    sheet.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !onPlot(event)) return;
      event.target.setPointerCapture(event.pointerId);
      this.scrubbing = true;
      this.player.media.pause();
      scrub(event);
    });
    sheet.addEventListener("pointermove", (event) => {
      if (this.scrubbing) scrub(event);
      if (onPlot(event)) this.pointAt(event);
      else this.pointAway();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      sheet.addEventListener(name, () => {
        this.scrubbing = false;
      });
    }
    sheet.addEventListener("pointerleave", () => this.pointAway());
    sheet.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.wireOverview();
  }

  wireOverview() {
    const overview = byId("overview");
    const move = (event) => {
      if (event.buttons !== 1) return;
      const box = overview.getBoundingClientRect();
      const time = ((event.clientX - box.left) / box.width) * this.whole.end;
      this.goTo(nearest(this.data.times, time));
      this.show(time - (this.view.end - this.view.start) / 2);
    };
    overview.addEventListener("pointerdown", (event) => {
      overview.setPointerCapture(event.pointerId);
      move(event);
    });
    overview.addEventListener("pointermove", move);
  }

  wheel(event) {
    const { left, width } = this.plotBox;
    const span = this.view.end - this.view.start;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const time = this.view.start + Math.max(0, Math.min(1, (event.clientX - left) / width)) * span;
      this.zoom(Math.exp(event.deltaY * 0.004), time);
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      this.show(this.view.start + ((event.deltaX || event.deltaY) / width) * span);
    }
  }

  /** Name what is under the pointer, and its values there. */
  pointAt(event) {
    const frame = this.frameAtX(event.clientX);
    this.moveLine(byId("hover"), frame);
    const tip = byId("tip");
    const { times, tracked, curves } = this.data;
    tip.replaceChildren(element("p", "when", `${clockTime(times[frame])}  ·  frame ${frame.toLocaleString("en")}`));
    const row = event.target.parentElement.entry?.row;
    curveColours(row ? row.curves.length : 0).forEach((colour, k) => {
      if (!row) return;
      const line = element("p", colour, row.curves[k]);
      const value = curves.get(row.curves[k])[frame];
      line.append(element("b", "", row.unit === "" ? value.toFixed(3) : `${signed(value, 1)} ${row.unit}`));
      tip.append(line);
    });
    if (!tracked[frame]) tip.append(element("p", "lost", "face not seen"));
    tip.hidden = false;
    const right = event.clientX + 18 + tip.offsetWidth < window.innerWidth;
    tip.style.left = `${right ? event.clientX + 16 : event.clientX - 16 - tip.offsetWidth}px`;
    tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
  }

  pointAway() {
    byId("tip").hidden = true;
    byId("hover").hidden = true;
  }

  watchSize() {
    new ResizeObserver(() => this.redraw()).observe(byId("ruler"));
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.theme = readTheme();
      this.redraw();
    });
  }
}

async function start() {
  try {
    const report = JSON.parse(byId("document").textContent);
    const page = new Page(report, await unpack(report));
    document.body.dataset.ready = String(page.rows.length);
  } catch (error) {
    byId("trouble").hidden = false;
    byId("trouble").textContent = `This report cannot be shown (${error.message}). A current Chrome, Firefox or Safari is needed.`;
  }
}

start();
