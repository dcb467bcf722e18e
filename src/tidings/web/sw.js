/**
 * The push service worker: shows notifications, opens their targets on a click, and reports both to open pages. It also
 * reports them to the server, if the category of the message asks for it.
 *
 * It is a classic script so that a host's own worker can reuse it:
 *
 *     self.tidingsOptions = { takeOver: false, fallbackUrl: "/account/" };   // optional, before the import
 *     importScripts("/web/sw.js");
 *
 * There is no fetch handler, so a defect in the worker cannot break the site's network requests. For the same reason
 * the stand-alone worker may take over at once (`skipWaiting`, `clients.claim`): there are no cached files of two
 * versions, and a click can navigate claimed pages. A host's worker that imports this one keeps its own policy with
 * `takeOver: false`.
 *
 * Payload: declarative Web Push, `{"web_push": 8030, "notification": {...}, "app_badge": n}` (W3C Push API).
 */

/// <reference lib="webworker" />

(() => {
  "use strict";

  /** @typedef {{ action: string, title: string, navigate?: string, icon?: string }} PayloadAction */
  /** @typedef {NotificationOptions & { actions?: { action: string, title: string, icon?: string }[], image?: string,
   *    renotify?: boolean, vibrate?: number[], timestamp?: number }} ShownOptions */
  /** @typedef {{ title: string, options: ShownOptions, badge: number | null, readable: boolean }} Shown */
  /** @typedef {{ takeOver?: boolean, handleEvents?: boolean, reportReceipts?: boolean,
   *    fallbackUrl?: string, fallbackTitle?: string, fallbackBody?: string,
   *    expiredTitle?: string, expiredBody?: string,
   *    icon?: string, badge?: string }} WorkerOptions `handleEvents: false` leaves all events to the host;
   *    `reportReceipts: false` reports nothing to the server */

  const worker = /** @type {ServiceWorkerGlobalScope & { tidingsOptions?: WorkerOptions, tidingsPush?: object }} */ (
    /** @type {unknown} */ (self)
  );
  const settings = {
    takeOver: true,
    handleEvents: true,
    reportReceipts: true,
    fallbackUrl: "/",
    fallbackTitle: "Something new for you",
    fallbackBody: "Open to see what changed.",
    expiredTitle: "An earlier message has expired",
    expiredBody: "Open to see what is current.",
    icon: /** @type {string | undefined} */ (undefined),
    badge: /** @type {string | undefined} */ (undefined),
    ...worker.tidingsOptions,
  };
  /** Pages listen on this channel; see docs/reference/browser.md for the messages. */
  const CHANNEL = "tidings";
  /** Platforms truncate longer text, and a hostile payload must not occupy megabytes of memory. */
  const MAX_TITLE = 300;
  const MAX_BODY = 2000;
  /** UTF-16 units of the longest character that is kept whole at the end of a truncated text. */
  const MAX_CHARACTER = 64;

  // ---------------------------------------------------------------- parsing a payload

  /** @param {unknown} value @returns {value is Record<string, unknown>} */
  const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  /**
   * Truncate a text to `limit` UTF-16 units, between user-perceived characters: an emoji of several code points stays
   * whole. Without `Intl.Segmenter`, and inside a character longer than the limit, it is cut between code points.
   * @param {string} text @param {number} limit @returns {string}
   */
  const truncate = (text, limit) => {
    if (text.length <= limit) return text;
    /** @param {Iterable<string>} parts */
    const keep = (parts) => {
      let kept = "";
      for (const part of parts) {
        if (kept.length + part.length > limit) break;
        kept += part;
      }
      return kept;
    };
    // long enough to see where the last character ends; the rest of a hostile text is not examined
    const head = text.slice(0, limit + MAX_CHARACTER);
    if (!("Segmenter" in Intl)) return keep(head);
    const segments = new Intl.Segmenter(undefined, { granularity: "grapheme" }).segment(head);
    return keep(Array.from(segments, ({ segment }) => segment)) || keep(head);
  };

  /** @param {unknown} value @param {number} limit @returns {string | undefined} a text of at most `limit` UTF-16 units */
  const textOf = (value, limit) => (typeof value === "string" && value !== "" ? truncate(value, limit) : undefined);

  /** @param {unknown} value @param {number} limit @returns {string | undefined} a name or URL, cut to `limit` units */
  const wordOf = (value, limit) => (typeof value === "string" && value !== "" ? value.slice(0, limit) : undefined);

  /** @param {unknown} value @returns {URL | null} resolved against this origin (`URL.canParse` is missing on iOS 16) */
  const parsed = (value) => {
    if (typeof value !== "string" || value === "") return null;
    try {
      return new URL(value, `${worker.location.origin}/`);
    } catch {
      return null;
    }
  };

  /** @param {unknown} value @returns {string | undefined} an https or same-origin image URL */
  const pictureOf = (value) => {
    const url = parsed(value);
    if (url === null) return undefined;
    return url.protocol === "https:" || url.origin === worker.location.origin ? url.href : undefined;
  };

  /** @param {unknown} value @returns {number | null} a badge count; declarative payloads may contain it as a string */
  const countOf = (value) => {
    const count = typeof value === "string" && /^\d{1,9}$/.test(value) ? Number(value) : value;
    return typeof count === "number" && Number.isSafeInteger(count) && count >= 0 ? count : null;
  };

  /** @returns {Shown} the notification for an unreadable payload: every push must be visible (userVisibleOnly) */
  const generic = () => ({
    title: settings.fallbackTitle,
    options: {
      body: settings.fallbackBody,
      tag: "tidings-generic",
      icon: settings.icon,
      badge: settings.badge,
      data: { navigate: settings.fallbackUrl, actions: {} },
    },
    badge: null,
    readable: false,
  });

  /**
   * @param {Record<string, unknown>} own the data of the notification
   * @returns {Shown} the notification in place of an expired one: its text is no longer true, but every push must be
   *   visible. It makes no sound, and several of them are shown once.
   */
  const expired = (own) => ({
    title: settings.expiredTitle,
    options: {
      body: settings.expiredBody,
      tag: "tidings-expired",
      silent: true,
      icon: settings.icon,
      badge: settings.badge,
      // the message itself is not shown, so there is nothing to report of it
      data: { ...own, receipts: undefined, navigate: settings.fallbackUrl, actions: {} },
    },
    badge: null,
    readable: true,
  });

  /** @param {unknown} value @returns {PayloadAction[]} the valid actions, in order */
  const actionsOf = (value) =>
    (Array.isArray(value) ? value : [])
      .filter(
        (item) => isRecord(item) && wordOf(item.action, 100) !== undefined && wordOf(item.title, 100) !== undefined,
      )
      .map((item) => ({
        action: String(item.action).slice(0, 100),
        title: truncate(String(item.title), 100),
        navigate: wordOf(item.navigate, 4000),
        icon: pictureOf(item.icon),
      }));

  /**
   * Map a declarative payload to `showNotification` arguments; invalid fields are omitted.
   * @param {unknown} payload parsed JSON
   * @returns {Shown}
   */
  const describe = (payload) => {
    const notification = isRecord(payload) ? payload.notification : undefined;
    const title = isRecord(notification) ? textOf(notification.title, MAX_TITLE) : undefined;
    if (!isRecord(payload) || !isRecord(notification) || title === undefined) return generic();
    const actions = actionsOf(notification.actions);
    /** @type {Record<string, string>} */
    const targets = {};
    for (const { action, navigate } of actions) if (navigate !== undefined) targets[action] = navigate;
    const own = isRecord(notification.data) ? notification.data : {};
    if (typeof own.expiresAt === "number" && own.expiresAt <= Date.now()) return expired(own);
    /** @type {ShownOptions} */
    const options = {
      body: textOf(notification.body, MAX_BODY),
      icon: pictureOf(notification.icon) ?? settings.icon,
      badge: pictureOf(notification.badge) ?? settings.badge,
      data: { ...own, navigate: wordOf(notification.navigate, 4000) ?? settings.fallbackUrl, actions: targets },
    };
    const tag = wordOf(notification.tag, 200);
    if (tag !== undefined) options.tag = tag;
    const lang = wordOf(notification.lang, 35);
    if (lang !== undefined) options.lang = lang;
    if (notification.dir === "ltr" || notification.dir === "rtl") options.dir = notification.dir;
    if (notification.silent === true) options.silent = true;
    if (notification.requireInteraction === true) options.requireInteraction = true;
    // By specification, `renotify` without a tag and vibration of a silent notification are TypeErrors.
    if (notification.renotify === true && tag !== undefined) options.renotify = true;
    const image = pictureOf(notification.image);
    if (image !== undefined) options.image = image;
    if (actions.length > 0) {
      options.actions = actions.map(({ action, title, icon }) => (icon ? { action, title, icon } : { action, title }));
    }
    return { title, options, badge: countOf(payload.app_badge ?? notification.app_badge), readable: true };
  };

  /** @param {PushMessageData | null} data @returns {Shown} */
  const readPush = (data) => {
    try {
      return data ? describe(data.json()) : generic();
    } catch (error) {
      // Not JSON: the user sees the fallback notification, and the console shows the reason.
      console.warn("tidings: unreadable push payload", error);
      return generic();
    }
  };

  // ---------------------------------------------------------------- click targets

  /**
   * Resolve a click target. Only http(s) URLs of this origin are allowed: no `javascript:`, no `//evil`, no `blob:`
   * (whose origin is this one), no user names. For everything else the fallback page is opened.
   * @param {unknown} candidate
   * @returns {string} an absolute URL
   */
  const targetOf = (candidate) => {
    const { origin } = worker.location;
    const url = parsed(candidate);
    const safe =
      url !== null &&
      (url.protocol === "https:" || url.protocol === "http:") &&
      url.origin === origin &&
      url.username === "" &&
      url.password === "";
    return safe ? url.href : new URL(settings.fallbackUrl, origin).href;
  };

  /** @param {unknown} data the notification's data @param {string} action "" for the notification itself */
  const clickTarget = (data, action) => {
    if (!isRecord(data)) return targetOf(undefined);
    const byAction = isRecord(data.actions) && Object.hasOwn(data.actions, action) ? data.actions[action] : undefined;
    return targetOf(action !== "" && byAction !== undefined ? byAction : data.navigate);
  };

  // ---------------------------------------------------------------- effects

  /** @param {Record<string, unknown>} message */
  const tellPages = (message) => {
    const channel = new BroadcastChannel(CHANNEL);
    channel.postMessage(message);
    channel.close();
  };

  /** @param {number | null} count for the app icon's badge; null leaves the badge unchanged */
  const setBadge = async (count) => {
    const { navigator } = worker;
    if (count === null || !("setAppBadge" in navigator)) return;
    try {
      await (count > 0 ? navigator.setAppBadge(count) : navigator.clearAppBadge());
    } catch (error) {
      // Rejected if the site is not installed. The notification itself is shown.
      console.info("tidings: no app badge here", error);
    }
  };

  /** @param {Shown} shown */
  const show = async (shown) => {
    try {
      await worker.registration.showNotification(shown.title, shown.options);
    } catch (error) {
      // If the platform rejects an option, the notification is shown with its text only.
      if (!(error instanceof TypeError)) throw error;
      const { body, tag, data } = shown.options;
      await worker.registration.showNotification(shown.title, { body, tag, data });
    }
    tellPages({
      type: "shown",
      at: Date.now(),
      title: shown.title,
      body: shown.options.body ?? "",
      tag: shown.options.tag ?? "",
      readable: shown.readable,
      target: clickTarget(shown.options.data, ""),
      data: shown.options.data,
    });
    await setBadge(shown.badge);
  };

  /**
   * Open `url`: a window that shows it is focused; a window on the same path with another query is navigated;
   * otherwise a new window opens. Windows on other pages are not touched, because they may contain unsaved input.
   * @param {string} url
   */
  const goTo = async (url) => {
    const windows = await worker.clients.matchAll({ type: "window", includeUncontrolled: true });
    const exact = windows.find((client) => client.url === url);
    if (exact) return exact.focus();
    const samePage = windows.find((client) => new URL(client.url).pathname === new URL(url).pathname);
    if (samePage) {
      try {
        return await (await samePage.focus()).navigate(url);
      } catch (error) {
        // navigate() throws a TypeError for an uncontrolled window; a new window opens instead.
        if (!(error instanceof TypeError)) throw error;
      }
    }
    return worker.clients.openWindow(url);
  };

  /** @param {PushEvent} event */
  const onPush = (event) => {
    const shown = readPush(event.data);
    event.waitUntil(show(shown).then(() => reportReceipt(shown.options.data, "shown")));
  };

  /** @param {NotificationEvent} event */
  const onClick = (event) => {
    event.notification.close();
    const { data } = event.notification;
    const url = clickTarget(data, event.action);
    tellPages({ type: "clicked", at: Date.now(), action: event.action, target: url, data });
    event.waitUntil(goTo(url));
    event.waitUntil(reportReceipt(data, "clicked", event.action));
  };

  /** @param {NotificationEvent} event */
  const onClose = (event) => {
    const { data } = event.notification;
    tellPages({ type: "closed", at: Date.now(), data });
    event.waitUntil(reportReceipt(data, "closed"));
  };

  // ---------------------------------------------------------------- receipts

  /** @typedef {"shown" | "clicked" | "closed"} ReceiptEvent */
  /** @typedef {{ at: number, body: Record<string, unknown> }} Receipt */
  /** Receipts that wait for the network. Older ones are dropped: they are best effort. */
  const MAX_WAITING_RECEIPTS = 20;
  /** Milliseconds after which the server takes no receipt; an older one is dropped. */
  const MAX_RECEIPT_AGE = 7 * 24 * 3600 * 1000;
  /** Milliseconds for one call: a push event must end in time. */
  const RECEIPT_TIMEOUT = 10_000;

  /**
   * @param {unknown} data of the notification @param {ReceiptEvent} event @param {string} action
   * @returns {Receipt | null} null if the message does not report this event
   */
  const receiptOf = (data, event, action) => {
    const receipts = isRecord(data) ? data.receipts : undefined;
    if (!settings.reportReceipts || !isRecord(data) || !isRecord(receipts)) return null;
    if (!Array.isArray(receipts.events) || !receipts.events.includes(event)) return null;
    const { notificationId, deliveryId, expiresAt } = data;
    const body = { notificationId, deliveryId, expiresAt, token: receipts.token, event, ...(action && { action }) };
    return { at: Date.now(), body };
  };

  /** @param {Receipt} receipt @returns {Promise<boolean>} false if it should be repeated later */
  const sendReceipt = async ({ at, body }) => {
    const age = Date.now() - at;
    if (age > MAX_RECEIPT_AGE) return true;
    const memory = await readMemory().catch(() => undefined);
    const apiBase = memory?.apiBase ?? `${worker.location.origin}/api`;
    try {
      const { ok, status } = await fetch(`${apiBase}/push/receipts`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...body, secondsAgo: Math.max(0, Math.floor(age / 1000)) }),
        credentials: "omit",
        keepalive: true,
        signal: AbortSignal.timeout(RECEIPT_TIMEOUT),
      });
      return ok || (status !== 429 && status < 500);
    } catch (error) {
      console.info("tidings: a receipt is not reported yet", error);
      return false;
    }
  };

  /**
   * Report an event, and then what could not be reported before. Never rejects: receipts are best effort.
   * @param {unknown} data of the notification @param {ReceiptEvent} event @param {string} [action] the button, if any
   */
  const reportReceipt = async (data, event, action = "") => {
    const fresh = receiptOf(data, event, action);
    if (fresh === null) return;
    const isSent = await sendReceipt(fresh);
    try {
      const waiting = await waitingReceipts((known) => (isSent ? known : [...known, fresh]));
      if (!isSent) return;
      for (const receipt of waiting) {
        if (!(await sendReceipt(receipt))) return;
        const isOther = (/** @type {Receipt} */ { at, body }) => at !== receipt.at || body.token !== receipt.body.token;
        await waitingReceipts((known) => known.filter(isOther));
      }
    } catch (error) {
      console.info("tidings: storage is blocked; receipts that fail are lost", error);
    }
  };

  /** @param {(known: Receipt[]) => Receipt[]} change @returns {Promise<Receipt[]>} the receipts that wait now */
  const waitingReceipts = async (change) => {
    const { scope } = worker.registration;
    const record = await changeRecord("tidings-receipts", (known) => ({
      scope,
      receipts: change(known?.receipts ?? []).slice(-MAX_WAITING_RECEIPTS),
    }));
    return record.receipts;
  };

  // ---------------------------------------------------------------- a rotated subscription

  /** @typedef {import("./push/memory.js").ScopeMemory} ScopeMemory */
  /** @typedef {{ owner: string | null, endpoint: string, auth: string, apiBase: string }} Old */
  /** Waits before each call of the server, in milliseconds. */
  const RENEWAL_WAITS = [0, 1000, 3000, 10_000, 20_000];
  const RENEWAL_KEY = "tidings push renewal v1";

  /** @param {string} text */
  const utf8 = (text) => new TextEncoder().encode(text);

  /** @param {string} text base64url @returns {Uint8Array<ArrayBuffer>} */
  const bytesOf = (text) =>
    Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));

  /** @param {ArrayBuffer} bytes @returns {string} base64url */
  const base64url = (bytes) =>
    btoa(String.fromCharCode(...new Uint8Array(bytes)))
      .replaceAll("+", "-")
      .replaceAll("/", "_")
      .replace(/=+$/, "");

  /**
   * Read this scope's record in a database of IndexedDB, and change it in the same transaction.
   * @param {string} name of the database
   * @param {(record: any) => any} change returns the record to store, undefined to store nothing
   * @returns {Promise<any>} the record as it is stored then
   */
  const changeRecord = (name, change) =>
    new Promise((resolve, reject) => {
      const opening = indexedDB.open(name, 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("scopes", { keyPath: "scope" });
      opening.onerror = () => reject(opening.error);
      opening.onsuccess = () => {
        const database = opening.result;
        const transaction = database.transaction("scopes", "readwrite");
        const store = transaction.objectStore("scopes");
        const reading = store.get(worker.registration.scope);
        /** @type {any} */
        let stored;
        reading.onsuccess = () => {
          const changed = change(reading.result);
          stored = changed ?? reading.result;
          if (changed !== undefined) store.put(changed);
        };
        transaction.oncomplete = () => {
          database.close();
          resolve(stored);
        };
        transaction.onabort = () => {
          database.close();
          reject(transaction.error);
        };
      };
    });

  /**
   * The record of this worker's scope, which the page wrote (`push/memory.js`).
   * @param {(memory: ScopeMemory) => void} [change] stores the record as changed by this function
   * @returns {Promise<ScopeMemory | undefined>}
   */
  const readMemory = (change) =>
    changeRecord("tidings-push", (memory) => {
      if (!change || memory === undefined) return undefined;
      change(memory);
      return memory;
    });

  /** @param {PushSubscriptionChangeEvent} event @returns {Promise<Old | null>} null if nobody is subscribed here */
  const oldSubscription = async ({ oldSubscription: old }) => {
    const memory = await readMemory();
    if (memory !== undefined) {
      const { owner, endpoint, auth, apiBase } = memory;
      return owner !== null && endpoint && auth && apiBase ? { owner, endpoint, auth, apiBase } : null;
    }
    // subscribed by an earlier version, which wrote no record
    const auth = old?.toJSON().keys?.auth;
    return old && auth ? { owner: null, endpoint: old.endpoint, auth, apiBase: `${worker.location.origin}/api` } : null;
  };

  /**
   * Prove that this browser knows the secret of the old subscription (`channels/webpush/renewal_proof.py`).
   * @param {Old} old @param {PushSubscriptionJSON} fresh @returns {Promise<string>} base64url
   */
  const proofOf = async (old, fresh) => {
    const { subtle } = worker.crypto;
    const secret = await subtle.importKey("raw", bytesOf(old.auth), "HKDF", false, ["deriveKey"]);
    const derivation = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: utf8(RENEWAL_KEY) };
    const algorithm = { name: "HMAC", hash: "SHA-256", length: 256 };
    const key = await subtle.deriveKey(derivation, secret, algorithm, false, ["sign"]);
    const message = [old.endpoint, fresh.endpoint, fresh.keys?.p256dh, fresh.keys?.auth].join("\n");
    return base64url(await subtle.sign("HMAC", key, utf8(message)));
  };

  /**
   * Report the new subscription once, unless a page did so in the meantime.
   * @param {Old} old @param {PushSubscription} fresh
   * @returns {Promise<boolean>} false if it should be repeated
   */
  const report = async (old, fresh) => {
    const memory = await readMemory();
    if (memory !== undefined && memory.endpoint !== old.endpoint) return true;
    const json = fresh.toJSON();
    const body = JSON.stringify({ ...json, replaces: old.endpoint, proof: await proofOf(old, json) });
    let answer;
    try {
      const headers = { "Content-Type": "application/json" };
      answer = await fetch(`${old.apiBase}/push/renew`, { method: "POST", headers, body, credentials: "omit" });
    } catch (error) {
      console.info("tidings: the new subscription is not reported yet", error);
      return false;
    }
    if (answer.status === 429 || answer.status >= 500) return false;
    // After a refusal (403: the old subscription is no longer registered) the next visit registers the new one.
    if (!answer.ok) return true;
    const { id } = await answer.json();
    await readMemory((changed) => {
      changed.endpoint = fresh.endpoint;
      changed.auth = json.keys?.auth ?? null;
      if (changed.owner !== null) changed.users.set(changed.owner, { wanted: true, endpoint: fresh.endpoint, id });
    });
    return true;
  };

  /**
   * The push service or the browser replaced or removed the subscription, perhaps while no page is open. The worker has
   * no user token, because a stored token would outlive the session: it subscribes again with the same key and proves to
   * the server that this is the same browser. Pages are told, and synchronise if that failed.
   * @param {PushSubscriptionChangeEvent} event
   */
  const renew = async (event) => {
    try {
      const old = await oldSubscription(event);
      if (old === null) return;
      const key = event.oldSubscription?.options.applicationServerKey ?? (await readMemory())?.key;
      if (!event.newSubscription && !key) return;
      const fresh =
        event.newSubscription ??
        (await worker.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key }));
      if (!fresh || fresh.endpoint === old.endpoint) return;
      for (const wait of RENEWAL_WAITS) {
        await new Promise((resolve) => setTimeout(resolve, wait));
        const attempt = () => report(old, fresh);
        const { locks } = worker.navigator;
        // the lock of `exclusively` in `push/identity.js`
        if (await (locks ? locks.request("tidings-push", attempt) : attempt())) return;
      }
    } finally {
      tellPages({ type: "subscription-changed", at: Date.now() });
    }
  };

  /** @param {PushSubscriptionChangeEvent} event */
  const onChange = (event) => event.waitUntil(renew(event));

  if (settings.handleEvents) {
    worker.addEventListener("push", onPush);
    worker.addEventListener("notificationclick", onClick);
    worker.addEventListener("notificationclose", onClose);
    worker.addEventListener("pushsubscriptionchange", (event) =>
      onChange(/** @type {PushSubscriptionChangeEvent} */ (event)),
    );
  }
  if (settings.takeOver) {
    worker.addEventListener("install", (event) => event.waitUntil(worker.skipWaiting()));
    worker.addEventListener("activate", (event) => event.waitUntil(worker.clients.claim()));
  }
  /** For a host's worker that handles events itself and uses these functions. */
  worker.tidingsPush = Object.freeze({ describe, targetOf, clickTarget, goTo, show, renew, reportReceipt });
})();
