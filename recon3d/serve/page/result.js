/* What became of one job: the head in 3D, the overlay, the curves, the files. */

import { archiveAddress, fileAddress } from "./api.js";
import { Curves } from "./curves.js";
import { fill, stateText } from "./jobs.js";
import { Player } from "./player.js";
import { byId, element, plural, size } from "./text.js";

const WHAT = {
  "mesh.glb": "rigged head with the 52 units: Blender, Unity, Unreal, Godot",
  "animation.glb": "rigged, animated head: Blender, Unity, Unreal, Godot",
  "livelink.csv": "curves as a Live Link Face take: Unreal",
  "mesh.obj": "the head as in the photograph",
  "mesh.mtl": "material of mesh.obj",
  "mesh.jpg": "texture of mesh.obj",
  "overlay.jpg": "how well it fits",
  "overlay.mp4": "how well it fits",
  "report.html": "page with all curves",
  "arkit.json": "the 52 units and the pose",
  "capture.npz": "everything, for recon3d export",
  "curves.csv": "table of the curves",
  "curves.json": "table of the curves",
  "head.bvh": "head, jaw and eyes as bones",
  "animation.usdc": "USD, animated",
  "mesh.usdc": "USD",
  "skeleton.glb": "the moving joints",
  "curves.glb": "the curves without a head",
};

export class Result {
  constructor() {
    this.job = null;
    this.person = 1;
    this.facts = null;
    this.player = new Player((seconds) => {
      this.viewer?.seek(seconds);
      this.curves?.show(seconds);
    });
    this.curves = new Curves((seconds) => this.player.seek(seconds), (index, value) => this.viewer?.set(index, value));
    this.wire();
  }

  wire() {
    byId("person").addEventListener("change", (event) => {
      this.person = Number(event.target.value);
      this.open();
    });
    byId("from-front").addEventListener("click", () => this.viewer?.front());
    const switches = { skeleton: "showBones", wireframe: "showWires", texture: "showTexture" };
    for (const [id, method] of Object.entries(switches)) {
      byId(id).addEventListener("click", () => {
        const pressed = byId(id).getAttribute("aria-pressed") !== "true";
        byId(id).setAttribute("aria-pressed", String(pressed));
        if (this.viewer?.model) this.viewer[method](pressed);
      });
    }
    byId("as-seen").addEventListener("click", () => this.curves.put(this.loaded.rest));
    byId("neutral").addEventListener("click", () => this.curves.put(this.loaded.rest.map(() => 0)));
    document.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const typing = event.target.closest("input, select, textarea, button, a, summary, video");
    if (typing || event.ctrlKey || event.altKey || event.metaKey || byId("finished").hidden) return;
    const buttons = { " ": "play", 0: "from-front", s: "skeleton", w: "wireframe", t: "texture", l: "loop", m: "mute" };
    const button = buttons[event.key.toLowerCase()];
    if (!button) return;
    event.preventDefault();
    byId(button).click();
  }

  /** Show a job, or what has changed of it. */
  show(job) {
    const before = this.job;
    this.job = job;
    byId("empty").hidden = job !== null;
    byId("shown").hidden = job === null;
    if (!job) {
      this.close();
      return;
    }
    const done = job.state === "done";
    byId("name").textContent = job.name;
    byId("about").textContent = this.about(job);
    byId("archive").hidden = byId("finished").hidden = !done;
    byId("archive").href = archiveAddress(job.id);
    byId("waiting").hidden = !["waiting", "running"].includes(job.state);
    byId("reason").hidden = !["failed", "cancelled"].includes(job.state);
    byId("reason").textContent = job.error ?? "This job was cancelled.";
    this.step(job);
    if (before?.id === job.id && before.state === job.state) return;
    if (before?.id !== job.id) this.person = 1;
    if (done) this.open();
    else this.close();
  }

