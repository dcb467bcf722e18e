/**
 * Push subscription of this browser for one signed-in user: subscribe, synchronise with the server, unsubscribe.
 *
 *     const push = new PushSubscriptionManager({ getToken: () => session.token });
 *     await push.prepare();                                  // on load; never prompts
 *     await push.resync();                                   // on each visit, once signed in; never prompts
 *     button.addEventListener("click", () => push.subscribe());
 *     await push.signOut();                                  // before the session ends
 *
 * A browser has one subscription per worker scope, and it belongs to one user: the last one who turned notifications on.
 * The server decides whether a subscription works; this browser remembers only who asked for it (`memory.js`).
 *
 * Messages of the service worker (`shown`, `clicked`, `closed`, `subscription-changed`) arrive on
 * `new BroadcastChannel("tidings")`.
 */

import { deviceLabel, needsIosInstall, supportsPush } from "./environment.js";
import { PushError, explainSubscribeFailure, explainWorkerFailure } from "./errors.js";
import { endpointHash, exclusively, userOf } from "./identity.js";
import { keyFromText, sameKey } from "./keys.js";
import { changeMemory, forgetOwner, readMemories, readMemory } from "./memory.js";
import { PushServer } from "./server.js";

export { PushError } from "./errors.js";
export { browserName, deviceLabel } from "./environment.js";

/** @typedef {"unsupported" | "ios-needs-install" | "default" | "denied" | "granted-unsubscribed" | "subscribed"}
 *   PushState */
/**
 * @typedef {object} ManagerOptions
 * @property {import("./server.js").GetToken} getToken returns a valid user token
 * @property {() => string | null | Promise<string | null>} [getUserId] id of the signed-in user, null = nobody; default:
 *   the token's claim `sub`
 * @property {string} [apiBase] default "/api"
 * @property {string} [workerUrl] default "/sw.js"
 * @property {string} [scope] of the worker, default "/"
 * @property {number} [timeoutMs] time limit of `subscribe()` once permission is granted, default 10 000
 * @property {string} [device] name in the user's list of devices, default e.g. "Firefox on Linux"
 */
/** @typedef {{ registration: ServiceWorkerRegistration, key: Uint8Array<ArrayBuffer>, keyId: string }} Prepared */
/** @typedef {import("./server.js").Device} Device */
/** @typedef {import("./memory.js").ScopeMemory} ScopeMemory */
/** @typedef {{ registration: ServiceWorkerRegistration, subscription: PushSubscription }} Local */

/** Time limit of an unanswered permission prompt. */
const PROMPT_TIMEOUT_MS = 120_000;
/** The server's refusals of an endpoint that only a new subscription resolves. */
const NEEDS_NEW_ENDPOINT = new Set(["subscription_ended", "endpoint_taken"]);

/** Manages this browser's push subscription for the current origin. */
export class PushSubscriptionManager {
  #options;
  #server;
  /** Absolute URLs. */
  #scope;
  #apiBase;
  /** @type {Prepared | null} */
  #prepared = null;

  /** @param {ManagerOptions} options */
  constructor(options) {
    this.#options = { workerUrl: "/sw.js", scope: "/", timeoutMs: 10_000, device: deviceLabel(), ...options };
    this.#server = new PushServer(options.apiBase ?? "/api", options.getToken);
    this.#scope = new URL(this.#options.scope, location.href).href;
    this.#apiBase = new URL(this.#server.base, location.href).href;
  }

