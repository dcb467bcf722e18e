/**
 * Push on this device, for one signed-in person: detect, ask, subscribe, keep in step with the server, stop.
 *
 *     const push = new PushSubscriptionManager({ getToken: () => session.token });
 *     await push.prepare();                                  // on load: no prompt, nothing is asked
 *     await push.resync();                                   // on each visit, once signed in
 *     button.addEventListener("click", () => push.subscribe());
 *
 * Messages of the service worker (`shown`, `clicked`, `closed`, `subscription-changed`) arrive on
 * `new BroadcastChannel("tidings")`.
 */

import { deviceLabel, needsIosInstall, supportsPush } from "./environment.js";
import { PushError, explainSubscribeFailure, explainWorkerFailure } from "./errors.js";
import { keyFromText, sameKey } from "./keys.js";
import { PushServer } from "./server.js";

export { PushError } from "./errors.js";
export { browserName, deviceLabel } from "./environment.js";

/** @typedef {"unsupported" | "ios-needs-install" | "default" | "denied" | "granted-unsubscribed" | "subscribed"}
 *   PushState */
/**
 * @typedef {object} ManagerOptions
 * @property {import("./server.js").GetToken} getToken gives a current user token
 * @property {string} [apiBase] default "/api"
 * @property {string} [workerUrl] default "/sw.js"
 * @property {string} [scope] of the worker, default "/"
 * @property {number} [timeoutMs] how long the browser may take to subscribe once it may, default 10 000
 * @property {string} [device] name shown in the person's list of devices, default e.g. "Firefox on Linux"
 */
/** @typedef {{ registration: ServiceWorkerRegistration, key: Uint8Array<ArrayBuffer>, keyId: string }} Prepared */
/** @typedef {{ endpoint?: string, off?: boolean }} Memory what the server was told last; `off`: stop was said */

const MEMORY = "tidings.push";
/** A person may think about the prompt for a while; only after this is an unanswered prompt given up. */
const PROMPT_PATIENCE_MS = 120_000;

/** Owns this browser's push subscription for the current origin. */
export class PushSubscriptionManager {
  #options;
  #server;
  /** @type {Prepared | null} */
  #prepared = null;

  /** @param {ManagerOptions} options */
  constructor(options) {
    this.#options = { workerUrl: "/sw.js", scope: "/", timeoutMs: 10_000, device: deviceLabel(), ...options };
    this.#server = new PushServer(options.apiBase ?? "/api", options.getToken);
  }

  /** @returns {Promise<PushState>} never prompts; `subscribed` means the server was told, too */
  async state() {
    if (!supportsPush()) return needsIosInstall() ? "ios-needs-install" : "unsupported";
    if (Notification.permission !== "granted") return Notification.permission;
    const subscription = await this.#current();
    return subscription && subscription.endpoint === memory().endpoint ? "subscribed" : "granted-unsubscribed";
  }

  /**
   * Register the worker and fetch the public key, so that `subscribe()` can call the browser at once in the click.
   * @throws {PushError} `unsupported`, `private-window`, `network`, `server`
   */
  async prepare() {
    await this.#ready();
  }

  /**
   * Ask and subscribe. Call it directly in a click handler: browsers want the prompt inside the gesture.
   * @returns {Promise<void>} resolved when browser and server both know
   * @throws {PushError}
   */
  async subscribe() {
    // No await before the browser is asked when prepared: Safari and Firefox count only the same turn as the click.
    const ready = this.#prepared ?? (await this.#ready());
    const replaces = memory().endpoint;
    const subscription = await this.#obtain(ready);
    await this.#report(subscription, replaces, ready.keyId);
  }

  /**
   * Bring browser and server in step; never prompts. Replaces a subscription made with a retired key, subscribes
   * again where permission is there but the subscription is gone, and tells the server what is current.
   * Does nothing for somebody who unsubscribed.
   * @returns {Promise<PushState>}
   * @throws {PushError}
   */
  async resync() {
    const before = await this.state();
    const { off, endpoint } = memory();
    if (off || (before !== "granted-unsubscribed" && before !== "subscribed")) return before;
    const ready = await this.#ready();
    const current = await ready.registration.pushManager.getSubscription();
    // Never subscribed here and merely permitted (e.g. for another feature): that is not a yes to this one.
    if (!current && endpoint === undefined) return before;
    await this.#report(await this.#obtain(ready), endpoint ?? current?.endpoint, ready.keyId);
    return this.state();
  }

  /**
   * Stop on this device: the server first, so that nothing is sent to a device that no longer listens.
   * @throws {PushError} `network`, `server`; the device is then still subscribed
   */
  async unsubscribe() {
    const subscription = await this.#current();
    const endpoint = subscription?.endpoint ?? memory().endpoint;
    if (endpoint !== undefined) await this.#server.unsubscribe(endpoint);
    await subscription?.unsubscribe();
    remember({ off: true });
  }

