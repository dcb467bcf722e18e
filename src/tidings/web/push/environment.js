/** Browser detection: support for push, the iOS case, a readable device name. */

/** @returns {boolean} whether Web Push can work on this page (secure context, worker, push, notifications) */
export function supportsPush() {
  return window.isSecureContext && "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
}

/**
 * On iPhone and iPad (16.4 or later) push is available only to sites on the Home Screen.
 * iPadOS identifies itself as a Mac, so touch points are checked.
 * @returns {boolean} whether the site must be installed before push works
 */
export function needsIosInstall() {
  const ios =
    /iPhone|iPad|iPod/.test(navigator.userAgent) ||
    (/Macintosh/.test(navigator.userAgent) && navigator.maxTouchPoints > 1);
  const installed =
    window.matchMedia("(display-mode: standalone)").matches ||
    /** @type {Navigator & { standalone?: boolean }} */ (navigator).standalone === true;
  return ios && !installed;
}

/** @typedef {"chrome" | "edge" | "opera" | "samsung" | "firefox" | "safari" | "other"} BrowserName */

// The order matters: the user agents of Edge, Opera and Samsung contain "Chrome", and Chrome's contains "Safari".
/** @type {readonly (readonly [BrowserName, RegExp, string])[]} */
const BROWSERS = [
  ["edge", /Edg(e|A|iOS)?\//, "Edge"],
  ["opera", /OPR\//, "Opera"],
  ["samsung", /SamsungBrowser\//, "Samsung Internet"],
  ["firefox", /Firefox\/|FxiOS\//, "Firefox"],
  ["chrome", /Chrom(e|ium)\/|CriOS\//, "Chrome"],
  ["safari", /Safari\//, "Safari"],
];

/** @type {readonly (readonly [RegExp, string])[]} */
const SYSTEMS = [
  [/iPhone|iPod/, "iPhone"],
  [/iPad/, "iPad"],
  [/Android/, "Android"],
  [/Windows/, "Windows"],
  [/CrOS/, "ChromeOS"],
  [/Mac OS X/, "Mac"],
  [/Linux/, "Linux"],
];

/** @param {string} [agent] @returns {BrowserName} for help texts only, not for feature detection */
export function browserName(agent = navigator.userAgent) {
  return BROWSERS.find(([, pattern]) => pattern.test(agent))?.[0] ?? "other";
}

/** @param {string} [agent] @returns {string} a readable name of this device, e.g. "Firefox on Linux" */
export function deviceLabel(agent = navigator.userAgent) {
  const browser = BROWSERS.find(([, pattern]) => pattern.test(agent))?.[2] ?? "Browser";
  const system = SYSTEMS.find(([pattern]) => pattern.test(agent))?.[1];
  return system ? `${browser} on ${system}` : browser;
}
