/** Typed HTTP client of the demo. An error response becomes an `ApiProblem` with the server's `detail`. */

/** @typedef {{ id: string, title: string, description: string | null, startDate: string, endDate: string | null,
 *   venue: string | null, address: string | null, city: string | null, hostId: string | null, status: string,
 *   version: number }} Event */
/** @typedef {{ field: string, old: string | null, new: string | null }} FieldChange */
/** @typedef {{ event: Event, change: { type: string, types: string[], fields: FieldChange[], significant: boolean }
 *   | null, notification: { id: string, status: string } | null }} Changed */
/** @typedef {{ userId: string, token: string, expiresAt: string, eventId: string, event: Event, ticket: string }}
 *   SignedUp */
/** @typedef {{ id: string, status: string, recipients: number, deliveries: number, skipped: number,
 *   byState: Record<string, number>, finished: boolean }} Progress `finished`: every delivery has a final state */
/** @typedef {{ channel: string, target: string | null, state: string, why: string | null, dueAt: string, updatedAt: string,
 *   attempts: { finishedAt: string | null }[] }} Delivery */
/** @typedef {{ userId: string, notificationId: string, verdict: string, sentences: string[], deliveries: Delivery[],
 *   skips: { reason: string }[] }} Explanation `sentences` are written for operators */

/** @typedef {{ eventId: string, state: "empty" | "live" | "grace" | "ended", epoch: number, viewers: number,
 *   graceSeconds: number, endedAt: string | null }} Stream a live room */

/** The server rejected the request, or could not be reached (status 0). */
export class ApiProblem extends Error {
  /** @param {number} status @param {string} detail @param {{ field: string, message: string }[]} errors */
  constructor(status, detail, errors = []) {
    super(detail);
    this.name = "ApiProblem";
    this.status = status;
    this.errors = errors;
  }
}

export class DemoApi {
  /** @param {() => string | null} getToken */
  constructor(getToken) {
    this.getToken = getToken;
  }

  /** @returns {Promise<Event[]>} */
  async events() {
    return /** @type {{ items: Event[] }} */ (await this.#call("GET", "/events")).items;
  }

  /** @param {{ name: string, locale: string, timezone: string }} person @returns {Promise<SignedUp>} */
  async signUp(person) {
    return /** @type {SignedUp} */ (await this.#call("POST", "/sign-up", person));
  }

  /** @param {string} id @param {{ startDate?: string, venue?: string }} patch @returns {Promise<Changed>} */
  async change(id, patch) {
    return /** @type {Changed} */ (await this.#call("POST", `/events/${encodeURIComponent(id)}/change`, patch));
  }

  /** @param {string} id @returns {Promise<Changed>} */
  async cancel(id) {
    return /** @type {Changed} */ (await this.#call("POST", `/events/${encodeURIComponent(id)}/cancel`, {}));
  }

  /** @param {string} id */
  async reset(id) {
    await this.#call("POST", `/events/${encodeURIComponent(id)}/reset`, {});
  }

  /** @param {string} id @returns {Promise<Progress>} */
  async progress(id) {
    return /** @type {Progress} */ (await this.#call("GET", `/notifications/${encodeURIComponent(id)}`));
  }

  /** @param {string} notificationId @returns {Promise<Explanation>} about the signed-in user */
  async explain(notificationId) {
    const query = new URLSearchParams({ notificationId });
    return /** @type {Explanation} */ (await this.#call("GET", `/explain?${query}`));
  }

  /** @param {string} eventId @returns {Promise<Stream>} */
  async stream(eventId) {
    return /** @type {Stream} */ (await this.#call("GET", `/api/streams/${encodeURIComponent(eventId)}`, undefined, ""));
  }

  /** @returns {Promise<string>} a ticket for one WebSocket */
  async ticket() {
    return /** @type {{ ticket: string }} */ (await this.#call("POST", "/api/tickets", {}, "")).ticket;
  }

  /**
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body]
   * @param {string} [base] before the path; empty = a route of the API itself
   * @returns {Promise<unknown>}
   */
  async #call(method, path, body, base = "/demo/api") {
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json" };
    const token = this.getToken();
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let answer;
    try {
      const text = body === undefined ? undefined : JSON.stringify(body);
      answer = await fetch(`${base}${path}`, { method, headers, body: text });
    } catch {
      throw new ApiProblem(0, "The demo server cannot be reached. Is it still running?");
    }
    const json = /json/.test(answer.headers.get("Content-Type") ?? "") ? await answer.json() : null;
    if (answer.ok) return json;
    throw new ApiProblem(answer.status, json?.detail ?? `The server answered ${answer.status}.`, json?.errors ?? []);
  }
}
