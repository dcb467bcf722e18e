/** Help texts for blocked, unsupported or failed push. */

/** @typedef {import("../push/environment.js").BrowserName} BrowserName */
/** @typedef {import("../push/errors.js").PushErrorCode} PushErrorCode */

/** @param {BrowserName} browser @returns {string[]} steps that unblock notifications for this site */
export function unblockSteps(browser) {
  switch (browser) {
    case "firefox":
      return [
        "Click the icons left of the address, next to the lock.",
        "Remove “Blocked” next to “Send notifications”.",
        "Reload this page and turn alerts on.",
      ];
    case "safari":
      return [
        "Open Safari’s Settings, then Websites, then Notifications.",
        "Set this site to “Allow”.",
        "Reload this page and turn alerts on.",
      ];
    case "samsung":
      return [
        "Open the browser’s Settings, then Notifications, then Manage website notifications.",
        "Allow this site.",
        "Reload this page and turn alerts on.",
      ];
    default:
      return [
        "Click the icon left of the address.",
        "Set Notifications to “Allow”, or choose “Reset permission”.",
        "Reload this page and turn alerts on.",
      ];
  }
}

/** @type {Record<PushErrorCode, string>} */
const SENTENCES = {
  unsupported: "This browser cannot receive push notifications.",
  denied: "Notifications are blocked for this site.",
  dismissed: "The browser’s question was closed without an answer. Alerts are still off.",
  timeout: "The browser did not finish in time. Its push service may be blocked or offline.",
  "push-service-unavailable":
    "The browser cannot reach its push service. A firewall or VPN may be in the way, " +
    "or this is a private window.",
  "stale-key": "This browser has an old subscription that could not be replaced.",
  "private-window": "Private windows cannot receive push. Open this page in a normal window.",
  network: "The demo server cannot be reached.",
  server: "The demo server refused this device.",
};

/** @param {import("../push/errors.js").PushError} error @returns {string} one sentence for the visitor */
export function sentenceOf(error) {
  return error.code === "server" && error.detail ? error.detail : SENTENCES[error.code];
}
