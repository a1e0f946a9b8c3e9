// The page: one button, one call at a time, and what it measures.

import { Call, INSECURE, STEPS } from "./call.js";
import { Loudness, Meter, Plot, Wave } from "./draw.js";
import { TURNS, Turns } from "./turns.js";

const MEASURE_MS = 500;
const FRAME_MS = 30;
const PLOT_POINTS = 120; // one minute

const STATES = {
  idle: "Ready",
  microphone: "Waiting for the microphone",
  connecting: "Connecting",
  connected: "Connected",
  reconnecting: "Connection interrupted",
  ended: "Call ended",
  failed: "Failed",
};
const INVITATIONS = { idle: "Talk", ended: "Talk again", failed: "Try again" };
const LIVE = ["microphone", "connecting", "connected", "reconnecting"];

const $ = (id) => document.getElementById(id);
const plots = {
  roundTripTime: new Plot($("rtt-plot"), { least: 5, size: PLOT_POINTS }),
  jitter: new Plot($("jitter-plot"), { least: 5, size: PLOT_POINTS }),
  loss: new Plot($("loss-plot"), { least: 5, size: PLOT_POINTS }),
  delay: new Plot($("delay-plot"), { least: 50, size: PLOT_POINTS }),
};
const wave = new Wave($("wave"));
const meters = {
  you: new Meter($("level-you"), $("ring-you")),
  back: new Meter($("level-back"), $("ring-back")),
};

let call = new Call();
let loudness = {};
let turns = new Turns();
let context = null;
let lastFrame = 0;

// For tests and the curious.
window.edge = {
  get state() {
    return call.state;
  },
  get setup() {
    return call.setup;
  },
  get trips() {
    return Object.fromEntries(STEPS.map((step) => [step, call.trips(step)]));
  },
  get stats() {
    return call.stats;
  },
  get turn() {
    return { now: turns.turn, interruptions: turns.interruptions };
  },
  get events() {
    return call.events;
  },
  get call() {
    return { id: call.id, ice: call.ice, dtls: call.dtls, error: call.error?.message ?? null };
  },
};

function start() {
  context ??= new AudioContext();
  context.resume();
  call = new Call($("key").value.trim());
  loudness = {};
  turns = new Turns();
  for (const plot of Object.values(plots)) plot.values = [];
  call.addEventListener("change", render);
  call.start();
}

function toggle() {
  if (LIVE.includes(call.state)) call.hangUp();
  else start();
}

function render() {
  const { state, microphone, voice } = call;
  document.body.dataset.state = state;
  if (microphone) loudness.you ??= new Loudness(context, microphone);
  if (voice && !loudness.back) {
    loudness.back = new Loudness(context, voice);
    $("voice").srcObject = voice;
  }
  if (!LIVE.includes(state)) {
    loudness = {};
    $("voice").srcObject = null;
  }
  setText("state", STATES[state]);
  $("turn").hidden = state !== "connected";
  setText("talk-label", LIVE.includes(state) ? "Hang up" : INVITATIONS[state]);
  setBadge("ice", call.ice);
  setBadge("dtls", call.dtls);
  setBadge("channel", call.channel);
  renderEvents(call.events);
  renderClock();
  setText("call-id", call.id || "–");
  showError(call.error?.message ?? "", call.error?.needsKey ?? false);
  renderSetup(call.setup);
  renderTrips();
}

function renderEvents(events) {
  const lines = events.map(({ type, count, seconds }) => {
    const line = document.createElement("li");
    const time = document.createElement("time");
    const name = document.createElement("span");
    time.textContent = `${seconds.toFixed(1)} s`;
    name.textContent = count > 1 ? `${type} × ${count}` : type;
    line.append(time, name);
    return line;
  });
  $("events").replaceChildren(...lines.reverse());
  $("no-events").hidden = events.length > 0;
}

function setText(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text; // live regions speak on every write
}

function setBadge(id, value) {
  setText(id, value);
  $(id).dataset.value = value;
}

function renderClock() {
  const { seconds } = call;
  $("clock").hidden = seconds === null;
  if (seconds !== null) setText("clock", minutes(seconds));
}

