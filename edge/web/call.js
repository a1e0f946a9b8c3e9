// One call: microphone, offer, answer, states and statistics. Knows nothing of the page.

const CALLS = "/v1/realtime/calls";
const AUDIO_POLL_MS = 10;
const CLOCK_RATE = 48000; // of decoded samples in getStats()

// The setup's steps in order; each is reached at so many milliseconds after the microphone opened.
export const STEPS = ["offer", "answer", "ice", "dtls", "channel", "audio"];

// Shorter round trips are hidden by the browser's own computing: time does not tell their number.
const LEAST_ROUND_TRIP_MS = 20;

const EVENTS_LABEL = "oai-events";
const MOST_EVENTS = 50; // kept for the page

export class CallError extends Error {
  constructor(message, { needsKey = false } = {}) {
    super(message);
    this.needsKey = needsKey;
  }
}

// Fires "change" whenever a field has changed.
export class Call extends EventTarget {
  state = "idle"; // idle, microphone, connecting, connected, reconnecting, ended, failed
  id = "";
  ice = "new";
  dtls = "new";
  channel = "new";
  events = []; // of the edge, the oldest first: {type, count, seconds}, equal neighbours counted
  setup = Object.fromEntries(STEPS.map((step) => [step, null]));
  stats = {};
  roundTrip = null; // the shortest that was measured, in milliseconds
  error = null;
  microphone = null;
  voice = null;

  #key = "";
  #peer = null;
  #began = 0;
  #connectedAt = null;
  #endedAt = null;
  #over = false;

  constructor(key = "") {
    super();
    this.#key = key;
  }

