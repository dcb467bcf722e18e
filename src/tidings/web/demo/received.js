/** Lists the notifications of this device, as reported by the service worker or still shown by the browser. */

import { announce, byId, el } from "./dom.js";
import { clockOf } from "./format.js";

/** @typedef {{ key: string, title: string, body: string, at: number, opened: boolean }} Item */

const KEPT = 20;

/** @param {unknown} data of a notification @returns {string | null} its delivery id */
function deliveryOf(data) {
  const id = typeof data === "object" && data !== null && "deliveryId" in data ? data.deliveryId : null;
  return typeof id === "string" ? id : null;
}

export class Received {
  #list = byId("inbox", HTMLElement);
  #empty = byId("inbox-empty", HTMLElement);
  /** @type {Item[]} newest first */
  #items = [];
  #locale = navigator.language;

  /** @param {() => void} onArrived @param {() => void} onSubscriptionChanged */
  constructor(onArrived, onSubscriptionChanged) {
    this.onArrived = onArrived;
    this.channel = new BroadcastChannel("tidings");
    this.channel.addEventListener("message", ({ data }) => {
      if (data.type === "shown") this.#arrived(data);
      else if (data.type === "clicked") this.#opened(deliveryOf(data.data));
      else if (data.type === "subscription-changed") onSubscriptionChanged();
    });
  }

  /** Add notifications that were shown before this page was open. @param {string} locale */
  async catchUp(locale) {
    this.#locale = locale;
    const registration = "serviceWorker" in navigator ? await navigator.serviceWorker.getRegistration("/") : undefined;
    for (const shown of (await registration?.getNotifications()) ?? []) {
      const at = /** @type {Notification & { timestamp?: number }} */ (shown).timestamp ?? Date.now();
      this.#add({
        title: shown.title,
        body: shown.body,
        at,
        key: deliveryOf(shown.data) ?? shown.title + at,
        opened: false,
      });
    }
    this.#draw();
  }

  clear() {
    this.#items = [];
    this.#draw();
  }

  /** @param {{ title: string, body: string, at: number, data: unknown }} message */
  #arrived({ title, body, at, data }) {
    this.#add({ title, body, at, key: deliveryOf(data) ?? `${title}${at}`, opened: false });
    this.#draw();
    announce(`Received: ${title}`);
  }

  /** @param {string | null} key */
  #opened(key) {
    this.#items = this.#items.map((item) => (item.key === key ? { ...item, opened: true } : item));
    this.#draw();
  }

  /** @param {Item} item a repeated delivery replaces itself, as its notification does */
  #add(item) {
    this.#items = [item, ...this.#items.filter((known) => known.key !== item.key)].slice(0, KEPT);
  }

  #draw() {
    this.#empty.hidden = this.#items.length > 0;
    this.#list.replaceChildren(...this.#items.map((item) => entry(item, this.#locale)));
    if (this.#items.length > 0) this.onArrived();
  }
}

/** @param {Item} item @param {string} locale @returns {HTMLElement} */
function entry({ title, body, at, opened }, locale) {
  const time = el("time", { lang: locale, datetime: new Date(at).toISOString() }, clockOf(at, locale));
  return el(
    "li",
    {},
    el("img", { src: "/web/demo/icons/mark.svg", alt: "", width: "40", height: "40" }),
    el("strong", {}, title),
    time,
    el("span", {}, opened ? `${body} (opened)` : body),
  );
}
