/** What this browser is and can: feature detection for push, the iOS case, a readable device name. */

/** @returns {boolean} whether Web Push can work on this page (secure context, worker, push, notifications) */
export function supportsPush() {
  return window.isSecureContext && "serviceWorker" in navigator && "PushManager" in window && "Notification" in window;
}

/**
 * On iPhone and iPad (16.4 or later) push exists only for sites on the Home Screen.
 * iPadOS calls itself a Mac; touch points give it away.
 * @returns {boolean} whether installing this site is the missing step
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

// The order matters: Edge, Opera and Samsung also say "Chrome", and Chrome also says "Safari".
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

/** @param {string} [agent] @returns {BrowserName} for per-browser help, never for features */
export function browserName(agent = navigator.userAgent) {
  return BROWSERS.find(([, pattern]) => pattern.test(agent))?.[0] ?? "other";
}

/** @param {string} [agent] @returns {string} what a person would call this device, e.g. "Firefox on Linux" */
export function deviceLabel(agent = navigator.userAgent) {
  const browser = BROWSERS.find(([, pattern]) => pattern.test(agent))?.[2] ?? "Browser";
  const system = SYSTEMS.find(([pattern]) => pattern.test(agent))?.[1];
  return system ? `${browser} on ${system}` : browser;
}