  async start() {
    try {
      await this.#connect();
    } catch (error) {
      if (!this.#over) this.#end("failed", error);
    }
  }

  // How long it has been connected, or was; null while it never was.
  get seconds() {
    if (this.#connectedAt === null) return null;
    return ((this.#endedAt ?? performance.now()) - this.#connectedAt) / 1000;
  }

  // Round trips from the answer, with which UDP begins, to a step; null where they can not be told.
  trips(step) {
    const { [step]: reached, answer } = this.setup;
    if (reached === null || answer === null || reached <= answer || !this.tellsTrips) return null;
    return (reached - answer) / this.roundTrip;
  }

  get tellsTrips() {
    return this.roundTrip >= LEAST_ROUND_TRIP_MS;
  }

  hangUp() {
    if (!this.#over) this.#end("ended");
  }

  async #connect() {
    this.#change({ state: "microphone" });
    const microphone = await openMicrophone();
    if (this.#over) return stopTracks(microphone);
    this.microphone = microphone;
    this.#began = performance.now();
    this.#change({ state: "connecting" });

    const peer = (this.#peer = new RTCPeerConnection()); // the answer names the relay: no STUN server
    // As OpenAI's client does, before the track is added.
    this.#followChannel(peer.createDataChannel(EVENTS_LABEL));
    const sender = peer.addTrack(microphone.getAudioTracks()[0], microphone);
    this.#follow(peer);
    await peer.setLocalDescription();
    if (this.#over) return;
    this.#followDtls(sender.transport);
    this.#reach("offer");

    const answer = await this.#post(peer.localDescription.sdp);
    if (this.#over) return; // #post has hung up already
    this.#reach("answer");
    await peer.setRemoteDescription({ type: "answer", sdp: answer });
    this.#followDtls(sender.transport);
  }

  #follow(peer) {
    peer.ontrack = ({ receiver, streams, track }) => {
      this.#change({ voice: streams[0] ?? new MediaStream([track]) });
      this.#awaitAudio(receiver);
    };
    peer.oniceconnectionstatechange = () => {
      this.#change({ ice: peer.iceConnectionState });
      if (["connected", "completed"].includes(this.ice)) this.#reach("ice");
    };
    peer.onconnectionstatechange = () => this.#onConnection(peer.connectionState);
  }

  #followDtls(transport) {
    if (!transport || transport.onstatechange) return;
    transport.onstatechange = () => {
      this.#change({ dtls: transport.state });
      if (this.dtls === "connected") this.#reach("dtls");
      if (this.dtls === "closed" && !this.#over) this.#end("ended");
    };
  }

  #followChannel(channel) {
    this.#change({ channel: channel.readyState });
    channel.onopen = () => {
      this.#reach("channel");
      this.#change({ channel: channel.readyState });
    };
    channel.onclose = () => this.#change({ channel: channel.readyState });
    channel.onmessage = ({ data }) => this.#noteEvent(data);
  }

  #noteEvent(data) {
    const type = typeOf(data);
    const last = this.events.at(-1);
    if (last?.type === type) last.count++;
    else this.events.push({ type, count: 1, seconds: this.seconds ?? 0 });
    this.events.splice(0, this.events.length - MOST_EVENTS);
    this.#change({});
  }

  #onConnection(state) {
    if (this.#over) return;
    if (state === "connected") {
      this.#connectedAt ??= performance.now();
      this.#reach("dtls"); // where the transport's own event is missing
      this.#change({ state: "connected" });
    } else if (state === "disconnected") {
      this.#change({ state: "reconnecting" });
    } else if (state === "failed") {
      this.#end("failed", new CallError(lostBecause(this.setup, this.dtls)));
    }
  }

  async #awaitAudio(receiver) {
    while (!this.#over && this.setup.audio === null) {
      if (receiver.getSynchronizationSources().length > 0) this.#reach("audio");
      await new Promise((resolve) => setTimeout(resolve, AUDIO_POLL_MS));
    }
  }

  async #post(sdp) {
    const headers = { "Content-Type": "application/sdp", ...this.#authorization() };
    let response;
    try {
      response = await fetch(CALLS, { method: "POST", headers, body: sdp });
    } catch {
      throw new CallError("The server can not be reached. Is it still running?");
    }
    if (!response.ok) throw await refusal(response, Boolean(this.#key));
    this.#change({ id: (response.headers.get("Location") ?? "").split("/").pop() });
    if (this.#over) this.#postHangUp();
    return response.text();
  }

  #postHangUp() {
    const url = `${CALLS}/${encodeURIComponent(this.id)}/hangup`;
    fetch(url, { method: "POST", headers: this.#authorization(), keepalive: true }).catch(() => {});
  }

  #authorization() {
    return this.#key ? { Authorization: `Bearer ${this.#key}` } : {};
  }

  #reach(step) {
    if (this.setup[step] !== null) return;
    this.setup[step] = performance.now() - this.#began;
    this.#change({});
  }

  #end(state, error = null) {
    this.#over = true;
    this.#endedAt = performance.now();
    if (this.id) this.#postHangUp();
    this.#peer?.close();
    if (this.microphone) stopTracks(this.microphone);
    const dtls = this.dtls === "new" ? "new" : "closed";
    const channel = this.channel === "new" ? "new" : "closed";
    this.#change({ state, error, dtls, channel, ice: this.#peer ? "closed" : "new" });
  }

  #change(fields) {
    Object.assign(this, fields);
    this.dispatchEvent(new Event("change"));
  }

  // Read getStats() into `stats`; times in milliseconds, loss in percent since the last reading.
  async measure() {
    if (!this.#peer || this.#over) return;
    const reports = [...(await this.#peer.getStats()).values()];
    if (this.#over) return;
    this.stats = summary(reports, this.stats);
    this.#noteRoundTrip(this.stats.pathRoundTripTime);
  }

  #noteRoundTrip(milliseconds) {
    if (milliseconds === null || milliseconds >= (this.roundTrip ?? Infinity)) return;
    this.roundTrip = milliseconds;
    this.#change({});
  }
}

function typeOf(data) {
  try {
    return String(JSON.parse(data).type ?? "?").slice(0, 80);
  } catch {
    return "?";
  }
}

async function openMicrophone() {
  if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) {
    throw new CallError(INSECURE);
  }
  try {
    return await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    throw new CallError(MICROPHONE_ERRORS[error.name] ?? `The microphone failed: ${error.message}`);
  }
}

export const INSECURE =
  "Browsers open the microphone on secure pages only. Use https (start the edge with " +
  "--tls self-signed) or, on the same machine, http://localhost.";

const MICROPHONE_ERRORS = {
  NotFoundError: "No microphone was found. Plug one in and try again.",
  NotAllowedError: "The microphone is blocked. Allow it beside the page's address and try again.",
  NotReadableError: "The microphone is in use by another program, or can not be opened.",
};

async function refusal(response, hadKey) {
  const { status } = response;
  if (status === 401 || status === 403) {
    const message = hadKey ? "This API key was not accepted." : "This edge asks for an API key.";
    return new CallError(message, { needsKey: true });
  }
  if (status === 429 || status === 503) {
    const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
    const when = seconds > 0 ? `in ${seconds}\u00a0s` : "in a moment";
    return new CallError(`The edge takes no more calls right now. Try again ${when}.`);
  }
  return new CallError(`The edge refused the call (${status}). ${await reason(response)}`.trim());
}

// Problem JSON, or OpenAI's error object.
async function reason(response) {
  try {
    const body = await response.json();
    return String(body.detail ?? body.error?.message ?? body.title ?? "").slice(0, 300);
  } catch {
    return "";
  }
}

function lostBecause(setup, dtls) {
  if (setup.ice === null) {
    return "No way to the relay: no answer on its UDP port. A firewall, or a wrong --advertise?";
  }
  return dtls === "connected"
    ? "The connection was lost: the relay no longer answers."
    : "The relay answers, but the encrypted connection (DTLS) did not come up.";
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function summary(reports, before) {
  const find = (type, test = () => true) => reports.find((r) => r.type === type && test(r)) ?? {};
  const audio = (report) => report.kind === "audio";
  const inbound = find("inbound-rtp", audio);
  const outbound = find("outbound-rtp", audio);
  const remote = find("remote-inbound-rtp", audio);
  const transport = find("transport");
  const pair = find("candidate-pair", (r) => r.id === transport.selectedCandidatePairId || r.selected);
  const codec = find("codec", (r) => r.id === (inbound.codecId ?? outbound.codecId));
  const received = inbound.packetsReceived ?? 0;
  const lost = inbound.packetsLost ?? 0;
  return {
    packetsSent: outbound.packetsSent ?? 0,
    packetsReceived: received,
    packetsLost: lost,
    roundTripTime: milliseconds(remote.roundTripTime ?? pair.currentRoundTripTime),
    pathRoundTripTime: pathRoundTrip(pair),
    jitter: milliseconds(inbound.jitter),
    loss: lossPercent(received, lost, before),
    sentJitter: milliseconds(remote.jitter),
    sentLoss: remote.fractionLost === undefined ? null : remote.fractionLost * 100,
    delay: bufferDelay(inbound, before),
    bufferSeconds: inbound.jitterBufferDelay ?? 0,
    bufferSamples: inbound.jitterBufferEmittedCount ?? 0,
    concealed: madeUp(inbound) / CLOCK_RATE,
    totalAudioEnergy: inbound.totalAudioEnergy ?? 0,
    totalSamplesReceived: inbound.totalSamplesReceived ?? 0,
    concealedSamples: inbound.concealedSamples ?? 0,
    codec: codec.mimeType?.replace("audio/", "").replace("opus", "Opus") ?? "",
    srtpCipher: transport.srtpCipher?.replace("SRTP_", "") ?? "",
  };
}

// Of a check, which waits for nothing; the first one's comes while much else is set up.
function pathRoundTrip({ currentRoundTripTime, responsesReceived = 0 }) {
  return responsesReceived > 1 ? milliseconds(currentRoundTripTime) : null;
}

function milliseconds(seconds) {
  return seconds === undefined ? null : seconds * 1000;
}

// Silence that was made up while nobody spoke is no harm.
function madeUp({ concealedSamples = 0, silentConcealedSamples = 0 }) {
  return concealedSamples - silentConcealedSamples;
}

// What one sample waited in the jitter buffer since the last reading, on average.
function bufferDelay(inbound, before) {
  const samples = (inbound.jitterBufferEmittedCount ?? 0) - (before.bufferSamples ?? 0);
  if (samples <= 0) return null;
  return (1000 * (inbound.jitterBufferDelay - (before.bufferSeconds ?? 0))) / samples;
}

function lossPercent(received, lost, before) {
  const newLost = Math.max(0, lost - (before.packetsLost ?? 0));
  const expected = received - (before.packetsReceived ?? 0) + newLost;
  return expected > 0 ? (100 * newLost) / expected : null;
}
