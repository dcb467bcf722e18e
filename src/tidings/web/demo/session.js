/** The visitor's session in this browser, stored until the token expires or the visitor starts over. */

const KEY = "tidings.demo";

/** @typedef {{ userId: string, token: string, expiresAt: string, eventId: string, name: string, locale: string,
 *   timezone: string, ticket: string }} Session */

/** @param {Date} now @returns {Session | null} */
export function loadSession(now) {
  try {
    /** @type {Session | null} */
    const session = JSON.parse(localStorage.getItem(KEY) ?? "null");
    return session !== null && Date.parse(session.expiresAt) > now.getTime() ? session : null;
  } catch {
    // Storage is blocked or contains another value: the visitor signs up again.
    return null;
  }
}

/** @param {Session} session */
export function saveSession(session) {
  localStorage.setItem(KEY, JSON.stringify(session));
}

export function clearSession() {
  localStorage.removeItem(KEY);
}
