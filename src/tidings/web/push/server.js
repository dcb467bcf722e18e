/** HTTP client for push: the public key, subscribe, unsubscribe, the list of the user's devices. */

import { PushError } from "./errors.js";

/** @typedef {{ publicKey: string, keyId: string }} PublicKey */
/** @typedef {{ id: string, device: string | null, host: string, endpointHash?: string, state: string,
 *    createdAt: string }} Device */
/** @typedef {{ id: string, state: string, created?: boolean }} Registration */
/** @typedef {() => string | Promise<string>} GetToken returns a valid user token */

const TIMEOUT_MS = 30_000;

/** Client of `/api/push/*`. Every failure is a `PushError` with code `network` or `server`. */
export class PushServer {
  /** @param {string} base e.g. "/api" @param {GetToken} getToken */
  constructor(base, getToken) {
    this.base = base.replace(/\/+$/, "");
    this.getToken = getToken;
  }

  /** @returns {Promise<PublicKey>} */
  async publicKey() {
    return /** @type {PublicKey} */ (await this.#call("GET", "/push/public-key", { signedIn: false }));
  }

  /**
   * @param {Record<string, unknown>} body `PushSubscription.toJSON()` + `device` + `replaces`
   * @returns {Promise<Registration>}
   */
  async subscribe(body) {
    return /** @type {Registration} */ (await this.#call("POST", "/push/subscribe", { body }));
  }

  /** @param {string} endpoint */
  async unsubscribe(endpoint) {
    await this.#call("DELETE", "/push/unsubscribe", { body: { endpoint } });
  }

  /** @returns {Promise<Device[]>} */
  async devices() {
    return /** @type {{ items: Device[] }} */ (await this.#call("GET", "/push/subscriptions", {})).items;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {{ body?: unknown, signedIn?: boolean }} options
   * @returns {Promise<unknown>}
   */
  async #call(method, path, { body, signedIn = true }) {
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json" };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (signedIn) headers.Authorization = `Bearer ${await this.getToken()}`;
    const init = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
    let answer;
    // A request that never ends would block the other tabs, which wait for this one.
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
    try {
      answer = await fetch(this.base + path, { ...init, signal: abort.signal });
    } catch (error) {
      throw new PushError("network", "the notification server cannot be reached", { cause: error });
    } finally {
      clearTimeout(timer);
    }
    if (!answer.ok) throw await refusal(answer);
    return answer.status === 204 ? null : answer.json();
  }
}

/** @param {Response} answer @returns {Promise<PushError>} with the problem's `detail` (RFC 9457) if it has one */
async function refusal(answer) {
  const problem = /json/.test(answer.headers.get("Content-Type") ?? "") ? await answer.json() : {};
  const detail = typeof problem.detail === "string" ? problem.detail : undefined;
  const code = typeof problem.code === "string" ? problem.code : undefined;
  return new PushError("server", detail ?? `the server answered ${answer.status}`, {
    status: answer.status,
    detail,
    problem: code,
  });
}
