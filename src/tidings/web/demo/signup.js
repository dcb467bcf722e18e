/** The sign-up form: name, language and time zone (defaults from the browser), and a preview of the event. */

import { ApiProblem } from "./api.js";
import { byId, el, tellProblem } from "./dom.js";
import { shortOf, zoneLabel } from "./format.js";
import { posterOf } from "./posters.js";

const LANGUAGES = ["en", "de", "fr", "es", "it", "nl", "pt"];

/** @typedef {import("./api.js").Event} Event */
/** @typedef {import("./api.js").SignedUp} SignedUp */

export class SignUpForm {
  #form = byId("sign-up", HTMLFormElement);
  #problem = byId("sign-up-problem", HTMLElement);
  #preview = byId("preview", HTMLElement);

  /**
   * @param {import("./api.js").DemoApi} api
   * @param {(answer: SignedUp, person: { name: string, locale: string, timezone: string }) => void} onDone
   */
  constructor(api, onDone) {
    this.api = api;
    this.onDone = onDone;
    fillLanguages(byId("locale", HTMLSelectElement));
    fillZones(byId("timezone", HTMLSelectElement));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** Show the event of the ticket, the first of the programme. @param {Event[]} programme */
  showProgramme(programme) {
    const [first] = programme;
    if (first === undefined) {
      this.#preview.replaceChildren(el("p", { class: "empty" }, "Nothing is on right now."));
      return;
    }
    this.#preview.replaceChildren(...preview(first, posterOf(programme, first.id)));
  }

  /** @param {string} text */
  tell(text) {
    tellProblem(this.#problem, text);
  }

  async #submit() {
    const data = new FormData(this.#form);
    const field = byId("name", HTMLInputElement);
    const name = String(data.get("name") ?? "").trim();
    field.setAttribute("aria-invalid", String(name === ""));
    if (name === "") {
      this.tell("Please tell us your name first; a nickname will do.");
      field.focus();
      return;
    }
    tellProblem(this.#problem, null);
    const person = { name, locale: String(data.get("locale")), timezone: String(data.get("timezone")) };
    try {
      this.onDone(await this.api.signUp(person), person);
    } catch (error) {
      if (!(error instanceof ApiProblem)) throw error;
      this.tell(error.message);
    }
  }
}

/** @param {Event} event @param {string} poster @returns {Node[]} */
function preview(event, poster) {
  const reader = { locale: navigator.language, timezone: Intl.DateTimeFormat().resolvedOptions().timeZone };
  const when = el("span", { lang: reader.locale }, shortOf(event.startDate, reader));
  const where = [event.venue, event.city].filter(Boolean).join(", ");
  return [
    el("img", { src: poster, alt: "", width: "58", height: "70" }),
    el("p", {}, el("strong", {}, event.title), when, el("span", {}, where)),
  ];
}

/** @param {HTMLSelectElement} select */
function fillLanguages(select) {
  const own = navigator.language;
  const known = LANGUAGES.includes(own) ? LANGUAGES : [own, ...LANGUAGES.filter((code) => code !== own)];
  for (const code of known) {
    const label = new Intl.DisplayNames([code], { type: "language" }).of(code) ?? code;
    select.append(new Option(label, code, code === own, code === own));
  }
}

/** @param {HTMLSelectElement} select */
function fillZones(select) {
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const all = new Set(["UTC", own, ...Intl.supportedValuesOf("timeZone")]);
  const sorted = [...all].sort((left, right) => zoneLabel(left).localeCompare(zoneLabel(right)));
  for (const zone of sorted) select.append(new Option(zoneLabel(zone), zone, zone === own, zone === own));
}
