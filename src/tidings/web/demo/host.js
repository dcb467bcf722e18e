/** The host's controls: change the time or venue, cancel the event, restore it. */

import { ApiProblem } from "./api.js";
import { byId, tellProblem } from "./dom.js";
import { instantOf, wallClock } from "./format.js";

/** @typedef {import("./api.js").Event} Event */
/** @typedef {import("./api.js").Changed} Changed */

const HOUR = 3_600_000;

export class HostPanel {
  #panel = byId("host", HTMLElement);
  #problem = byId("host-problem", HTMLElement);
  #start = byId("host-start", HTMLInputElement);
  #venue = byId("host-venue", HTMLInputElement);
  #confirm = byId("cancel-confirm", HTMLElement);
  #cancel = byId("cancel", HTMLButtonElement);
  /** @type {Event | null} */
  #event = null;
  #timezone = "UTC";
  #busy = false;

  /**
   * @param {import("./api.js").DemoApi} api
   * @param {(changed: Changed) => void} onChanged
   * @param {() => Promise<void>} onReset
   * @param {(problem: ApiProblem) => boolean} onRefused true if the page dealt with it (expired session)
   */
  constructor(api, onChanged, onReset, onRefused) {
    this.api = api;
    this.onChanged = onChanged;
    this.onReset = onReset;
    this.onRefused = onRefused;
    this.#panel.addEventListener("click", (click) => {
      const pressed = click.target instanceof Element ? click.target.closest("button[data-act]") : null;
      if (pressed instanceof HTMLButtonElement) this.#press(pressed.dataset.act ?? "");
    });
    this.#panel.addEventListener("submit", (submit) => {
      submit.preventDefault();
      if (submit.target instanceof HTMLFormElement) this.#press(submit.target.dataset.act ?? "");
    });
  }

  /** @param {Event} event @param {string} timezone in which times are picked */
  show(event, timezone) {
    this.#event = event;
    this.#timezone = timezone;
    this.#start.value = wallClock(new Date(event.startDate), timezone);
    this.#start.min = wallClock(new Date(), timezone);
    this.#start.removeAttribute("aria-invalid");
    this.#venue.value = event.venue ?? "";
    this.#panel.toggleAttribute("data-cancelled", event.status === "CANCELLED");
    this.#cancel.hidden = false;
    this.#confirm.hidden = true;
  }

  /** @param {string} act */
  #press(act) {
    const event = this.#event;
    if (event === null || this.#busy) return;
    switch (act) {
      case "later": {
        const later = new Date(Date.parse(event.startDate) + HOUR);
        this.#run(() => this.api.change(event.id, { startDate: later.toISOString() }));
        break;
      }
      case "time":
        this.#move(event);
        break;
      case "venue":
        this.#run(() => this.api.change(event.id, { venue: this.#venue.value.trim() }));
        break;
      case "cancel":
        this.#cancel.hidden = true;
        this.#confirm.hidden = false;
        this.#confirm.querySelector("button")?.focus();
        break;
      case "cancel-no":
        this.#cancel.hidden = false;
        this.#confirm.hidden = true;
        this.#cancel.focus();
        break;
      case "cancel-yes":
        this.#run(() => this.api.cancel(event.id));
        break;
      case "reset":
        this.#run(async () => {
          await this.api.reset(event.id);
          await this.onReset();
          return null;
        });
        break;
    }
  }

  /** @param {Event} event whose start becomes the selected time; times in the past are rejected */
  #move(event) {
    const picked = this.#start.value === "" ? null : instantOf(this.#start.value, this.#timezone);
    const over = picked !== null && picked.getTime() < Date.now();
    this.#start.setAttribute("aria-invalid", String(picked === null || over));
    if (picked === null || over) {
      const why = over ? "That time is already over. Pick one from now on." : "Pick a day and a time first.";
      tellProblem(this.#problem, why);
      this.#start.focus();
      return;
    }
    this.#run(() => this.api.change(event.id, { startDate: picked.toISOString() }));
  }

  /** @param {() => Promise<Changed | null>} work one at a time; an error is shown with the server's text */
  async #run(work) {
    this.#busy = true;
    tellProblem(this.#problem, null);
    for (const each of this.#panel.querySelectorAll("button")) each.setAttribute("aria-disabled", "true");
    try {
      const changed = await work();
      if (changed !== null) this.onChanged(changed);
    } catch (error) {
      if (!(error instanceof ApiProblem)) throw error;
      if (!this.onRefused(error)) tellProblem(this.#problem, error.message);
    } finally {
      this.#busy = false;
      for (const each of this.#panel.querySelectorAll("button")) each.removeAttribute("aria-disabled");
    }
  }
}