  /**
   * @returns {Promise<PushState>} never prompts; `subscribed` means that the server sends the messages of the signed-in
   *   user to this browser
   * @throws {PushError} `network`, `server` if the server must be asked and does not answer
   */
  async state() {
    if (!supportsPush()) return needsIosInstall() ? "ios-needs-install" : "unsupported";
    if (Notification.permission !== "granted") return Notification.permission;
    const subscription = await this.#current();
    const user = subscription && (await this.#user());
    if (subscription === null || user === null) return "granted-unsubscribed";
    const memory = await readMemory(this.#scope);
    const isOff = memory.users.get(user)?.wanted === false;
    if (isOff || (memory.owner !== null && memory.owner !== user)) return "granted-unsubscribed";
    const device = await this.#findDevice(await this.#server.devices(), subscription, memory, user);
    return device?.state === "active" ? "subscribed" : "granted-unsubscribed";
  }

  /**
   * Register the worker and fetch the public key, so that `subscribe()` can prompt directly in the click handler.
   * @throws {PushError} `unsupported`, `private-window`, `network`, `server`
   */
  async prepare() {
    await this.#ready();
  }

  /**
   * Prompt and subscribe. Call it directly in a click handler: browsers allow the prompt only in a user gesture.
   * @returns {Promise<void>} resolved when browser and server have the subscription
   * @throws {PushError}
   */
  async subscribe() {
    // No await before the prompt when prepared: Safari and Firefox require it in the same task as the click.
    const ready = this.#prepared ?? (await this.#ready());
    const wasGranted = Notification.permission === "granted";
    if (!wasGranted) await this.#obtain(ready);
    await exclusively(async () => {
      const user = (await this.#user()) ?? "";
      // a new endpoint, so that nothing on its way to another user is shown to this one
      if (wasGranted) await this.#keepOnlyOwn(user);
      await this.#report(ready, await this.#obtain(ready), user);
    });
  }

  /**
   * Synchronise browser and server for the signed-in user; never prompts. For a user who turned notifications on in
   * this browser: replaces a subscription that was lost, ended or has a retired key, and reports the current one. A
   * subscription of another user is removed, so that nobody sees the messages of somebody else. Nothing is registered
   * for a user who never turned notifications on, or turned them off.
   * @returns {Promise<PushState>}
   * @throws {PushError}
   */
  async resync() {
    if (!supportsPush() || Notification.permission !== "granted") return this.state();
    const isActive = await exclusively(() => this.#synchronize());
    return isActive ? "subscribed" : this.state();
  }

  /**
   * Turn notifications off for the signed-in user in this browser, in all worker scopes. At the server first, so that
   * it does not send to a removed subscription. Subscriptions of other users are kept.
   * @throws {PushError} `network`, `server`; the device is then still subscribed
   */
  async unsubscribe() {
    await exclusively(() => this.#leave({ isSignOut: false }));
  }

  /**
   * Detach the signed-in user from this browser, in all worker scopes, before the session ends. Nothing of that user is
   * shown here any more, and what is shown is closed. The user's choice is kept: `resync()` subscribes again when the
   * same user signs in.
   * @throws {PushError} `network`, `server` if the server was not told; the browser is detached nevertheless
   */
  async signOut() {
    await exclusively(() => this.#leave({ isSignOut: true }));
  }

  /** @returns {Promise<Device[]>} all subscribed devices of this user */
  devices() {
    return this.#server.devices();
  }

  /** @returns {Promise<string | null>} the signed-in user's id, null = nobody is signed in */
  async #user() {
    const { getToken, getUserId } = this.#options;
    return getUserId ? getUserId() : userOf(await getToken());
  }

  /** @returns {Promise<boolean>} whether the server confirmed a subscription of the signed-in user */
  async #synchronize() {
    const user = await this.#user();
    if (user === null) return false;
    const isOwn = await this.#keepOnlyOwn(user);
    const wanted = (await readMemory(this.#scope)).users.get(user)?.wanted ?? isOwn;
    if (!wanted) return false;
    const ready = await this.#ready();
    return this.#report(ready, await this.#obtain(ready), user);
  }

  /**
   * Remove this scope's subscription if it belongs to another user.
   * @param {string} user
   * @returns {Promise<boolean>} whether a subscription of this user is left
   */
  async #keepOnlyOwn(user) {
    const registration = await this.#registered();
    const subscription = await this.#current();
    if (!registration || !subscription) return false;
    const memory = await readMemory(this.#scope);
    if (memory.owner === user) return true;
    if (memory.owner === null) {
      // Storage was cleared or written by an earlier version: the server knows whose subscription it is.
      if (await this.#findDevice(await this.#server.devices(), subscription, memory, user)) return true;
      const { key } = this.#prepared ?? (await this.#publicKey());
      // of another application
      if (!sameKey(subscription.options.applicationServerKey, key)) return false;
    }
    await this.#release({ registration, subscription });
    return false;
  }

  /**
   * Remove a subscription from the browser and close the notifications that it received.
   * @param {Local} local
   */
  async #release({ registration, subscription }) {
    await drop(subscription);
    await changeMemory(registration.scope, forgetOwner);
    for (const shown of await registration.getNotifications()) if (shown.data?.deliveryId) shown.close();
  }

  /**
   * Remove the signed-in user's subscriptions in all scopes from server and browser.
   * @param {{ isSignOut: boolean }} how signing out keeps the user's choice, and does not depend on the server
   */
  async #leave({ isSignOut }) {
    const user = (await this.#user()) ?? "";
    const memories = await readMemories();
    const all = await this.#allSubscriptions();
    let own = all.filter(({ registration }) => memories.get(registration.scope)?.owner === user);
    const detach = async () => {
      const scopes = new Set(own.map(({ registration }) => registration.scope));
      for (const local of own) await this.#release(local);
      for (const scope of new Set([...memories.keys(), this.#scope])) {
        await changeMemory(scope, (memory) => {
          if (memory.owner === user) forgetOwner(memory);
          if (!isSignOut) memory.users.set(user, { wanted: false });
          else if (scopes.has(scope) || memory.users.get(user)?.wanted) memory.users.set(user, { wanted: true });
        });
      }
    };
    try {
      const devices = await this.#server.devices();
      const listed = await Promise.all(
        all.map(({ registration, subscription }) =>
          this.#findDevice(devices, subscription, memories.get(registration.scope), user),
        ),
      );
      own = all.filter((local, index) => own.includes(local) || listed[index] !== undefined);
      const reported = [...memories.values()].map((memory) => memory.users.get(user)?.endpoint);
      const endpoints = new Set([...own.map(({ subscription }) => subscription.endpoint), ...reported]);
      for (const endpoint of endpoints) if (endpoint !== undefined) await this.#server.unsubscribe(endpoint);
    } catch (error) {
      if (isSignOut) await detach();
      throw error;
    }
    await detach();
  }

  /**
   * @param {Device[]} devices of the user
   * @param {PushSubscription} subscription
   * @param {ScopeMemory | undefined} memory of its scope
   * @param {string} user
   * @returns {Promise<Device | undefined>} the device that has this subscription
   */
  async #findDevice(devices, subscription, memory, user) {
    const hash = await endpointHash(subscription.endpoint);
    const own = memory?.users.get(user);
    const remembered = own?.endpoint === subscription.endpoint ? own.id : undefined;
    return devices.find(({ id, endpointHash: listed }) => (listed === undefined ? id === remembered : listed === hash));
  }

  /** @returns {Promise<Local[]>} the push subscriptions of this origin, in all scopes */
  async #allSubscriptions() {
    if (!supportsPush()) return [];
    try {
      const found = [];
      for (const registration of await navigator.serviceWorker.getRegistrations()) {
        const subscription = await registration.pushManager.getSubscription();
        if (subscription) found.push({ registration, subscription });
      }
      return found;
    } catch (error) {
      throw explainWorkerFailure(error);
    }
  }

  /** @returns {Promise<PushSubscription | null>} of this scope */
  async #current() {
    try {
      return (await (await this.#registered())?.pushManager.getSubscription()) ?? null;
    } catch (error) {
      throw explainWorkerFailure(error);
    }
  }

  /** @returns {Promise<ServiceWorkerRegistration | undefined>} of exactly this scope */
  async #registered() {
    if (this.#prepared) return this.#prepared.registration;
    // the browser returns the registration of an outer scope if this one has none
    const found = await navigator.serviceWorker.getRegistration(this.#scope);
    return found?.scope === this.#scope ? found : undefined;
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
      // updateViaCache "none": a new version of the worker must not be delayed by caches.
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
   * @returns {Promise<PushSubscription>} with the current key
   */
  async #obtain(ready) {
    try {
      const subscription = await this.#ask(ready);
      if (sameKey(subscription.options.applicationServerKey, ready.key)) return subscription;
    } catch (error) {
      const failure = explainSubscribeFailure(error, Notification.permission);
      if (failure.code !== "stale-key") throw failure;
    }
    // A subscription with another key exists (browsers throw or return it): remove it and subscribe once more.
    const stale = await ready.registration.pushManager.getSubscription();
    if (stale) await drop(stale);
    try {
      return await this.#ask(ready);
    } catch (error) {
      throw explainSubscribeFailure(error, Notification.permission);
    }
  }

  /** @param {Prepared} ready @returns {Promise<PushSubscription>} */
  #ask({ registration, key }) {
    const subscribing = registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    return withTimeout(subscribing, this.#options.timeoutMs);
  }

  /**
   * Register the subscription for a user. If the server knows that it ended, or has lost it, the browser subscribes
   * anew, because the browser does not notice.
   * @param {Prepared} ready
   * @param {PushSubscription} subscription
   * @param {string} user
   * @returns {Promise<boolean>} whether the server sends to it
   */
  async #report(ready, subscription, user) {
    const confirmed = (await readMemory(this.#scope)).users.get(user)?.endpoint;
    const first = await this.#register(ready, subscription, user, confirmed);
    const isLost = first?.created === true && confirmed === subscription.endpoint;
    if (first !== null && !isLost) return first.state === "active";
    await drop(subscription);
    const second = await this.#register(ready, await this.#obtain(ready), user, confirmed ?? subscription.endpoint);
    if (second === null) throw new PushError("server", "the server refuses every subscription of this browser");
    return second.state === "active";
  }

  /**
   * @param {Prepared} ready
   * @param {PushSubscription} subscription
   * @param {string} user
   * @param {string | undefined} replaces the endpoint that the server confirmed last
   * @returns {Promise<import("./server.js").Registration | null>} null if the server needs a new endpoint
   */
  async #register(ready, subscription, user, replaces) {
    const json = subscription.toJSON();
    const { endpoint } = subscription;
    // before the call: the user asked for it, also if the call fails
    await changeMemory(this.#scope, (memory) => {
      const { auth } = json.keys ?? {};
      const key = ready.key.buffer;
      Object.assign(memory, { owner: user, endpoint, auth: auth ?? null, key, apiBase: this.#apiBase });
      memory.users.set(user, { ...memory.users.get(user), wanted: true });
    });
    // the id of the subscription's key, which may no longer be the server's newest
    const { timeZone: timezone } = Intl.DateTimeFormat().resolvedOptions();
    const body = { ...json, device: this.#options.device, keyId: ready.keyId, timezone };
    const isKnown = replaces === undefined || replaces === endpoint;
    try {
      const registration = await this.#server.subscribe(isKnown ? body : { ...body, replaces });
      const { id } = registration;
      await changeMemory(this.#scope, ({ users }) => users.set(user, { wanted: true, endpoint, id }));
      return registration;
    } catch (error) {
      if (error instanceof PushError && NEEDS_NEW_ENDPOINT.has(error.problem ?? "")) return null;
      throw error;
    }
  }
}

/** @param {PushSubscription} subscription */
async function drop(subscription) {
  try {
    await subscription.unsubscribe();
  } catch (error) {
    throw explainSubscribeFailure(error, Notification.permission);
  }
}

/**
 * Limit the time of `subscribe()`, which may never complete (offline, blocked push service). The timeout restarts
 * while the permission prompt is open.
 * @template T
 * @param {Promise<T>} work
 * @param {number} timeoutMs
 * @returns {Promise<T>}
 */
function withTimeout(work, timeoutMs) {
  return new Promise((resolve, reject) => {
    const deadline = performance.now() + PROMPT_TIMEOUT_MS;
    /** @type {ReturnType<typeof setTimeout>} */
    let timer;
    const expire = () => {
      if (Notification.permission === "default" && performance.now() < deadline) {
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
