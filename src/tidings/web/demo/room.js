/** A viewer of a live room: answers heartbeats, and joins again after any close but a refusal. */

/** The close code of a user without access (docs/reference/api.md, live rooms). */
const REFUSED = 4403;
/** Milliseconds before the first and the last attempts to join again. */
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;
/** Heartbeats without a message, after which a connection is taken for dead. */
const MISSED_HEARTBEATS = 2.5;

/** @typedef {"connecting" | "watching" | "refused" | "left"} ViewerState */
/** @typedef {{ type: string, viewers?: number, epoch?: number | null, heartbeatSeconds?: number }} RoomMessage */

export class RoomViewer {
  /** @type {WebSocket | null} */
  #socket = null;
  #wanted = false;
  #pause = FIRST_PAUSE;
  #heartbeat = 10;
  #watchdog = 0;
  #retry = 0;

  /**
   * @param {() => Promise<string>} getTicket a new ticket for each connection
   * @param {string} eventId
   * @param {(state: ViewerState, message: RoomMessage | null) => void} show called for each change and message
   */
  constructor(getTicket, eventId, show) {
    this.getTicket = getTicket;
    this.eventId = eventId;
    this.show = show;
  }

  /** Join the room, and stay in it. */
  join() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#connect();
  }

  /** Close the connection cleanly, and do not join again. */
  leave() {
    this.#wanted = false;
    clearTimeout(this.#watchdog);
    clearTimeout(this.#retry);
    this.#socket?.close(1000);
    this.#socket = null;
    this.show("left", null);
  }

  async #connect() {
    this.show("connecting", null);
    let ticket;
    try {
      ticket = await this.getTicket();
    } catch {
      this.#connectLater();
      return;
    }
    if (!this.#wanted) return;
    const address = new URL(`/api/streams/${encodeURIComponent(this.eventId)}/ws`, location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("ticket", ticket);
    const socket = new WebSocket(address);
    this.#socket = socket;
    socket.addEventListener("message", (event) => this.#receive(socket, JSON.parse(event.data)));
    socket.addEventListener("close", (event) => {
      clearTimeout(this.#watchdog);
      if (!this.#wanted || socket !== this.#socket) return;
      if (event.code === REFUSED) {
        this.#wanted = false;
        this.show("refused", null);
      } else this.#connectLater();
    });
  }

  /** @param {WebSocket} socket @param {RoomMessage} message */
  #receive(socket, message) {
    if (socket !== this.#socket) return;
    if (message.type === "joined") {
      this.#heartbeat = message.heartbeatSeconds ?? this.#heartbeat;
      this.#pause = FIRST_PAUSE;
    }
    if (message.type === "ping") socket.send("{}");
    this.show("watching", message);
    // a connection can be dead without being closed
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => socket.close(), this.#heartbeat * MISSED_HEARTBEATS * 1000);
  }

  #connectLater() {
    if (!this.#wanted) return;
    this.show("connecting", null);
    // at random within the pause, so that all viewers of a lost server do not come back at the same moment
    this.#retry = setTimeout(() => this.#connect(), this.#pause * (0.5 + Math.random() / 2));
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
  }
}
