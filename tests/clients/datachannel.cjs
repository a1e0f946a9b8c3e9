// One call of libdatachannel, by node-datachannel: node datachannel.cjs URL SECONDS; goes on for so
// long once it is up, and prints one line of JSON.

const {Audio, PeerConnection} = require("node-datachannel");

const {sleep, until} = require("./waiting.cjs");

const [url, seconds] = process.argv.slice(2);
const FRAME_MS = 20;
const SSRC = 4711;

const report = {connected: 0, opened: 0, sent: 0, received: 0, events: []};
const now = () => (performance.timeOrigin + performance.now()) / 1000;

function rtp(number) {
    const packet = Buffer.from("\0".repeat(12) + "\xfcan opus frame", "latin1");
    packet.writeUInt16BE(0x8000 | 111, 0);
    packet.writeUInt16BE(1 + number, 2);
    packet.writeUInt32BE(1000 + number * 48 * FRAME_MS, 4);
    packet.writeUInt32BE(SSRC, 8);
    return packet;
}

function addAudio(peer) {
    const audio = new Audio("0", "SendRecv");
    audio.addOpusCodec(111);
    audio.addSSRC(SSRC, "caller");
    const track = peer.addTrack(audio);
    track.onMessage((packet) => { report.received += (packet[1] & 0x7f) === 111; });
    track.onOpen(() => setInterval(() => {
        if (!track.isOpen()) return;
        track.sendMessageBinary(rtp(report.sent));
        report.sent += 1;
    }, FRAME_MS));
    return track;
}

function converse(channel) {
    channel.onOpen(() => {
        report.opened = now();
        const session = {type: "realtime", instructions: "Be brief."};
        channel.sendMessage(JSON.stringify({type: "session.update", session}));
    });
    channel.onMessage((data) => report.events.push(JSON.parse(data).type));
    return channel;
}

function offered(peer) {
    return new Promise((resolve) => peer.onGatheringStateChange((state) => {
        if (state === "complete") resolve(peer.localDescription().sdp);
    }));
}

async function main() {
    const options = {iceServers: [], bindAddress: "127.0.0.1", disableAutoNegotiation: true};
    const peer = new PeerConnection("caller", options);
    peer.onStateChange((state) => { if (state === "connected") report.connected = now(); });
    const held = [addAudio(peer), converse(peer.createDataChannel("oai-events"))];
    const offer = offered(peer);
    peer.setLocalDescription("offer");
    const body = await offer;
    report.posted = now();
    const headers = {"Content-Type": "application/sdp"};
    const response = await fetch(`${url}/v1/realtime/calls`, {method: "POST", headers, body});
    if (response.status !== 201) throw new Error(`${await response.text()} ${body}`);
    peer.setRemoteDescription(await response.text(), "answer");
    await until(() => report.connected && report.events.length > 1);
    await sleep(seconds);
    held.forEach((each) => each.close());
    peer.close();
    console.log(JSON.stringify(report));
    setTimeout(() => process.exit(0), 200);
}

main().catch((error) => { console.error(error); process.exit(1); });
