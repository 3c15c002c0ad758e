/* Which moment it is: a video's own, where there is one, or a clock's. */

import { byId, clock } from "./text.js";

export class Player {
  /** `show(seconds)` is told of every moment that is due. */
  constructor(show) {
    this.show = show;
    this.video = byId("video");
    this.length = 0;
    this.time = 0;
    this.playing = false;
    this.since = 0;
    this.wire();
  }

  /** Begin with another clip of so many seconds; `address`: its video, or null. */
  begin(length, address) {
    this.pause();
    this.length = length;
    this.hasVideo = address !== null;
    this.video.hidden = !this.hasVideo;
    if (this.hasVideo) this.video.src = address;
    else if (this.video.hasAttribute("src")) {
      this.video.removeAttribute("src");
      this.video.load(); // lets go of the one before
    }
    byId("mute").hidden = !this.hasVideo;
    byId("slider").max = String(length);
    this.seek(0);
  }

  /** The video counts as long as it can be played. */
  get usesVideo() {
    return this.hasVideo && this.video.readyState >= 2 && !this.video.error;
  }

  wire() {
    byId("play").addEventListener("click", () => this.toggle());
    byId("slider").addEventListener("input", (event) => this.seek(Number(event.target.value)));
    byId("rate").addEventListener("change", () => this.setRate());
    for (const id of ["loop", "mute"]) {
      byId(id).addEventListener("click", (event) => {
        const pressed = event.target.getAttribute("aria-pressed") !== "true";
        event.target.setAttribute("aria-pressed", String(pressed));
        if (id === "mute") this.video.muted = pressed;
      });
    }
  }

  get rate() {
    return Number(byId("rate").value);
  }

  setRate() {
    this.since = performance.now();
    this.from = this.time;
    this.video.playbackRate = this.rate;
  }

  seek(seconds) {
    this.time = Math.max(0, Math.min(this.length, seconds));
    if (this.hasVideo) this.video.currentTime = this.time;
    this.setRate();
    this.tell();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.length <= 0) return;
    if (this.time >= this.length - 0.01) this.seek(0);
    this.playing = true;
    this.setRate();
    if (this.usesVideo) this.video.play().catch(() => {});
    byId("play").classList.add("playing");
    byId("play").setAttribute("aria-label", "Pause");
    this.follow();
  }

  pause() {
    this.playing = false;
    this.video.pause();
    byId("play").classList.remove("playing");
    byId("play").setAttribute("aria-label", "Play");
  }

  follow() {
    requestAnimationFrame((now) => {
      if (!this.playing) return;
      const ended = this.usesVideo && this.video.ended;
      this.time = this.usesVideo && !ended ? this.video.currentTime : this.from + ((now - this.since) / 1000) * this.rate;
      if (ended || this.time >= this.length) this.end();
      this.tell();
      if (this.playing) this.follow();
    });
  }

  end() {
    if (byId("loop").getAttribute("aria-pressed") === "true") {
      this.seek(0);
      if (this.usesVideo) this.video.play().catch(() => {});
    } else {
      this.time = this.length;
      this.pause();
    }
  }

  tell() {
    byId("slider").value = String(this.time);
    byId("clock").textContent = `${clock(this.time)} / ${clock(this.length)}`;
    this.show(this.time);
  }
}
