/** Date formatting in the language and time zone chosen at sign-up, not the browser's. */

/** @typedef {{ locale: string, timezone: string }} Reader */

/** @param {string} iso @param {Reader} reader @returns {string} e.g. "Saturday, 22 November 2026" */
export function dayOf(iso, { locale, timezone }) {
  return new Intl.DateTimeFormat(locale, { dateStyle: "full", timeZone: timezone }).format(new Date(iso));
}

/**
 * @param {string} iso
 * @param {Reader} reader
 * @param {string | null} [beside] the date it is shown next to; the year is left out only where both are of this year
 * @returns {string} e.g. "Sat, 22 Nov, 19:00", in another year "Mon, 22 Nov 2027, 19:00"
 */
export function shortOf(iso, { locale, timezone }, beside = null) {
  const day = /** @type {const} */ ({ weekday: "short", day: "numeric", month: "short" });
  const time = /** @type {const} */ ({ hour: "numeric", minute: "2-digit" });
  const thisYear = yearOf(new Date(), timezone);
  const plain = [iso, beside ?? iso].every((each) => yearOf(new Date(each), timezone) === thisYear);
  const year = plain ? undefined : /** @type {const} */ ("numeric");
  return new Intl.DateTimeFormat(locale, { ...day, ...time, year, timeZone: timezone }).format(new Date(iso));
}

/** @param {Date} moment @param {string} timezone @returns {string} e.g. "2026" */
function yearOf(moment, timezone) {
  return wallClock(moment, timezone).slice(0, 4);
}

/**
 * @param {string} start ISO 8601
 * @param {string | null} end
 * @param {Reader} reader
 * @returns {string} e.g. "19:00 – 22:00 CET"
 */
export function hoursOf(start, end, { locale, timezone }) {
  const time = /** @type {const} */ ({ hour: "numeric", minute: "2-digit", timeZone: timezone });
  const plain = new Intl.DateTimeFormat(locale, time);
  const zoned = new Intl.DateTimeFormat(locale, { ...time, timeZoneName: "short" });
  // Not `formatRange`: it prints both dates for an event that ends after midnight.
  const oneEvening = end !== null && Date.parse(end) - Date.parse(start) < 16 * 3_600_000;
  return oneEvening
    ? `${plain.format(new Date(start))} – ${zoned.format(new Date(end))}`
    : zoned.format(new Date(start));
}

/** @param {Date} moment @param {string} timezone @returns {string} "2026-11-22T19:00", for datetime-local fields */
export function wallClock(moment, timezone) {
  const shape = /** @type {const} */ ({ dateStyle: "short", timeStyle: "short", hourCycle: "h23" });
  // the Swedish locale formats dates as ISO 8601
  return new Intl.DateTimeFormat("sv-SE", { ...shape, timeZone: timezone }).format(moment).replace(" ", "T");
}

/**
 * The inverse of `wallClock`. Two rounds settle a guess on the other side of a clock change.
 * @param {string} wall "2026-11-22T19:00"
 * @param {string} timezone
 * @returns {Date}
 */
export function instantOf(wall, timezone) {
  const wanted = Date.parse(`${wall}Z`);
  let guess = wanted;
  for (let round = 0; round < 2; round += 1) {
    guess += wanted - Date.parse(`${wallClock(new Date(guess), timezone)}Z`);
  }
  return new Date(guess);
}

/** @param {number} at ms @param {string} locale @returns {string} e.g. "14:03:27" */
export function clockOf(at, locale) {
  return new Intl.DateTimeFormat(locale, { timeStyle: "medium" }).format(new Date(at));
}

/** @param {string} iso @param {Reader} reader @returns {string} e.g. "14:03:27" */
export function timeOf(iso, { locale, timezone }) {
  return new Intl.DateTimeFormat(locale, { timeStyle: "medium", timeZone: timezone }).format(new Date(iso));
}

/** @param {string} code an IANA zone @returns {string} readable, e.g. "Europe/Berlin" → "Berlin, Europe" */
export function zoneLabel(code) {
  const [area, ...rest] = code.split("/");
  return rest.length > 0 ? `${rest.join(", ").replaceAll("_", " ")}, ${area}` : code;
}
