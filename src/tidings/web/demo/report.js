/** Reports what Tidings did with a change: the notification, its live counts, and the explanation for this visitor. */

import { ApiProblem } from "./api.js";
import { announce, byId, el } from "./dom.js";
import { shortOf } from "./format.js";
import { reasons } from "./reasons.js";

/** @typedef {import("./api.js").Changed} Changed */
/** @typedef {import("./api.js").Progress} Progress */
/** @typedef {import("./format.js").Reader} Reader */

/** @type {Record<string, string>} */
const FIELDS = {
  startDate: "Start",
  endDate: "End",
  venue: "Venue",
  address: "Address",
  city: "City",
  status: "Status",
  title: "Title",
};
const UNFINISHED = ["pending", "sending"];
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5000;

export class Report {
  #body = byId("report-body", HTMLElement);
  #signal = byId("report-signal", HTMLElement);
  /** Number of the current change; polling of older changes stops when it is incremented. */
  #round = 0;

  /** @param {import("./api.js").DemoApi} api */
  constructor(api) {
    this.api = api;
  }

  /** @param {Changed} changed @param {Reader} reader */
  async follow(changed, reader) {
    const round = ++this.#round;
    const head = el("div", { class: "changed" }, ...lines(changed, reader));
    if (changed.notification === null) {
      this.#setSignal("warn", "No message");
      const why = changed.change
        ? "This change is too small for a message, so nobody was notified."
        : "Nothing changed, so nobody was notified.";
      this.#body.replaceChildren(head, el("p", { class: "trail" }, why));
      announce(why);
      return;
    }
    const { id } = changed.notification;
    const counts = el("div");
    const why = el("div");
    const trail = el("p", { class: "trail" }, "Notification ", el("code", {}, id));
    this.#body.replaceChildren(head, counts, trail, why);
    this.#setSignal("busy", "Sending");
    try {
      const progress = await this.#watch(id, counts, () => round === this.#round);
      if (progress === null) return;
      this.#setSignal("good", "Done");
      announce(`Done: ${progress.byState.delivered ?? 0} messages delivered`);
      why.replaceChildren(explained(await this.api.explain(id), reader));
    } catch (error) {
      if (!(error instanceof ApiProblem)) throw error;
      this.#setSignal("bad", "Progress unavailable");
      why.replaceChildren(el("p", { class: "problem" }, error.message));
    }
  }

  clear() {
    this.#round += 1;
    this.#signal.hidden = true;
    this.#body.replaceChildren(
      el("p", { class: "empty" }, "Change something as the host. Every message is then counted here."),
    );
  }

  /**
   * Poll the counts with increasing pauses; polling pauses while the tab is hidden.
   * @param {string} id
   * @param {HTMLElement} place
   * @param {() => boolean} current
   * @returns {Promise<Progress | null>} the final counts; null if a newer change took over
   */
  async #watch(id, place, current) {
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 1.4, LONGEST_WAIT_MS)) {
      const progress = await this.api.progress(id);
      if (!current()) return null;
      place.replaceChildren(...tiles(progress));
      if (progress.finished) return progress;
      await new Promise((resolve) => setTimeout(resolve, wait));
      await visible();
      if (!current()) return null;
    }
  }

  /** @param {"busy" | "good" | "warn" | "bad"} tone @param {string} text */
  #setSignal(tone, text) {
    this.#signal.hidden = false;
    this.#signal.dataset.tone = tone;
    this.#signal.textContent = text;
  }
}

/** @returns {Promise<void>} resolved when the tab is visible */
function visible() {
  if (document.visibilityState === "visible") return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(), { once: true }));
}

/** @param {Progress} progress @returns {Node[]} */
function tiles({ recipients, deliveries, skipped, byState, finished }) {
  const waiting = UNFINISHED.reduce((sum, state) => sum + (byState[state] ?? 0), 0);
  const delivered = byState.delivered ?? 0;
  const failed = deliveries - delivered - waiting;
  /** @type {[string, number]} */
  const rest = finished ? ["Not delivered", failed] : ["On the way", waiting];
  /** @type {[string, number][]} */
  const numbers = [["People", recipients], ["Messages delivered", delivered], rest, ["Skipped", skipped]];
  const share = finished ? 1 : deliveries === 0 ? 0 : (deliveries - waiting) / deliveries;
  return [
    el(
      "dl",
      { class: "counts" },
      ...numbers.map(([name, count]) => el("div", {}, el("dt", {}, name), el("dd", {}, count.toLocaleString("en")))),
    ),
    el("progress", { max: "1", value: String(share), "aria-label": "Messages with a final outcome" }),
    el("p", { class: "trail" }, "Each device and each mailbox receives its own message. A skip is a person and a channel without one."),
  ];
}

/** @param {Changed} changed @param {Reader} reader @returns {Node[]} one line per changed field */
function lines({ change }, reader) {
  return (change?.fields ?? []).map(({ field, old, new: now }) => {
    /** @param {string | null} value @param {string | null} other @returns {Node | string} */
    const shown = (value, other) => {
      if (value === null) return "none";
      if (field.endsWith("Date")) return el("span", { lang: reader.locale }, shortOf(value, reader, other));
      return field === "status" ? value.charAt(0) + value.slice(1).toLowerCase() : value;
    };
    const label = FIELDS[field] ?? field;
    return el("p", {}, `${label}: `, el("del", {}, shown(old, now)), " → ", shown(now, old));
  });
}

/** @param {import("./api.js").Explanation} explanation @param {Reader} reader @returns {HTMLElement} */
function explained(explanation, reader) {
  return el(
    "div",
    { class: "why" },
    el("h3", {}, "And you?"),
    el("ul", {}, ...reasons(explanation, reader).map((each) => el("li", {}, each))),
  );
}
