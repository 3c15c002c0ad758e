/* Files on their way to the server: dropped or chosen, sent one after the other. */

import { send } from "./api.js";
import { byId, element, size } from "./text.js";

export class Uploads {
  /** `accepted(job)` is told of every file that has arrived, `refused(text)` of every one that has not. */
  constructor(accepted, refused) {
    this.accepted = accepted;
    this.refused = refused;
    this.limits = null;
    this.waiting = [];
    this.busy = false;
    this.wire();
  }

  wire() {
    const input = byId("files");
    byId("choose").addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      this.add(input.files);
      input.value = "";
    });
    const { body } = document;
    const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
    body.addEventListener("dragover", (event) => {
      if (!holdsFiles(event)) return;
      event.preventDefault();
      body.classList.add("over");
    });
    body.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) body.classList.remove("over");
    });
    body.addEventListener("drop", (event) => {
      body.classList.remove("over");
      if (!holdsFiles(event)) return;
      event.preventDefault();
      this.add(event.dataTransfer.files);
    });
  }

  add(files) {
    for (const file of files) {
      if (this.limits && file.size > this.limits.max_upload) {
        this.refused(`${file.name}: ${size(file.size)}, and at most ${size(this.limits.max_upload)} are taken.`);
      } else if (file.size === 0) {
        this.refused(`${file.name}: is empty, or a folder.`);
      } else {
        this.waiting.push(this.line(file));
      }
    }
    this.next();
  }

  line(file) {
    const item = element("li", "job");
    const text = element("div", "open");
    const state = element("span", "state", "waits to be sent");
    text.append(element("span", "name", file.name), state);
    const stop = element("button", "act", "Stop");
    stop.setAttribute("aria-label", `Stop sending ${file.name}`);
    const bar = element("div", "bar");
    bar.append(element("i"));
    item.append(text, stop, bar);
    byId("uploads").append(item);
    const upload = { file, item, state, bar, sent: null, stopped: false };
    stop.addEventListener("click", () => {
      upload.stopped = true;
      if (upload.sent) upload.sent.abort();
      item.remove();
    });
    return upload;
  }

  options() {
    const form = byId("form");
    const given = [...new FormData(form)].filter(([name, value]) => value !== "" && name !== "formats");
    const more = [...form.querySelectorAll('input[name="formats"]:checked')].map((box) => box.value);
    if (more.length > 0) given.push(["formats", ["obj", "glb", "arkit", "overlay", "livelink", "report", ...more].join(",")]);
    return given;
  }

  async next() {
    if (this.busy) return;
    this.busy = true;
    while (this.waiting.length > 0) {
      const upload = this.waiting.shift();
      if (!upload.stopped) await this.one(upload);
    }
    this.busy = false;
  }

  async one(upload) {
    const { file, item, state, bar } = upload;
    upload.sent = send(file, this.options(), (share) => {
      state.textContent = share < 1 ? `sending, ${Math.floor(share * 100)} %` : "sent; being looked at";
      bar.firstChild.style.transform = `scaleX(${share})`;
    });
    try {
      this.accepted(await upload.sent.answered);
    } catch (error) {
      if (error.message) this.refused(error.message);
    }
    item.remove();
  }
}
