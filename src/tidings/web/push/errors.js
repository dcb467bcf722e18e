/** The typed error of push operations. Pages choose their own text by its code. */

/**
 * - `unsupported`: this browser does not support Web Push, or the page is not on https
 * - `denied`: the user or a policy blocked notifications; only browser settings can change that
 * - `dismissed`: the user closed the prompt without a decision; the page may ask again later
 * - `timeout`: `subscribe()` did not complete in time; retry
 * - `push-service-unavailable`: the browser could not reach its push service, or has none, as in some private
 *   windows
 * - `stale-key`: a subscription under another VAPID key could not be replaced
 * - `private-window`: private browsing, if the browser reports it
 * - `network`: the Tidings server could not be reached
 * - `server`: the Tidings server rejected the request; `status` and `detail` contain the reason
 * @typedef {"unsupported" | "denied" | "dismissed" | "timeout" | "push-service-unavailable" | "stale-key"
 *   | "private-window" | "network" | "server"} PushErrorCode
 */

/** An expected failure of subscribing, re-syncing or unsubscribing. */
export class PushError extends Error {
  /**
   * @param {PushErrorCode} code
   * @param {string} message for developers; pages choose their own text by `code`
   * @param {{ cause?: unknown, status?: number, detail?: string, problem?: string }} [more]
   */
  constructor(code, message, more = {}) {
    super(message, { cause: more.cause });
    this.name = "PushError";
    this.code = code;
    /** HTTP status for `server`. */
    this.status = more.status;
    /** The `detail` of the server's problem response (RFC 9457), if present. */
    this.detail = more.detail;
    /** The `code` of that problem response, if present. */
    this.problem = more.problem;
  }
}

/**
 * Convert an error of `pushManager.subscribe()` to a `PushError`.
 * Rules: W3C Push API §subscribe; Chromium and Firefox throw `AbortError` if the push service is unreachable.
 * @param {unknown} error
 * @param {NotificationPermission} permission after the failure
 * @returns {PushError}
 */
export function explainSubscribeFailure(error, permission) {
  if (error instanceof PushError) return error;
  const name = error instanceof Error || error instanceof DOMException ? error.name : "";
  switch (name) {
    case "NotAllowedError":
      return permission === "default"
        ? new PushError("dismissed", "the permission prompt was closed without a decision", { cause: error })
        : new PushError("denied", "notifications are blocked for this site", { cause: error });
    case "InvalidStateError":
      return new PushError("stale-key", "the existing subscription belongs to another key", { cause: error });
    case "SecurityError":
      return new PushError("private-window", "service workers are disabled, as in private windows", { cause: error });
    case "NotSupportedError":
      return new PushError("unsupported", "this browser cannot subscribe", { cause: error });
    case "InvalidAccessError":
      return new PushError("server", "the server's public key is not a P-256 point", { cause: error });
    default:
      return permission === "denied"
        ? new PushError("denied", "notifications are blocked for this site", { cause: error })
        : new PushError("push-service-unavailable", "the browser's push service did not respond", { cause: error });
  }
}

/**
 * Convert an error of the service worker registration to a `PushError`.
 * @param {unknown} error
 * @returns {PushError}
 */
export function explainWorkerFailure(error) {
  if (error instanceof DOMException && error.name === "SecurityError") {
    return new PushError("private-window", "service workers are disabled, as in private windows", { cause: error });
  }
  return new PushError("network", "the service worker could not be loaded", { cause: error });
}
