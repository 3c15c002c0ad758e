/* The list of jobs: what each is doing, and how to stop or delete it. */

import { byId, element, plural } from "./text.js";

export const isOver = (job) => !["waiting", "running"].includes(job.state);

/** What a job is doing, in a few words. */
export function stateText(job) {
  if (job.state === "failed") return job.error;
  if (job.state === "waiting") return job.ahead ? `waits, ${plural(job.ahead, "job", "jobs")} before it` : "waits";
  if (job.state === "done") {
    const heads = plural(job.persons, "head", "heads");
    return job.kind === "clip" ? `${heads}, ${plural(job.frames, "frame", "frames")}` : heads;
  }
  if (job.state === "cancelled") return "cancelled";
  const { progress } = job;
  if (!progress) return "begins";
  const counted = progress.total > 1 ? ` ${progress.done} of ${progress.total} frames` : "";
  return `${progress.step}${counted}`;
}

/** Show a share in a bar; `null`: nobody knows. */
export function fill(bar, job) {
  const { progress } = job;
  const known = progress && progress.total > 1;
  bar.hidden = job.state !== "running";
  bar.classList.toggle("unknown", !known);
  bar.firstElementChild.style.transform = known ? `scaleX(${progress.done / progress.total})` : "";
  return known ? progress.done / progress.total : null;
}

export class Jobs {
  /** `chosen(job)`, `stop(job)` and `remove(job)` are what the buttons do. */
  constructor(actions) {
    this.actions = actions;
    this.lines = new Map();
    this.jobs = [];
    this.selected = null;
  }

  show(jobs, total) {
    this.jobs = jobs;
    byId("no-jobs").hidden = total > 0 || byId("uploads").children.length > 0;
    byId("more").hidden = total <= jobs.length;
    byId("more").textContent = `and ${(total - jobs.length).toLocaleString("en")} older ones`;
    const list = byId("jobs");
    const known = new Set(jobs.map((job) => job.id));
    for (const [id, line] of this.lines) {
      if (!known.has(id)) {
        line.item.remove();
        this.lines.delete(id);
      }
    }
    jobs.forEach((job, place) => {
      const line = this.lines.get(job.id) ?? this.line(job);
      if (list.children[place] !== line.item) list.insertBefore(line.item, list.children[place] ?? null);
      this.update(line, job);
    });
  }

  line(job) {
    const item = element("li", "job");
    const open = element("button", "open");
    const state = element("span", "state");
    open.append(element("span", "name", job.name), state);
    const act = element("button", "act");
    const bar = element("div", "bar");
    bar.append(element("i"));
    item.append(open, act, bar);
    const line = { item, open, state, act, bar, job };
    open.addEventListener("click", () => this.actions.chosen(line.job));
    act.addEventListener("click", () => this.act(line));
    this.lines.set(job.id, line);
    return line;
  }

  update(line, job) {
    line.job = job;
    const text = stateText(job);
    if (line.state.textContent !== text) line.state.textContent = text;
    line.state.className = `state ${job.state}`;
    fill(line.bar, job);
    const selected = job.id === this.selected;
    line.item.toggleAttribute("data-selected", selected);
    if (selected) line.open.setAttribute("aria-current", "true");
    else line.open.removeAttribute("aria-current");
    if (!line.sure) this.label(line, isOver(job) ? "Delete" : "Cancel");
  }

  label(line, text) {
    line.act.textContent = text;
    line.act.setAttribute("aria-label", `${text}: ${line.job.name}`);
    line.act.classList.toggle("sure", Boolean(line.sure));
  }

  /** Results are not deleted at the first click. */
  act(line) {
    if (!isOver(line.job)) {
      this.actions.stop(line.job);
    } else if (line.sure || line.job.state !== "done") {
      clearTimeout(line.sure);
      this.actions.remove(line.job);
    } else {
      line.sure = setTimeout(() => {
        line.sure = null;
        this.label(line, "Delete");
      }, 4000);
      this.label(line, "Really delete?");
    }
  }
}