function minutes(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function showError(message, needsKey) {
  $("error").hidden = !message;
  setText("error", message);
  const form = $("key-form");
  if (needsKey && form.hidden) requestAnimationFrame(() => $("key").focus());
  form.hidden = !needsKey;
}

function renderSetup(setup) {
  // The first audio may wait for the first question: beyond the last step its bar is cut.
  const connected = Math.max(1, ...STEPS.slice(0, -1).map((step) => setup[step] ?? 0));
  const total = Math.min(Math.max(connected, setup.audio ?? 0), connected * 2);
  let begin = 0;
  for (const step of STEPS) {
    const end = setup[step];
    const row = document.querySelector(`#waterfall [data-step=${step}]`);
    const bar = row.querySelector("b");
    const from = Math.min(begin, end ?? 0, total);
    row.classList.toggle("done", end !== null);
    bar.style.left = `${(100 * from) / total}%`;
    bar.style.width = end === null ? "0" : `${(100 * (Math.min(end, total) - from)) / total}%`;
    row.querySelector(".ms").textContent = end === null ? "–" : `${format(end - from)} ms`;
    if (step !== "channel") begin = Math.max(begin, end ?? begin); // audio does not wait for it
  }
  $("setup-total").firstElementChild.textContent = format(setup.dtls);
}

function renderTrips() {
  for (const step of STEPS) {
    const shown = call.trips(step);
    const cell = document.querySelector(`#waterfall [data-step=${step}] .trips`);
    cell.textContent = shown === null ? "" : `${shown.toFixed(1)} RTT`;
  }
  $("waterfall").classList.toggle("counted", call.tellsTrips);
  setText("trips-note", tripsNote());
}

function tripsNote() {
  if (call.roundTrip === null) return "";
  const each = `${format(call.roundTrip)} ms`;
  return call.tellsTrips
    ? `RTT: round trips since the answer, of ${each} each.`
    : `A round trip takes ${each} here, less than computing: too short to count them by.`;
}

function format(value) {
  if (value == null) return "–";
  return value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

async function measure() {
  if (LIVE.includes(call.state)) {
    await call.measure();
    const { stats } = call;
    const heard = call.state === "reconnecting" ? {} : stats; // what nobody answers is not known
    for (const [name, plot] of Object.entries(plots)) plot.add(heard[name] ?? null);
    setText("rtt", format(heard.roundTripTime));
    setText("jitter", format(heard.jitter));
    setText("loss", format(heard.loss));
    setText("delay", format(heard.delay));
    setText("media", [stats.codec, stats.srtpCipher].filter(Boolean).join(", ") || "–");
    setText("sent", String(stats.packetsSent ?? "–"));
    setText("received", String(stats.packetsReceived ?? "–"));
    setText("concealed", stats.concealed == null ? "–" : `${stats.concealed.toFixed(2)} s`);
    setText("sent-quality", sentQuality(heard));
    setText("interruptions", String(turns.interruptions));
  }
  renderClock();
  if (atRest()) wave.draw(performance.now());
  for (const plot of Object.values(plots)) plot.draw();
  for (const meter of Object.values(meters)) meter.announce();
}

// What the edge reports of our voice.
function sentQuality({ sentLoss, sentJitter }) {
  if (sentLoss == null) return "–";
  return `${format(sentLoss)} % lost, jitter ${format(sentJitter)} ms`;
}

// Nothing moves: no call, and the last one's sound has run out of the wave.
function atRest() {
  return !LIVE.includes(call.state) && wave.isQuiet;
}

function frame(now) {
  requestAnimationFrame(frame);
  if (now - lastFrame < FRAME_MS || atRest()) return;
  lastFrame = now;
  const [you, back] = [loudness.you?.read() ?? 0, loudness.back?.read() ?? 0];
  meters.you.show(you);
  meters.back.show(back);
  turns.add(now, you, back);
  setText("turn", TURNS[turns.turn]);
  $("turn").dataset.turn = turns.turn;
  wave.add(now, you, back);
  wave.draw(now);
}

$("talk").addEventListener("click", toggle);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
window.addEventListener("pagehide", () => {
  if (LIVE.includes(call.state)) call.hangUp();
});

if (!window.isSecureContext) {
  $("talk").disabled = true;
  showError(INSECURE, false);
}
renderSetup(call.setup);
setInterval(measure, MEASURE_MS);
measure();
requestAnimationFrame(frame);
