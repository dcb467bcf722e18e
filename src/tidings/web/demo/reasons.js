/** Explains to the visitor why they received a message or not, from Tidings' records, in their time zone. */

import { timeOf } from "./format.js";

/** @typedef {import("./api.js").Delivery} Delivery */
/** @typedef {import("./api.js").Explanation} Explanation */
/** @typedef {import("./format.js").Reader} Reader */

/** @type {Record<string, string>} */
const VERDICTS = {
  delivered: "You hold a ticket, so you were notified.",
  partly_delivered: "You hold a ticket, so you were notified, but not on every device.",
  waiting: "You hold a ticket; your message is on its way.",
  skipped: "Nothing was sent to you.",
  digested: "You were notified in a digest.",
  not_in_audience: "You were not notified: you hold no active ticket for this event.",
  joined_later: "You were not notified: your ticket is newer than this message.",
  failed: "You hold a ticket, but the message could not be delivered.",
  expired: "You were not notified: the message expired before it could be sent.",
  cancelled: "You were not notified: the message was cancelled before it was sent.",
  unknown_user: "You were not notified: this account no longer exists.",
};
/** @type {Record<string, string>} */
const SKIPS = {
  preference_off: "You turned off messages of this kind.",
  not_opted_in: "Messages of this kind are off until you turn them on.",
  no_device: "You had no device with notifications on.",
  channel_not_set_up: "Push is not set up on this server.",
  left_audience: "You had returned your ticket before it was sent.",
  expired: "The message expired before it could be sent to you.",
  user_erased: "Your account was erased before it was sent.",
  render_failed: "The text of the message could not be created.",
  cancelled: "The message was cancelled before it was sent.",
  step_cancelled: "You had seen the message before.",
  device_replaced: "The device had a new subscription, to which the message was sent.",
};

/** @param {Explanation} explanation @param {Reader} reader @returns {string[]} sentences, the verdict first */
export function reasons({ verdict, sentences, deliveries, skips }, reader) {
  const first = VERDICTS[verdict];
  // an unknown verdict of a newer server: show the server's sentences
  if (first === undefined) return sentences;
  const why = new Set(skips.map(({ reason }) => SKIPS[reason] ?? `Recorded reason: ${reason}.`));
  return [first, ...deliveries.map((each) => outcome(each, reader)), ...why];
}

/** @param {Delivery} delivery @param {Reader} reader @returns {string} */
function outcome({ channel, target, state, why, dueAt, updatedAt, attempts }, reader) {
  const isMail = channel === "email";
  const device = isMail ? "Your e-mail address" : (target ?? "A removed device");
  const service = isMail ? "the mail server" : "its push service";
  const tries = attempts.length > 1 ? ` after ${attempts.length} attempts` : "";
  switch (state) {
    case "delivered": {
      const acceptedAt = attempts.at(-1)?.finishedAt ?? updatedAt;
      return `${device}: accepted by ${service} at ${timeOf(acceptedAt, reader)}${tries}.`;
    }
    case "pending":
      return `${device}: to be sent at ${timeOf(dueAt, reader)}${tries}.`;
    case "sending":
      return `${device}: being sent right now.`;
    case "gone":
      return `${device}: no longer accepts messages.${isMail ? "" : " Turn alerts on again there."}`;
    case "refused":
      return `${device}: refused by ${service}${tries}${why ? ` (${why.replace(/\.$/, "")})` : ""}.`;
    case "expired":
      return `${device}: expired before it could be sent${tries}.`;
    case "cancelled":
      return `${device}: cancelled before it was sent.`;
    default:
      return `${device}: not sent. ${SKIPS[why ?? ""] ?? "The conditions changed before it was sent."}`;
  }
}
