/** The stream page: joins the live room of the visitor's event, adds further viewers, and shows what is decided. */

import { ApiProblem, DemoApi } from "./api.js";
import { announce, byId, el, tellProblem } from "./dom.js";
import { timeOf } from "./format.js";
import { posterOf } from "./posters.js";
import { RoomViewer } from "./room.js";
import { loadSession } from "./session.js";

/** @typedef {import("./api.js").Stream} Stream */

/** Viewers that one page adds. */
const MAX_GUESTS = 5;
/** Milliseconds between requests for the state of the room, while this page is open. */
const POLL_EVERY = 1000;
const GUEST = { locale: "en", timezone: "UTC" };
/** @type {Record<Stream["state"], [string, string]>} tone and text of the pill */
const PILLS = {
  empty: ["idle", "Not live yet"],
  live: ["good", "Live"],
  grace: ["warn", "Nobody is watching"],
  ended: ["bad", "Ended"],
};

const session = loadSession(new Date());
const api = new DemoApi(() => session?.token ?? null);
const problem = byId("live-problem", HTMLElement);
const leave = byId("leave-stream", HTMLButtonElement);
const add = byId("add-guest", HTMLButtonElement);
const remove = byId("remove-guest", HTMLButtonElement);
/** @type {RoomViewer[]} */
const guests = [];
/** @type {Stream | null} */
let stream = null;
let isWatching = false;
/** when the page saw the grace period begin, ms */
let graceSince = 0;

/** @param {string} text @param {string} [tone] a line of the log */
function tell(text, tone = "") {
  if (session === null) return;
  const time = el("time", {}, timeOf(new Date().toISOString(), session));
  byId("host-log", HTMLElement).prepend(el("li", { "data-tone": tone }, time, el("span", {}, text)));
  announce(text);
}

/** @param {number} count */
function showViewers(count) {
  byId("viewers", HTMLElement).textContent = String(count);
  byId("viewers-label", HTMLElement).textContent = count === 1 ? "person is watching" : "people are watching";
}

/** @param {import("./room.js").ViewerState} state @param {import("./room.js").RoomMessage | null} message */
function showOwn(state, message) {
  isWatching = state === "watching" || state === "connecting";
  const texts = {
    watching: "You are watching this stream.",
    connecting: "Connecting …",
    refused: "You have no access to this stream.",
    left: "You are not watching.",
  };
  byId("own-state", HTMLElement).textContent = texts[state];
  leave.textContent = isWatching ? "Leave the stream" : "Watch the stream";
  if (message?.viewers !== undefined) showViewers(message.viewers);
}

function showGuests() {
  add.disabled = guests.length >= MAX_GUESTS;
  remove.disabled = guests.length === 0;
}

/** @param {Stream} next */
function showStream(next) {
  const before = stream;
  stream = next;
  if (!isWatching || next.state !== "live") showViewers(next.viewers);
  const [tone, text] = PILLS[next.state];
  const pill = byId("stream-state", HTMLElement);
  pill.dataset.tone = tone;
  pill.textContent = text;
  if (before === null || before.state !== next.state || before.epoch !== next.epoch) tellChange(before, next);
  const countdown = byId("countdown", HTMLElement);
  countdown.hidden = next.state !== "grace";
  const left = Math.max(0, next.graceSeconds - (Date.now() - graceSince) / 1000);
  countdown.textContent = left >= 1 ? `Ends in ${Math.ceil(left)} s unless somebody comes back.` : "Ends any moment now.";
}

/** @param {Stream | null} before @param {Stream} next */
function tellChange(before, next) {
  switch (next.state) {
    case "live":
      if (before?.state === "grace") tell("Somebody came back in time. The host hears nothing.", "good");
      else tell("The stream is live.", "good");
      break;
    case "grace":
      graceSince = Date.now();
      tell(`The last viewer left. The grace period of ${next.graceSeconds} s has begun.`, "warn");
      break;
    case "ended":
      if (before !== null) tell("The stream has ended. The host is notified, once.", "bad");
      break;
  }
}

/** @param {() => Promise<void>} work an error is shown with the server's text */
async function attempt(work) {
  try {
    await work();
    tellProblem(problem, null);
  } catch (error) {
    if (!(error instanceof ApiProblem)) throw error;
    tellProblem(problem, error.message);
  }
}

/** @param {string} eventId */
async function poll(eventId) {
  if (!document.hidden) await attempt(async () => showStream(await api.stream(eventId)));
  setTimeout(() => poll(eventId), POLL_EVERY);
}

/** @param {string} eventId */
async function addGuest(eventId) {
  const { token } = await api.signUp({ name: `Guest ${guests.length + 1}`, ...GUEST });
  const guestApi = new DemoApi(() => token);
  const guest = new RoomViewer(() => guestApi.ticket(), eventId, () => {});
  guests.push(guest);
  guest.join();
  showGuests();
}

/** @param {string} eventId */
function connect(eventId) {
  const viewer = new RoomViewer(() => api.ticket(), eventId, showOwn);
  leave.addEventListener("click", () => (isWatching ? viewer.leave() : viewer.join()));
  add.addEventListener("click", () => attempt(() => addGuest(eventId)));
  remove.addEventListener("click", () => {
    guests.pop()?.leave();
    showGuests();
  });
  // a page that is closed or kept for the back button is no viewer
  addEventListener("pagehide", () => {
    for (const each of [viewer, ...guests]) each.leave();
  });
  addEventListener("pageshow", (shown) => {
    if (shown.persisted) viewer.join();
  });
  viewer.join();
  poll(eventId);
}

async function start() {
  showGuests();
  const programme = await api.events();
  const event = programme.find((each) => each.id === session?.eventId);
  if (session === null || event === undefined) {
    byId("no-ticket", HTMLElement).hidden = false;
    return;
  }
  byId("live", HTMLElement).hidden = false;
  byId("stream-title", HTMLElement).textContent = event.title;
  byId("screen-poster", HTMLImageElement).src = posterOf(programme, event.id);
  byId("host-mailbox", HTMLAnchorElement).href = `/demo/api/mailbox?${new URLSearchParams({ userId: event.hostId ?? "" })}`;
  connect(event.id);
}

attempt(start);
