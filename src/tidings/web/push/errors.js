/** Why push could not be set up, as one typed error that a page can turn into its own words. */

/**
 * - `unsupported`: this browser has no Web Push (or the page is not on https)
 * - `denied`: the person (or a policy) blocked notifications; only browser settings can undo it
 * - `dismissed`: the prompt was closed without an answer; asking again later is fine
 * - `timeout`: the browser did not settle `subscribe()` in time; retry
 * - `push-service-unavailable`: the browser could not reach its push service, or has none, as in some private
 *   windows
 * - `stale-key`: a subscription under another VAPID key could not be replaced
 * - `private-window`: private browsing where the browser says so itself
 * - `network`: the Tidings server could not be reached
 * - `server`: the Tidings server refused; `status` and `detail` say why
 * @typedef {"unsupported" | "denied" | "dismissed" | "timeout" | "push-service-unavailable" | "stale-key"
 *   | "private-window" | "network" | "server"} PushErrorCode
 */

/** An expected failure of subscribing, re-syncing or unsubscribing. */
export class PushError extends Error {
  /**
   * @param {PushErrorCode} code
   * @param {string} message for developers; pages write their own words per code
   * @param {{ cause?: unknown, status?: number, detail?: string }} [more]
   */
  constructor(code, message, more = {}) {
    super(message, { cause: more.cause });
    this.name = "PushError";
    this.code = code;
    /** HTTP status for `server`. */
    this.status = more.status;
    /** The server's own sentence (RFC 9457 `detail`), when it gave one. */
    this.detail = more.detail;
  }
}

/**
 * Turn what `pushManager.subscribe()` threw into a `PushError`.
 * Rules: W3C Push API §subscribe; `AbortError` is what Chromium and Firefox use for a push service out of reach.
 * @param {unknown} error
 * @param {NotificationPermission} permission as it is now, after the failure
 * @returns {PushError}
 */
export function explainSubscribeFailure(error, permission) {
  if (error instanceof PushError) return error;
  const name = error instanceof Error || error instanceof DOMException ? error.name : "";
  switch (name) {
    case "NotAllowedError":
      return permission === "default"
        ? new PushError("dismissed", "the permission prompt was closed without an answer", { cause: error })
        : new PushError("denied", "notifications are blocked for this site", { cause: error });
    case "InvalidStateError":
      return new PushError("stale-key", "the existing subscription belongs to another key", { cause: error });
    case "SecurityError":
      return new PushError("private-window", "service workers are off here, as in private windows", { cause: error });
    case "NotSupportedError":
      return new PushError("unsupported", "this browser cannot subscribe", { cause: error });
    case "InvalidAccessError":
      return new PushError("server", "the server's public key is not a P-256 point", { cause: error });
    default:
      return permission === "denied"
        ? new PushError("denied", "notifications are blocked for this site", { cause: error })
        : new PushError("push-service-unavailable", "the browser's push service did not answer", { cause: error });
  }
}

/**
 * Turn what registering or looking up the service worker threw into a `PushError`.
 * @param {unknown} error
 * @returns {PushError}
 */
export function explainWorkerFailure(error) {
  if (error instanceof DOMException && error.name === "SecurityError") {
    return new PushError("private-window", "service workers are off here, as in private windows", { cause: error });
  }
  return new PushError("network", "the service worker could not be loaded", { cause: error });
}