  about(job) {
    const when = new Date(job.created * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
    const parts = [job.kind === "clip" ? "clip" : "photograph", size(job.size), when];
    if (job.state === "done") {
      parts.splice(1, 0, plural(job.persons, "head", "heads"));
      parts.push(`took ${(job.finished - job.started).toFixed(1)} s`);
    }
    return parts.join("  ·  ");
  }

  step(job) {
    byId("step").textContent = stateText(job);
    const share = fill(byId("step-bar"), job);
    if (share === null) byId("step-bar").removeAttribute("aria-valuenow");
    else byId("step-bar").setAttribute("aria-valuenow", String(Math.round(share * 100)));
  }

  close() {
    this.player.begin(0, null);
    this.viewer?.clear();
    byId("picture").removeAttribute("src");
    delete byId("view").dataset.morphs;
  }

  files() {
    return this.job.files.filter((file) => file.person === this.person);
  }

  address(plain) {
    const found = this.files().find((file) => file.name.replace(/^face\d+-/, "") === plain);
    return found ? fileAddress(this.job.id, found.name) : null;
  }

  /** Show one person's results. */
  async open() {
    this.close();
    this.fillPersons();
    this.fillDownloads();
    const picture = this.address("overlay.jpg");
    const video = this.address("overlay.mp4");
    byId("picture").hidden = picture === null;
    if (picture) byId("picture").src = picture;
    byId("overlay").hidden = !(picture || video);
    byId("units-panel").hidden = byId("transport").hidden = true;
    const wanted = `${this.job.id} ${this.person}`;
    this.wanted = wanted;
    const loaded = await this.load();
    if (this.wanted !== wanted) return; // another one was chosen meanwhile
    const length = loaded?.curves?.duration ?? 0;
    byId("transport").hidden = !(length > 0 || video);
    if (loaded) this.fillUnits(loaded);
    this.player.begin(length > 0 ? length : await videoLength(video), video);
    if (loaded) byId("view").dataset.morphs = String(loaded.names.length);
  }

  fillPersons() {
    const persons = [...new Set(this.job.files.map((file) => file.person))];
    byId("person-choice").hidden = persons.length < 2;
    byId("person").replaceChildren(...persons.map((person) => {
      const option = element("option", "", person === 1 ? "1, the main one" : String(person));
      option.value = String(person);
      option.selected = person === this.person;
      return option;
    }));
  }

  fillDownloads() {
    byId("downloads").replaceChildren(...this.files().map((file) => {
      const item = element("li");
      const link = element("a", "", file.name);
      link.href = fileAddress(this.job.id, file.name);
      link.download = "";
      const plain = file.name.replace(/^face\d+-/, "");
      item.append(link, element("span", "what", WHAT[plain] ?? ""), element("span", "size", size(file.size)));
      return item;
    }));
  }

  /** Load the head into the viewer; null where it cannot be shown, and why is said. */
  async load() {
    const address = this.address("animation.glb") ?? this.address("mesh.glb");
    if (!address) return this.noView("No GLB file was asked for, so there is nothing to show in 3D.");
    if (this.facts && !this.facts.viewer) return this.noView(this.facts.viewer_problem);
    try {
      if (!this.viewer) {
        const { Viewer } = await import("./viewer.js");
        this.viewer = new Viewer(byId("canvas"));
      }
    } catch (error) {
      return this.noView(/WebGL/.test(error.message) ? "This browser has no WebGL, so it cannot show the head in 3D." : `3D is not to be had: ${error.message}`);
    }
    try {
      const loaded = await this.viewer.load(address);
      byId("no-view").hidden = true;
      for (const id of ["skeleton", "wireframe"]) byId(id).setAttribute("aria-pressed", "false");
      byId("texture").setAttribute("aria-pressed", "true");
      return loaded;
    } catch (error) {
      return this.noView(`The GLB file could not be shown: ${error.message}`);
    }
  }

  noView(text) {
    byId("no-view").textContent = text;
    byId("no-view").hidden = false;
    return null;
  }

  fillUnits(loaded) {
    this.loaded = loaded;
    byId("units-panel").hidden = false;
    byId("as-seen").hidden = byId("neutral").hidden = loaded.curves !== null;
    this.curves.begin(loaded);
    if (!loaded.curves) this.curves.put(loaded.rest);
  }
}

/** How long a video is, s; 0 where there is none. */
function videoLength(address) {
  if (!address) return 0;
  return new Promise((resolve) => {
    const video = document.createElement("video");
    video.addEventListener("loadedmetadata", () => resolve(video.duration));
    video.addEventListener("error", () => resolve(0));
    video.src = address;
  });
}
