// A viewer of a live room: answers heartbeats, and joins again after any close but a refusal.

/** The close code of a user without access (docs/reference/api.md, live rooms). */
const REFUSED = 4403;
/** Milliseconds before the first and the last attempts to join again. */
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

export class Room {
  /**
   * @param {() => Promise<string>} findAddress returns a new address with a ticket for each attempt
   * @param {(state: "live" | "connecting" | "refused", viewers: number | null) => void} show
   */
  constructor(findAddress, show) {
    this.findAddress = findAddress;
    this.show = show;
    this.pause = FIRST_PAUSE;
    this.watchdog = 0;
  }

  /** Join the room, and stay in it. */
  async join() {
    let address;
    try {
      address = await this.findAddress();
    } catch {
      this.joinLater();
      return;
    }
    this.socket = new WebSocket(address);
    this.socket.addEventListener("message", (event) => this.receive(JSON.parse(event.data)));
    this.socket.addEventListener("close", (event) => {
      clearTimeout(this.watchdog);
      if (event.code === REFUSED) this.show("refused", null);
      else this.joinLater();
    });
  }

  /** @param {{type: string, viewers: number, heartbeatSeconds?: number}} message */
  receive(message) {
    if (message.type === "joined") {
      this.heartbeat = message.heartbeatSeconds;
      this.pause = FIRST_PAUSE;
    }
    if (message.type === "ping") this.socket.send("{}");
    this.show("live", message.viewers);
    // a connection can be dead without being closed
    clearTimeout(this.watchdog);
    this.watchdog = setTimeout(() => this.socket.close(), this.heartbeat * 2500);
  }

  joinLater() {
    this.show("connecting", null);
    // at random within the pause, so that all viewers of a lost server do not come back at the same moment
    setTimeout(() => this.join(), this.pause * (0.5 + Math.random() / 2));
    this.pause = Math.min(this.pause * 2, LONGEST_PAUSE);
  }
}

const visitor = new URLSearchParams(location.search).get("visitor") ?? "visitor";
const room = new Room(
  async () => {
    const response = await fetch(`/room?visitor=${encodeURIComponent(visitor)}`, { method: "POST" });
    if (!response.ok) throw new Error(`the host responded with ${response.status}`);
    return (await response.json()).url;
  },
  (state, viewers) => {
    document.getElementById("state").textContent = state;
    document.getElementById("viewers").textContent = viewers ?? "–";
  },
);
room.join();
