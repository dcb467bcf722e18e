/** The ticket: the current event with recent changes marked, and the state of the ticket. */

import { byId, el } from "./dom.js";
import { dayOf, hoursOf, shortOf } from "./format.js";

/** @typedef {import("./api.js").Event} Event */
/** @typedef {import("./api.js").FieldChange} FieldChange */
/** @typedef {import("./session.js").Session} Session */

/** @type {Record<string, string>} */
const STATUS = { ACTIVE: "On sale", CANCELLED: "Cancelled", DRAFT: "Draft", COMPLETED: "Over" };

/**
 * @param {Event} event
 * @param {Session} session
 * @param {string} poster
 * @param {readonly FieldChange[]} changes what the last change did; marked on the ticket
 */
export function showTicket(event, session, poster, changes) {
  const cancelled = event.status === "CANCELLED";
  byId("ticket", HTMLElement).toggleAttribute("data-cancelled", cancelled);
  byId("stamp", HTMLElement).hidden = !cancelled;
  byId("event-poster", HTMLImageElement).src = poster;
  byId("event-title", HTMLElement).textContent = event.title;
  byId("event-about", HTMLElement).textContent = event.description ?? "";
  tone(byId("event-status", HTMLElement), STATUS[event.status] ?? event.status, cancelled);
  byId("stub-name", HTMLElement).textContent = session.name;
  const active = session.ticket === "active";
  const state = cancelled ? "Ticket void" : active ? "Ticket active" : `Ticket ${session.ticket}`;
  tone(byId("ticket-state", HTMLElement), state, cancelled || !active);
  byId("event-when", HTMLElement).replaceChildren(...when(event, session, changeOf(changes, "startDate")));
  byId("event-where", HTMLElement).replaceChildren(...where(event, changeOf(changes, "venue")));
}

/** @param {readonly FieldChange[]} changes @param {string} field */
function changeOf(changes, field) {
  return changes.find((change) => change.field === field);
}

/** @param {HTMLElement} element @param {string} text @param {boolean} bad */
function tone(element, text, bad) {
  element.textContent = text;
  element.dataset.tone = bad ? "bad" : "good";
}

/** @param {Event} event @param {Session} session @param {FieldChange | undefined} change @returns {Node[]} */
function when(event, session, change) {
  const lang = session.locale;
  const day = el("span", { lang }, dayOf(event.startDate, session));
  const hours = hoursOf(event.startDate, event.endDate, session);
  const shown = el("small", { lang }, change ? el("ins", {}, hours) : hours);
  if (!change?.old) return [day, shown];
  const old = el("span", { lang }, shortOf(change.old, session, event.startDate));
  return [day, shown, el("del", {}, el("span", { class: "sr" }, "before: "), old)];
}

/** @param {Event} event @param {FieldChange | undefined} change @returns {Node[]} */
function where(event, change) {
  const venue = event.venue ?? "To be announced";
  const address = [event.address, event.city].filter(Boolean).join(", ");
  /** @type {Node[]} */
  const nodes = [change ? el("ins", {}, venue) : document.createTextNode(venue)];
  if (address) nodes.push(el("small", {}, address));
  if (change?.old) nodes.push(el("del", {}, el("span", { class: "sr" }, "before: "), change.old));
  return nodes;
}
