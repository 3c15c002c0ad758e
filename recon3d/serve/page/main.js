/* The page: asks the server how things stand, and ties uploads, jobs and the result together. */

import * as api from "./api.js";
import { isOver, Jobs, stateText } from "./jobs.js";
import { Result } from "./result.js";
import { byId, element, plural, size, span } from "./text.js";
import { Uploads } from "./uploads.js";

const BUSY = 700;
const IDLE = 4000;
const HIDDEN = 15000;
const USUAL = new Set(["obj", "glb", "arkit", "overlay", "livelink", "report"]);

class Page {
  constructor() {
    this.selected = location.hash.slice(1) || null;
    this.states = new Map();
    this.failing = false;
    this.result = new Result();
    this.jobs = new Jobs({
      chosen: (job) => this.choose(job),
      stop: (job) => this.act(() => api.cancel(job.id)),
      remove: (job) => this.act(() => api.remove(job.id)),
    });
    this.uploads = new Uploads((job) => this.accepted(job), (text) => this.complain(text));
    document.addEventListener("visibilitychange", () => this.look());
    window.addEventListener("hashchange", () => {
      this.selected = location.hash.slice(1) || null;
      this.look();
    });
    this.begin();
  }

  async begin() {
    try {
      this.facts(await api.version());
    } catch (error) {
      this.complain(error.message);
    }
    await this.look();
    document.body.dataset.ready = "";
  }

  facts(facts) {
    const { limits } = facts;
    this.result.facts = facts;
    this.uploads.limits = limits;
    byId("version").textContent = facts.version;
    byId("limits").textContent = `up to ${size(limits.max_upload)} each, clips up to ${span(limits.max_duration)}; deleted after ${span(limits.keep)}`;
    const more = [...new Set([...facts.formats.photo, ...facts.formats.clip])].filter((name) => !USUAL.has(name));
    byId("formats").replaceChildren(...more.map((name) => {
      const label = element("label", "check");
      const box = element("input");
      Object.assign(box, { type: "checkbox", name: "formats", value: name });
      label.append(box, name);
      return label;
    }));
  }

  /** Ask how the jobs stand, and again after a while. */
  async look() {
    clearTimeout(this.timer);
    const turn = (this.turn = (this.turn ?? 0) + 1);
    let pause = IDLE;
    try {
      const [{ jobs, total }, health] = await Promise.all([api.jobs(), api.health()]);
      if (turn !== this.turn) return;
      if (this.failing) this.quiet();
      this.failing = false;
      this.show(jobs, total);
      this.showHealth(health);
      if (jobs.some((job) => !isOver(job))) pause = BUSY;
    } catch (error) {
      if (turn !== this.turn) return;
      this.failing = true;
      this.complain(error.message);
    }
    this.timer = setTimeout(() => this.look(), document.hidden ? HIDDEN : pause);
  }

  show(jobs, total) {
    this.jobs.selected = this.selected;
    this.jobs.show(jobs, total);
    for (const job of jobs) {
      const before = this.states.get(job.id);
      if (before && before !== job.state) this.say(`${job.name}: ${job.state === "running" ? "begins" : stateText(job)}`);
      this.states.set(job.id, job.state);
    }
    this.result.show(jobs.find((job) => job.id === this.selected) ?? null);
  }

  showHealth(health) {
    const problem = health.workers.find((worker) => worker.problem)?.problem;
    const starting = health.workers.every((worker) => worker.state === "starting");
    const counts = health.running + health.waiting > 0 ? `${plural(health.running, "job", "jobs")} running, ${health.waiting} waiting` : "ready";
    byId("health").textContent = problem ?? (starting ? "the networks are being loaded" : counts);
  }

  choose(job) {
    this.selected = job?.id ?? null;
    history.replaceState(null, "", job ? `#${job.id}` : location.pathname);
    this.jobs.selected = this.selected;
    this.jobs.show(this.jobs.jobs, Math.max(this.jobs.jobs.length, 1));
    this.result.show(job);
  }

  async accepted(job) {
    this.quiet();
    this.say(`${job.name}: ${stateText(job)}`);
    this.selected = job.id;
    history.replaceState(null, "", `#${job.id}`);
    await this.look();
  }

  async act(action) {
    try {
      await action();
    } catch (error) {
      this.complain(error.message);
    }
    await this.look();
  }

  say(text) {
    byId("said").textContent = text;
  }

  complain(text) {
    byId("trouble").textContent = text;
    byId("trouble").hidden = false;
  }

  quiet() {
    byId("trouble").hidden = true;
  }
}

new Page();
