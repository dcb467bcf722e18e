/** The alerts panel: explains alerts, subscribes on a click, and shows the subscription's state. */

import { PushError, browserName } from "../push/manager.js";
import { announce, button, byId, el } from "./dom.js";
import { sentenceOf, unblockSteps } from "./help.js";

/** @typedef {import("../push/manager.js").PushSubscriptionManager} PushSubscriptionManager */
/** @typedef {import("../push/manager.js").PushState} PushState */
/** @typedef {"idle" | "busy" | "good" | "warn" | "bad"} Tone */

export class AlertsPanel {
  #signal = byId("alerts-signal", HTMLElement);
  #body = byId("alerts-body", HTMLElement);

  /** @param {PushSubscriptionManager} push @param {(state: PushState) => void} onState */
  constructor(push, onState) {
    this.push = push;
    this.onState = onState;
  }

  /** Synchronise and show the state; called on each visit, once signed in. Never prompts. */
  async refresh() {
    await this.#attempt(async () => {
      const state = await this.push.state();
      if (state === "unsupported" || state === "ios-needs-install") return state;
      await this.push.prepare();
      return this.push.resync();
    });
  }

  /** Run an action, then show the state or the error. @param {() => Promise<PushState | void>} work */
  async #attempt(work) {
    try {
      await this.#show((await work()) ?? (await this.push.state()));
    } catch (error) {
      if (!(error instanceof PushError)) throw error;
      if (error.code === "denied") await this.#show("denied");
      else this.#showFailure(error);
    }
  }

  #turnOn() {
    // No await before this call: browsers allow the prompt only in the task of the click.
    const work = this.push.subscribe();
    const asking = Notification.permission === "default";
    this.#set("busy", asking ? "Your browser is asking" : "Turning on …");
    this.#body.replaceChildren(
      el("p", { class: "say" }, asking ? "Please choose Allow in your browser’s own question." : "One moment …"),
    );
    announce(asking ? "Your browser is asking for permission" : "Turning alerts on");
    this.#attempt(() => work);
  }

  #turnOff() {
    this.#set("busy", "Turning off …");
    this.#attempt(() => this.push.unsubscribe());
  }

  /** @param {Tone} tone @param {string} text */
  #set(tone, text) {
    this.#signal.dataset.tone = tone;
    this.#signal.textContent = text;
  }

  /** @param {PushState} state */
  async #show(state) {
    switch (state) {
      case "subscribed":
        this.#set("good", "On");
        this.#body.replaceChildren(...(await this.#subscribed()));
        announce("Alerts are on");
        break;
      case "denied":
        this.#set("bad", "Blocked");
        this.#body.replaceChildren(
          el("p", { class: "say" }, "Your browser blocks notifications here. Only you can lift that:"),
          el("ol", {}, ...unblockSteps(browserName()).map((step) => el("li", {}, step))),
          act(button("I have done that", () => this.refresh(), "quiet")),
        );
        break;
      case "ios-needs-install":
        this.#set("warn", "Needs the Home Screen");
        this.#body.replaceChildren(
          el("p", { class: "say" }, "On iPhone and iPad, alerts work once this site is on your Home Screen:"),
          el(
            "ol",
            {},
            ...["Tap the Share button.", "Choose “Add to Home Screen”.", "Open Encore from there."].map((step) =>
              el("li", {}, step),
            ),
          ),
        );
        break;
      case "unsupported":
        this.#set("warn", "Not available");
        this.#body.replaceChildren(
          el(
            "p",
            { class: "say" },
            window.isSecureContext
              ? "This browser has no push notifications. A current Chrome, Edge, Firefox or Safari has."
              : "Browsers allow push only on https or on localhost. Open this page through one of them.",
          ),
        );
        break;
      default:
        this.#set("idle", "Off");
        this.#body.replaceChildren(...this.#invitation(state));
    }
    this.onState(state);
  }

  /** @param {PushState} state @returns {Node[]} */
  #invitation(state) {
    return [
      el(
        "p",
        { class: "say" },
        "If your show moves to another hour or another house, or is called off, this device " +
          "tells you within seconds, before you leave home.",
      ),
      el(
        "ul",
        { class: "promises" },
        el("li", {}, el("strong", {}, "Only your ticket."), " No offers, no newsletters."),
        el("li", {}, el("strong", {}, "Even when closed."), " The tab need not be open."),
        el("li", {}, el("strong", {}, "Off any time."), " One click, right here."),
      ),
      act(
        button("Turn on alerts", () => this.#turnOn()),
        el(
          "span",
          { class: "fine" },
          state === "default" ? "Your browser will ask you next." : "You have already allowed it.",
        ),
      ),
    ];
  }

  /** @returns {Promise<Node[]>} */
  async #subscribed() {
    const active = (await this.push.devices()).filter((device) => device.state === "active");
    const names = active.map((device) => device.device ?? device.host);
    const list = new Intl.ListFormat("en").format(names);
    return [
      el(
        "p",
        { class: "say" },
        names.length > 1
          ? `${names.length} devices are notified of changes: ${list}.`
          : `${list} is notified of every change to your event.`,
      ),
      act(button("Turn off on this device", () => this.#turnOff(), "quiet")),
    ];
  }

  /** @param {PushError} error */
  #showFailure(error) {
    console.warn("tidings demo: push failed", error);
    this.#set("bad", "Did not work");
    const sentence = sentenceOf(error);
    this.#body.replaceChildren(el("p", { class: "say" }, sentence), act(button("Try again", () => this.#turnOn())));
    announce(sentence);
    this.onState("default");
  }
}

/** @param {...Node} children */
function act(...children) {
  return el("div", { class: "act" }, ...children);
}
