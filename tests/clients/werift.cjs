// One call of werift: node werift.cjs URL SECONDS; goes on for so long once it is up, and prints one
// line of JSON. The tone is any bytes: an echo does not decode.

const {
    MediaStreamTrack, RTCPeerConnection, RTCRtpCodecParameters, RtpHeader, RtpPacket,
} = require("werift");

const {sleep, until} = require("./waiting.cjs");

const [url, seconds] = process.argv.slice(2);
const FRAME_MS = 20;
const OPUS = new RTCRtpCodecParameters(
    {mimeType: "audio/opus", clockRate: 48000, channels: 2, payloadType: 111});
const LOOPBACK = {
    iceServers: [], iceUseIpv6: false, iceAdditionalHostAddresses: ["127.0.0.1"],
    iceInterfaceAddresses: {udp4: "127.0.0.1"}, codecs: {audio: [OPUS], video: []},
};

const report = {connected: 0, opened: 0, sent: 0, received: 0, events: []};
const now = () => (performance.timeOrigin + performance.now()) / 1000;

function speak(track) {
    const begin = {sequenceNumber: 1, timestamp: 1000, payloadType: 111, ssrc: 4711};
    setInterval(() => {
        const header = new RtpHeader({
            ...begin,
            sequenceNumber: begin.sequenceNumber + report.sent,
            timestamp: begin.timestamp + report.sent * 48 * FRAME_MS,
        });
        track.writeRtp(new RtpPacket(header, Buffer.from("\xfcan opus frame", "latin1")));
        report.sent += 1;
    }, FRAME_MS);
}

function converse(channel) {
    channel.onopen = () => {
        report.opened = now();
        const session = {type: "realtime", instructions: "Be brief."};
        channel.send(JSON.stringify({type: "session.update", session}));
    };
    channel.onmessage = ({data}) => report.events.push(JSON.parse(data).type);
}

async function main() {
    const peer = new RTCPeerConnection(LOOPBACK);
    const track = new MediaStreamTrack({kind: "audio"});
    const audio = peer.addTransceiver(track, {direction: "sendrecv"});
    converse(peer.createDataChannel("oai-events"));
    audio.onTrack.subscribe((heard) =>
        heard.onReceiveRtp.subscribe(() => { report.received += 1; }));
    peer.connectionStateChange.subscribe((state) => {
        if (state !== "connected" || report.connected) return;
        report.connected = now();
        speak(track);
    });
    await peer.setLocalDescription(await peer.createOffer());
    report.posted = now();
    const headers = {"Content-Type": "application/sdp"};
    const body = peer.localDescription.sdp;
    const response = await fetch(`${url}/v1/realtime/calls`, {method: "POST", headers, body});
    if (response.status !== 201) throw new Error(await response.text());
    await peer.setRemoteDescription({type: "answer", sdp: await response.text()});
    await until(() => report.connected && report.events.length > 1);
    await sleep(seconds);
    await peer.close();
    console.log(JSON.stringify(report));
    process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
