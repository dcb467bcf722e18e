/** Who is signed in, and which of the user's devices is this browser. */

/**
 * @param {string | null | undefined} token a user token (JWT)
 * @returns {string | null} its user id (claim `sub`); null without a token; "" if the token cannot be read, so that all
 *   such tokens count as one user
 */
export function userOf(token) {
  if (!token) return null;
  const [, payload = ""] = token.split(".");
  try {
    const plain = atob(payload.replaceAll("-", "+").replaceAll("_", "/"));
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(plain, (character) => character.charCodeAt(0))));
    return typeof claims.sub === "string" ? claims.sub : "";
  } catch {
    // not a JWT: a host with tokens of its own passes `getUserId`
    return "";
  }
}

/** @param {string} endpoint @returns {Promise<string>} its SHA-256, base64url, as in the server's list of devices */
export async function endpointHash(endpoint) {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(endpoint));
  const text = btoa(String.fromCharCode(...new Uint8Array(digest)));
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

/**
 * Run one operation on subscriptions at a time, over all tabs and the service worker: otherwise a tab that synchronises
 * could register again what the user turns off in another one.
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T>}
 */
export async function exclusively(work) {
  return navigator.locks ? navigator.locks.request("tidings-push", work) : work();
}
