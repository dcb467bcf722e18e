/** The demo page: signs a visitor up, then connects the panels of one event. */

import { PushError, PushSubscriptionManager } from "../push/manager.js";
import { AlertsPanel } from "./alerts.js";
import { ApiProblem, DemoApi } from "./api.js";
import { announce, byId } from "./dom.js";
import { zoneLabel } from "./format.js";
import { HostPanel } from "./host.js";
import { posterOf } from "./posters.js";
import { Received } from "./received.js";
import { Report } from "./report.js";
import { clearSession, loadSession, saveSession } from "./session.js";
import { SignUpForm } from "./signup.js";
import { showTicket } from "./ticket.js";

/** @typedef {import("./api.js").Event} Event */

let session = loadSession(new Date());
/** @type {Event[]} */
let programme = [];

const api = new DemoApi(() => session?.token ?? null);
const push = new PushSubscriptionManager({ getToken: () => session?.token ?? "" });
const steps = new Set();

const report = new Report(api);
const received = new Received(
  () => done("arrived"),
  () => alerts.refresh(),
);
const alerts = new AlertsPanel(push, (state) => done("alerts", state === "subscribed"));
const host = new HostPanel(api, changed, restored, refused);
const signUp = new SignUpForm(api, (answer, person) => {
  const { userId, token, expiresAt, eventId, ticket, event } = answer;
  session = { userId, token, expiresAt, eventId, ticket, ...person };
  saveSession(session);
  open(event);
  announce(`Welcome, ${person.name}. Your ticket is ready.`);
  byId("main", HTMLElement).focus();
});

/** @param {string} step @param {boolean} [yes] */
function done(step, yes = true) {
  if (yes) steps.add(step);
  else steps.delete(step);
  const items = [...document.querySelectorAll("[data-step]")].filter((item) => item instanceof HTMLElement);
  const next = items.find((item) => !steps.has(item.dataset.step));
  for (const item of items) {
    item.toggleAttribute("data-done", steps.has(item.dataset.step));
    if (item === next) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
}

/** @param {Event} event show the stage */
function open(event) {
  if (session === null) return;
  byId("welcome", HTMLElement).hidden = true;
  byId("stage", HTMLElement).hidden = false;
  byId("who", HTMLElement).hidden = false;
  byId("who-name", HTMLElement).textContent = session.name;
  byId("who-zone", HTMLElement).textContent = zoneLabel(session.timezone);
  byId("mailbox", HTMLAnchorElement).href = `/demo/api/mailbox?userId=${encodeURIComponent(session.userId)}`;
  done("ticket");
  show(event, []);
  received.catchUp(session.locale);
  alerts.refresh();
}

/** @param {Event} event @param {import("./api.js").FieldChange[]} changes */
function show(event, changes) {
  if (session === null) return;
  showTicket(event, session, posterOf(programme, event.id), changes);
  host.show(event, session.timezone);
}

/** @param {import("./api.js").Changed} answer */
function changed(answer) {
  if (session === null) return;
  show(answer.event, answer.change?.fields ?? []);
  done("change", answer.change !== null || steps.has("change"));
  report.follow(answer, session);
}

async function restored() {
  programme = await api.events();
  const event = programme.find((each) => each.id === session?.eventId);
  if (event) show(event, []);
  report.clear();
  announce("The event is back as it was.");
}

/** @param {ApiProblem} problem @returns {boolean} */
function refused(problem) {
  if (problem.status !== 401) return false;
  welcome("Your demo session is over. Sign up again, it takes a second.");
  return true;
}

/** @param {string | null} reason */
function welcome(reason) {
  session = null;
  clearSession();
  steps.clear();
  report.clear();
  received.clear();
  byId("stage", HTMLElement).hidden = true;
  byId("who", HTMLElement).hidden = true;
  byId("welcome", HTMLElement).hidden = false;
  signUp.showProgramme(programme);
  if (reason !== null) signUp.tell(reason);
}

byId("leave", HTMLButtonElement).addEventListener("click", async () => {
  try {
    await push.signOut();
  } catch (error) {
    // This browser is detached all the same; the server learns it from the push service.
    if (!(error instanceof PushError)) throw error;
    console.info("tidings demo: the server was not told of signing out", error);
  }
  welcome(null);
});

async function start() {
  try {
    programme = await api.events();
  } catch (error) {
    if (!(error instanceof ApiProblem)) throw error;
    welcome(error.message);
    return;
  }
  const id = session?.eventId;
  const event = programme.find((each) => each.id === id);
  if (event) open(event);
  else welcome(null);
}

start();
