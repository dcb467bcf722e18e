/**
 * The push service worker: shows what arrives, opens what is clicked, reports both to open pages.
 *
 * It is a classic script so that a host's own worker can reuse it:
 *
 *     self.tidingsOptions = { takeOver: false, fallbackUrl: "/account/" };   // optional, before the import
 *     importScripts("/web/sw.js");
 *
 * There is no fetch handler: the worker never stands between the page and the network, so a broken one cannot
 * break the site. For the same reason the stand-alone worker may take over at once (`skipWaiting`, `clients.claim`):
 * no page can be caught between two versions of cached files, and claimed pages can be navigated by a click.
 * Imported into a host's worker it leaves that policy to the host: set `takeOver: false`.
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
  /** @typedef {{ takeOver?: boolean, handleEvents?: boolean,
   *    fallbackUrl?: string, fallbackTitle?: string, fallbackBody?: string,
   *    icon?: string, badge?: string }} WorkerOptions `handleEvents: false` leaves all events to the host */

  const worker = /** @type {ServiceWorkerGlobalScope & { tidingsOptions?: WorkerOptions, tidingsPush?: object }} */ (
    /** @type {unknown} */ (self)
  );
  const settings = {
    takeOver: true,
    handleEvents: true,
    fallbackUrl: "/",
    fallbackTitle: "Something new for you",
    fallbackBody: "Open to see what changed.",
    icon: /** @type {string | undefined} */ (undefined),
    badge: /** @type {string | undefined} */ (undefined),
    ...worker.tidingsOptions,
  };
  /** Pages listen on this channel; see docs/reference/browser.md for the messages. */
  const CHANNEL = "tidings";
  /** Longer text is cut off by every platform; a hostile payload must not be able to hold megabytes. */
  const MAX_TITLE = 300;
  const MAX_BODY = 2000;

  // ---------------------------------------------------------------- reading a payload

  /** @param {unknown} value @returns {value is Record<string, unknown>} */
  const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

  /** @param {unknown} value @param {number} limit @returns {string | undefined} the text, cut at `limit` characters */
  const textOf = (value, limit) => (typeof value === "string" && value !== "" ? value.slice(0, limit) : undefined);

  /** @param {unknown} value @returns {URL | null} as seen from this origin (`URL.canParse` is missing on iOS 16) */
  const parsed = (value) => {
    if (typeof value !== "string" || value === "") return null;
    try {
      return new URL(value, `${worker.location.origin}/`);
    } catch {
      return null;
    }
  };

  /** @param {unknown} value @returns {string | undefined} an https or same-origin picture address */
  const pictureOf = (value) => {
    const url = parsed(value);
    if (url === null) return undefined;
    return url.protocol === "https:" || url.origin === worker.location.origin ? url.href : undefined;
  };

  /** @param {unknown} value @returns {number | null} a badge count; declarative payloads may carry it as digits */
  const countOf = (value) => {
    const count = typeof value === "string" && /^\d{1,9}$/.test(value) ? Number(value) : value;
    return typeof count === "number" && Number.isSafeInteger(count) && count >= 0 ? count : null;
  };

  /** @returns {Shown} what is shown when nothing can be read: a push must never be silent (userVisibleOnly) */
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

  /** @param {unknown} value @returns {PayloadAction[]} the well-formed actions, in order */
  const actionsOf = (value) =>
    (Array.isArray(value) ? value : [])
      .filter(
        (item) => isRecord(item) && textOf(item.action, 100) !== undefined && textOf(item.title, 100) !== undefined,
      )
      .map((item) => ({
        action: String(item.action).slice(0, 100),
        title: String(item.title).slice(0, 100),
        navigate: textOf(item.navigate, 4000),
        icon: pictureOf(item.icon),
      }));

  /**
   * Map a declarative payload to `showNotification` arguments, field by field; anything odd is left out.
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
    /** @type {ShownOptions} */
    const options = {
      body: textOf(notification.body, MAX_BODY),
      icon: pictureOf(notification.icon) ?? settings.icon,
      badge: pictureOf(notification.badge) ?? settings.badge,
      data: { ...own, navigate: textOf(notification.navigate, 4000) ?? settings.fallbackUrl, actions: targets },
    };
    const tag = textOf(notification.tag, 200);
    if (tag !== undefined) options.tag = tag;
    const lang = textOf(notification.lang, 35);
    if (lang !== undefined) options.lang = lang;
    if (notification.dir === "ltr" || notification.dir === "rtl") options.dir = notification.dir;
    if (notification.silent === true) options.silent = true;
    if (notification.requireInteraction === true) options.requireInteraction = true;
    // A tag-less renotify, and vibration of a silent notification, are TypeErrors by specification.
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
      // Not JSON. The person still sees that something happened; the developer sees why it is bland.
      console.warn("tidings: unreadable push payload", error);
      return generic();
    }
  };

  // ---------------------------------------------------------------- deciding where a click goes

  /**
   * Resolve a click target. Only plain http(s) addresses of this very origin pass: no `javascript:`, no `//evil`,
   * no `blob:` (whose origin looks like ours), no user names. Everything else goes to the fallback page.
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

  // ---------------------------------------------------------------- doing it

  /** @param {Record<string, unknown>} message */
  const tellPages = (message) => {
    const channel = new BroadcastChannel(CHANNEL);
    channel.postMessage(message);
    channel.close();
  };

  /** @param {number | null} count unread things on the app's icon; null leaves it as it is */
  const setBadge = async (count) => {
    const { navigator } = worker;
    if (count === null || !("setAppBadge" in navigator)) return;
    try {
      await (count > 0 ? navigator.setAppBadge(count) : navigator.clearAppBadge());
    } catch (error) {
      // Refused where the site is not installed. The notification itself is up, which is what counts.
      console.info("tidings: no app badge here", error);
    }
  };

  /** @param {Shown} shown */
  const show = async (shown) => {
    try {
      await worker.registration.showNotification(shown.title, shown.options);
    } catch (error) {
      // An option this platform rejects must not swallow the news: the text alone works everywhere.
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
   * Bring the person to `url`: a window that already shows it is focused; one on the same page with another query
   * is navigated; else a new window opens. Windows on other pages are left alone: they may hold a half-done form.
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
        // An uncontrolled window refuses navigate() with a TypeError; a new window is the way out.
        if (!(error instanceof TypeError)) throw error;
      }
    }
    return worker.clients.openWindow(url);
  };

  /** @param {PushEvent} event */
  const onPush = (event) => event.waitUntil(show(readPush(event.data)));

  /** @param {NotificationEvent} event */
  const onClick = (event) => {
    event.notification.close();
    const url = clickTarget(event.notification.data, event.action);
    tellPages({ type: "clicked", at: Date.now(), action: event.action, target: url, data: event.notification.data });
    event.waitUntil(goTo(url));
  };

  /** @param {NotificationEvent} event */
  const onClose = (event) => tellPages({ type: "closed", at: Date.now(), data: event.notification.data });

  /**
   * The push service replaced or dropped the subscription. The worker holds no user token on purpose (a token at
   * rest in a worker outlives the session), so it re-subscribes with the same key and asks an open page to report
   * it. With no page open, the subscription manager reports it on the next visit: it compares on every visit.
   * @param {PushSubscriptionChangeEvent} event
   */
  const onChange = (event) => {
    const renew = async () => {
      const key = event.oldSubscription?.options.applicationServerKey;
      try {
        if (!event.newSubscription && key) {
          await worker.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
        }
      } finally {
        tellPages({ type: "subscription-changed", at: Date.now() });
      }
    };
    event.waitUntil(renew());
  };

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
  /** For a host's worker that handles `push` or clicks itself and wants only the reading and the safe targets. */
  worker.tidingsPush = Object.freeze({ describe, targetOf, clickTarget, goTo, show });
})();
