// A backend for Edge in Node, with nothing but its standard library: docs/backend-protocol.md.
//
//     node samples/backend.mjs unix:/tmp/backend.sock [echo|tone]
//     node samples/backend.mjs 127.0.0.1:7000 tone
//
// "echo" says back what it hears, and sends events back. "tone" answers each session with one second of 440 Hz, and again
// after every event {"type":"tone"}. It writes "listening ADDRESS" when it is ready.
//
// A session whose connection is lost waits 10 s for another transceiver, and goes on there with what
// it has not said yet. (What waited at the transceiver is lost: edge.backends.server says it again.)
// Of events none is lost, and none is taken twice.

import net from "node:net";
import { createHash } from "node:crypto";
import { unlinkSync } from "node:fs";

const OPEN = 1, AUDIO = 2, EVENT = 3, WINDOW = 8, CLOSE = 9, PING = 10, PONG = 11;
const RESUMED = 13;
const HEADER = 9, MAX_PAYLOAD = 65536, KEEP_SECONDS = 10;
const KNOWN_EVENTS = 512, REPEAT_SECONDS = 10;

const [address = "127.0.0.1:7000", mode = "echo"] = process.argv.slice(2);

function encode(kind, session, payload = Buffer.alloc(0)) {
  const header = Buffer.alloc(HEADER);
  header.writeUInt32BE(payload.length, 0);
  header.writeUInt8(kind, 4);
  header.writeUInt32BE(session, 5);
  return Buffer.concat([header, payload]);
}

// Yields the whole frames of a connection; throws when one is too long.
async function* frames(socket) {
  let buffer = Buffer.alloc(0);
  for await (const chunk of socket) {
    buffer = Buffer.concat([buffer, chunk]);
    while (buffer.length >= HEADER) {
      const length = buffer.readUInt32BE(0);
      if (length > MAX_PAYLOAD) throw new Error("frame too long");
      if (buffer.length < HEADER + length) break;
      const payload = buffer.subarray(HEADER, HEADER + length);
      yield { kind: buffer.readUInt8(4), session: buffer.readUInt32BE(5), payload };
      buffer = buffer.subarray(HEADER + length);
    }
  }
}

// A call's events, which the transceivers count too. They tell their counts when they take it up.
class Events {
  constructor({ heard_events = 0, said_events = 0 } = {}) {
    this.received = heard_events;
    this.sent = said_events;
    this.lastSent = [];
    this.lastReceived = []; // digests
    this.awaited = []; // those of which the client may repeat
    this.owed = 0; // those that the former transceiver has passed on, and that are not here yet
  }

  send(payload) {
    this.sent++;
    this.lastSent = [...this.lastSent, payload].slice(-KNOWN_EVENTS);
  }

  // False when it came already.
  take(payload) {
    const digest = createHash("sha256").update(payload).digest("hex");
    this.received++;
    this.lastReceived = [...this.lastReceived, digest].slice(-KNOWN_EVENTS);
    const found = Date.now() > this.until ? -1 : this.awaited.indexOf(digest);
    if (found >= 0) this.awaited.splice(found, 1);
    return found < 0;
  }

  // Count as another transceiver does; returns the events that are to be sent there again.
  resume({ heard_events, said_events }) {
    if (heard_events === undefined) {
      Object.assign(this, new Events());
      return [];
    }
    const doubled = Math.min(Math.max(this.received - heard_events, 0), this.lastReceived.length);
    if (Date.now() > this.until) this.awaited = [];
    this.awaited.push(...this.lastReceived.splice(this.lastReceived.length - doubled, doubled));
    this.until = Date.now() + REPEAT_SECONDS * 1000;
    this.owed = Math.max(heard_events - this.received, 0);
    this.received = heard_events;
    const missing = Math.max(this.sent - said_events, 0);
    const again = missing ? this.lastSent.slice(-missing) : [];
    this.sent = said_events + again.length;
    return again;
  }
}

// One session: says audio as far as the window goes, and the rest when it is wider.
class Session {
  constructor(send, open) {
    this.rate = Number(open.audio.split("/")[1]);
    this.waiting = [];
    this.events = new Events(open.resumed);
    this.join(send, open);
  }

  // Begin on a connection, or go on there.
  join(send, open) {
    clearTimeout(this.timer);
    this.send = send;
    this.rank = rank(open);
    this.window = open.window_ms;
    this.said = 0; // samples
    this.speak();
  }

