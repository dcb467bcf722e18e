/** Conversion and comparison of VAPID public keys: base64url in Tidings' API, bytes in the Push API. */

/**
 * @param {string} text base64url, with or without padding
 * @returns {Uint8Array<ArrayBuffer>} 65 bytes: an uncompressed P-256 point (RFC 8292 §3.2)
 * @throws {RangeError} for any other value
 */
export function keyFromText(text) {
  if (!/^[A-Za-z0-9_-]+={0,2}$/.test(text)) throw new RangeError("a VAPID key is base64url text");
  const plain = text.replace(/=+$/, "").replaceAll("-", "+").replaceAll("_", "/");
  if (plain.length % 4 === 1) throw new RangeError("a VAPID key is base64url text");
  const bytes = Uint8Array.from(atob(plain), (character) => character.charCodeAt(0));
  if (bytes.length !== 65 || bytes[0] !== 4) throw new RangeError("a VAPID key is a 65-byte uncompressed point");
  return bytes;
}

/**
 * @param {ArrayBuffer | null | undefined} left
 * @param {Uint8Array} right
 * @returns {boolean} whether both are the same key
 */
export function sameKey(left, right) {
  if (!left || left.byteLength !== right.length) return false;
  const bytes = new Uint8Array(left);
  return right.every((byte, index) => byte === bytes[index]);
}
