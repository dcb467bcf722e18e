/** Why the visitor got a message, or why not: what Tidings recorded, said to the visitor and in their own time. */

import { timeOf } from "./format.js";

/** @typedef {import("./api.js").Delivery} Delivery */
/** @typedef {import("./api.js").Explanation} Explanation */
/** @typedef {import("./format.js").Reader} Reader */

/** @type {Record<string, string>} */
const VERDICTS = {
  delivered: "You hold a ticket, so you were told.",
  partly_delivered: "You hold a ticket, so you were told, but not on every device.",
  waiting: "You hold a ticket; your message is on its way.",
  skipped: "Nothing was sent to you.",
  not_in_audience: "You were not told: you hold no active ticket for this event.",
  joined_later: "You were not told: your ticket is newer than this message.",
  failed: "You hold a ticket, but the message could not be delivered.",
  expired: "You were not told: the message was out of date before it could be sent.",
  cancelled: "You were not told: the message was cancelled first.",
  unknown_user: "You were not told: this account no longer exists.",
};
/** @type {Record<string, string>} */
const SKIPS = {
  preference_off: "You turned off messages of this kind.",
  not_opted_in: "Messages of this kind are off until you turn them on.",
  no_device: "You had no device with notifications on.",
  channel_not_set_up: "Push is not set up on this server.",
  left_audience: "You had given back your ticket before it was sent.",
  expired: "It was out of date before your turn came.",
  user_erased: "Your account was erased before it was sent.",
  render_failed: "The message could not be put into words for you.",
  cancelled: "The message was cancelled before it was sent.",
};

/** @param {Explanation} explanation @param {Reader} reader @returns {string[]} sentences, the verdict first */
export function reasons({ verdict, sentences, deliveries, skips }, reader) {
  const first = VERDICTS[verdict];
  // A verdict newer than this page: the server's own words are better than none.
  if (first === undefined) return sentences;
  const why = new Set(skips.map(({ reason }) => SKIPS[reason] ?? `Recorded reason: ${reason}.`));
  return [first, ...deliveries.map((each) => outcome(each, reader)), ...why];
}

/** @param {Delivery} delivery @param {Reader} reader @returns {string} */
function outcome({ target, state, why, dueAt, updatedAt, attempts }, reader) {
  const device = target ?? "A device that has been removed since";
  const tries = attempts.length > 1 ? ` after ${attempts.length} attempts` : "";
  switch (state) {
    case "delivered":
      return `${device}: taken by its push service at ${timeOf(attempts.at(-1)?.finishedAt ?? updatedAt, reader)}${tries}.`;
    case "pending":
      return `${device}: to be sent at ${timeOf(dueAt, reader)}${tries}.`;
    case "sending":
      return `${device}: being sent right now.`;
    case "gone":
      return `${device}: no longer takes messages. Turn alerts on again there.`;
    case "refused":
      return `${device}: refused by its push service${tries}${why ? ` (${why.replace(/\.$/, "")})` : ""}.`;
    case "expired":
      return `${device}: out of date before it could be sent${tries}.`;
    case "cancelled":
      return `${device}: cancelled before it was sent.`;
    default:
      return `${device}: not sent. ${SKIPS[why ?? ""] ?? "Something changed just before."}`;
  }
}