  // Wait for another connection.
  leave(forget) {
    this.send = undefined;
    this.timer = setTimeout(forget, KEEP_SECONDS * 1000);
  }

  tell(event) {
    this.events.send(event);
    this.send?.(EVENT, event);
  }

  // Take an event of the client's.
  heed(event) {
    if (mode === "echo") this.tell(event);
    else if (JSON.parse(event).type === "tone") this.tone();
  }

  say(pcm) {
    this.waiting.push(pcm);
    this.speak();
  }

  speak() {
    while (this.send && this.waiting.length) {
      const samples = this.waiting[0].length / 2;
      if (((this.said + samples) * 1000) / this.rate > this.window) return;
      this.said += samples;
      this.send(AUDIO, this.waiting.shift());
    }
  }

  tone(hertz = 440, seconds = 1) {
    const piece = this.rate / 50; // 20 ms
    for (let start = 0; start < seconds * this.rate; start += piece) {
      const pcm = Buffer.alloc(2 * piece);
      for (let i = 0; i < piece; i++) {
        const phase = (2 * Math.PI * hertz * (start + i)) / this.rate;
        pcm.writeInt16LE(Math.round(8000 * Math.sin(phase)), 2 * i);
      }
      this.say(pcm);
    }
  }
}

const calls = new Map(); // all sessions, by call

// The order of those who open a call: the higher epoch has it, of one epoch the later attempt.
function rank({ resumed, attempt }) {
  return (resumed?.epoch ?? 1) * 2 ** 20 + attempt;
}

function begin(sessions, send, number, open) {
  if (open.version !== 1 || (mode === "tone" && !open.audio.startsWith("pcm16/"))) {
    send(CLOSE, number, Buffer.from('{"reason":"version"}'));
    return;
  }
  const say = (kind, payload) => send(kind, number, payload);
  const known = open.resumed && calls.get(open.call);
  if (known && rank(open) <= known.rank) {
    send(CLOSE, number, Buffer.from('{"reason":"fenced"}'));
    return;
  }
  if (known) send(RESUMED, number);
  const session = known ?? new Session(say, open);
  if (known) {
    for (const event of session.events.resume(open.resumed)) say(EVENT, event);
    session.join(say, open);
    session.former = session.on;
  }
  session.on = sessions; // it is no longer on any other connection
  sessions.set(number, session);
  calls.set(open.call, session);
  session.forget = () => calls.get(open.call) === session && calls.delete(open.call);
  if (!known && mode === "tone") session.tone();
}

function take(sessions, send, { kind, session: number, payload }) {
  const session = sessions.get(number);
  if (kind === PING) {
    send(PONG, number, payload);
  } else if (kind === OPEN) {
    begin(sessions, send, number, JSON.parse(payload));
  } else if (session?.on !== sessions) { // one that we have closed, or that goes on elsewhere
    if (kind === EVENT && session?.former === sessions && session.events.owed-- > 0) session.heed(payload);
  } else if (kind === AUDIO && mode === "echo") {
    send(AUDIO, number, payload); // as fast as it comes: never ahead of the window
  } else if (kind === EVENT) {
    if (session.events.take(payload)) session.heed(payload);
  } else if (kind === WINDOW) {
    session.window = payload.readUInt32BE(0);
    session.speak();
  } else if (kind === CLOSE) {
    sessions.delete(number);
    if (payload.length && JSON.parse(payload).reason === "moved") session.leave(session.forget);
    else session.forget();
  }
}

async function serve(socket) {
  socket.setNoDelay?.(true);
  const sessions = new Map();
  const send = (kind, number, payload) => socket.write(encode(kind, number, payload));
  try {
    for await (const frame of frames(socket)) take(sessions, send, frame);
  } catch (error) {
    console.error(`connection lost: ${error.message}`);
  }
  socket.destroy();
  for (const session of sessions.values()) {
    if (session.on === sessions) session.leave(session.forget);
  }
}

const path = address.startsWith("unix:") ? address.slice(5) : undefined;
const colon = address.lastIndexOf(":");
if (path) {
  try { unlinkSync(path); } catch { /* there was none */ }
}
const server = net.createServer(serve);
const where = path ? { path } : { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
server.listen(where, () => {
  const bound = server.address();
  console.log(`listening ${path ? address : `${bound.address}:${bound.port}`}`);
});
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
