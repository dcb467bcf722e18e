/** The four HTTP calls behind push: the public key, subscribe, unsubscribe, the list of own devices. */

import { PushError } from "./errors.js";

/** @typedef {{ publicKey: string, keyId: string }} PublicKey */
/** @typedef {{ id: string, device: string | null, host: string, state: string, createdAt: string }} Device */
/** @typedef {() => string | Promise<string>} GetToken a current user token */

/** Speaks to `/api/push/*`; every failure is a `PushError` with code `network` or `server`. */
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

  /** @param {Record<string, unknown>} body `PushSubscription.toJSON()` + `device` + `replaces` */
  async subscribe(body) {
    await this.#call("POST", "/push/subscribe", { body });
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
    try {
      answer = await fetch(this.base + path, init);
    } catch (error) {
      throw new PushError("network", "the notification server cannot be reached", { cause: error });
    }
    if (!answer.ok) throw await refusal(answer);
    return answer.status === 204 ? null : answer.json();
  }
}

/** @param {Response} answer @returns {Promise<PushError>} with the problem's `detail` (RFC 9457) if it has one */
async function refusal(answer) {
  const problem = /json/.test(answer.headers.get("Content-Type") ?? "") ? await answer.json() : {};
  const detail = typeof problem.detail === "string" ? problem.detail : undefined;
  return new PushError("server", detail ?? `the server answered ${answer.status}`, { status: answer.status, detail });
}