  /** @returns {Promise<import("./server.js").Device[]>} every device this person subscribed */
  devices() {
    return this.#server.devices();
  }

  /** @returns {Promise<PushSubscription | null>} */
  async #current() {
    try {
      const { scope } = this.#options;
      const registration = this.#prepared?.registration ?? (await navigator.serviceWorker.getRegistration(scope));
      return (await registration?.pushManager.getSubscription()) ?? null;
    } catch (error) {
      throw explainWorkerFailure(error);
    }
  }

  /** @returns {Promise<Prepared>} */
  async #ready() {
    if (!supportsPush()) throw new PushError("unsupported", "this browser or page has no Web Push");
    const registration = await this.#registration();
    this.#prepared = { registration, ...(await this.#publicKey()) };
    return this.#prepared;
  }

  /** @returns {Promise<ServiceWorkerRegistration>} with an active worker */
  async #registration() {
    const { workerUrl, scope } = this.#options;
    try {
      // updateViaCache "none": a fixed worker must reach people at once, whatever caches say.
      const registration = await navigator.serviceWorker.register(workerUrl, { scope, updateViaCache: "none" });
      return await activated(registration);
    } catch (error) {
      throw explainWorkerFailure(error);
    }
  }

  /** @returns {Promise<{ key: Uint8Array<ArrayBuffer>, keyId: string }>} */
  async #publicKey() {
    const { publicKey, keyId } = await this.#server.publicKey();
    try {
      return { key: keyFromText(publicKey), keyId };
    } catch (error) {
      throw new PushError("server", "the server's public key cannot be read", { cause: error });
    }
  }

  /**
   * @param {Prepared} ready
   * @returns {Promise<PushSubscription>} under the current key
   */
  async #obtain(ready) {
    try {
      const subscription = await this.#ask(ready);
      if (sameKey(subscription.options.applicationServerKey, ready.key)) return subscription;
    } catch (error) {
      const failure = explainSubscribeFailure(error, Notification.permission);
      if (failure.code !== "stale-key") throw failure;
    }
    // Another key's subscription is in the way (some browsers throw, some hand it back): drop it and ask once more.
    const stale = await ready.registration.pushManager.getSubscription();
    await stale?.unsubscribe();
    try {
      return await this.#ask(ready);
    } catch (error) {
      throw explainSubscribeFailure(error, Notification.permission);
    }
  }

  /** @param {Prepared} ready @returns {Promise<PushSubscription>} */
  #ask({ registration, key }) {
    const asked = registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    return withPatience(asked, this.#options.timeoutMs);
  }

  /**
   * @param {PushSubscription} subscription
   * @param {string | undefined} replaces the endpoint told last
   * @param {string} keyId the key it was made with, which need not be the server's newest by now
   */
  async #report(subscription, replaces, keyId) {
    const body = { ...subscription.toJSON(), device: this.#options.device, keyId };
    const known = replaces === undefined || replaces === subscription.endpoint;
    await this.#server.subscribe(known ? body : { ...body, replaces });
    remember({ endpoint: subscription.endpoint });
  }
}

/**
 * `subscribe()` may hang for ever (offline, blocked push service). The clock runs only while the browser works:
 * as long as the prompt waits for an answer, it starts again.
 * @template T
 * @param {Promise<T>} work
 * @param {number} timeoutMs
 * @returns {Promise<T>}
 */
function withPatience(work, timeoutMs) {
  return new Promise((resolve, reject) => {
    const giveUpAt = performance.now() + PROMPT_PATIENCE_MS;
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    const expire = () => {
      if (Notification.permission === "default" && performance.now() < giveUpAt) {
        timer = setTimeout(expire, timeoutMs);
        return;
      }
      reject(new PushError("timeout", `the browser did not subscribe within ${timeoutMs} ms`));
    };
    timer = setTimeout(expire, timeoutMs);
    work.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** @param {ServiceWorkerRegistration} registration @returns {Promise<ServiceWorkerRegistration>} once active */
async function activated(registration) {
  const starting = registration.installing ?? registration.waiting;
  if (registration.active || !starting) return registration;
  await new Promise((resolve, reject) => {
    starting.addEventListener("statechange", () => {
      if (starting.state === "activated") resolve(undefined);
      if (starting.state === "redundant") reject(new Error("the service worker failed to install"));
    });
  });
  return registration;
}

/** @returns {Memory} */
function memory() {
  try {
    return JSON.parse(localStorage.getItem(MEMORY) ?? "{}");
  } catch {
    // Storage may be blocked or hold something foreign; without memory the next re-sync simply reports again.
    return {};
  }
}

/** @param {Memory} value */
function remember(value) {
  try {
    localStorage.setItem(MEMORY, JSON.stringify(value));
  } catch (error) {
    console.info("tidings: storage is blocked; this device reports itself on every visit", error);
  }
}
