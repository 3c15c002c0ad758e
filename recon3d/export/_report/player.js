/* One place that knows which frame it is, whether a video shows it or only the clock runs. */

/** What a video element offers, without the pictures. */
class Clock extends EventTarget {
  constructor(duration) {
    super();
    this.duration = duration;
    this.paused = true;
    this.loop = false;
    this.rate = 1;
    this.time = 0;
    this.since = 0;
  }

  get currentTime() {
    if (this.paused) return this.time;
    const time = this.time + ((performance.now() - this.since) / 1000) * this.rate;
    if (time < this.duration) return time;
    if (this.loop) return time % this.duration;
    this.time = this.duration;
    this.pause();
    return this.duration;
  }

  set currentTime(time) {
    this.time = time;
    this.since = performance.now();
  }

  get playbackRate() {
    return this.rate;
  }

  set playbackRate(rate) {
    this.currentTime = this.currentTime;
    this.rate = rate;
  }

  play() {
    this.paused = false;
    this.since = performance.now();
    this.dispatchEvent(new Event("play"));
    return Promise.resolve();
  }

  pause() {
    if (this.paused) return;
    this.time = Math.min(this.duration, this.time + ((performance.now() - this.since) / 1000) * this.rate);
    this.paused = true;
    this.dispatchEvent(new Event("pause"));
  }
}

/** Plays, seeks, and tells `listener(frame)` whenever another frame is due. */
class Player {
  constructor(times, media, listener) {
    this.times = times;
    this.media = media;
    this.listener = listener;
    this.frame = 0;
    this.wanted = null;
    media.addEventListener("play", () => this.follow());
    media.addEventListener("seeked", () => this.arrived());
  }

  get last() {
    return this.times.length - 1;
  }

  /** The middle of a frame's time: no rounding of the file's clock can show its neighbour instead. */
  middle(frame) {
    const { times, last } = this;
    if (last === 0) return 0;
    const length = frame < last ? times[frame + 1] - times[frame] : times[last] - times[last - 1];
    return times[frame] + length / 2;
  }

  seek(frame) {
    const clamped = Math.max(0, Math.min(this.last, frame));
    this.show(clamped);
    this.wanted = clamped;
    if (!this.media.seeking) this.start();
  }

  /** A video that is still seeking gets the newest wish only, once it has arrived. */
  start() {
    this.media.currentTime = this.middle(this.wanted);
    this.started = this.wanted;
    if (!(this.media instanceof HTMLMediaElement)) this.wanted = null;
  }

  arrived() {
    if (this.wanted !== null && this.wanted !== this.started) this.start();
    else if (this.wanted !== null) this.wanted = null;
    else if (this.media.paused) this.show(lastNotAfter(this.times, this.media.currentTime));
  }

  toggle() {
    if (!this.media.paused) this.media.pause();
    else {
      if (this.frame === this.last) this.seek(0);
      this.media.play().catch(() => {});
    }
  }

  /** While it plays, ask for every picture that is shown; without a video, for every refresh. */
  follow() {
    const { media, times } = this;
    const next = () => {
      if (!media.paused) this.follow();
    };
    if (media.requestVideoFrameCallback) {
      media.requestVideoFrameCallback((_, picture) => {
        if (!media.paused && this.wanted === null) this.show(nearest(times, picture.mediaTime));
        next();
      });
    } else {
      requestAnimationFrame(() => {
        if (this.wanted === null) this.show(lastNotAfter(times, media.currentTime));
        next();
      });
    }
  }

  show(frame) {
    this.frame = frame;
    this.listener(frame);
  }
}
