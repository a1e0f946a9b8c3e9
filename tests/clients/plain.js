// A call by hand, as a page without any package makes it; window.client is what the test drives.

let peer, channel, location, key;
let events = [];

function answered(kind) {
    return new Promise((resolve) => channel.addEventListener("message", ({data}) => {
        if (JSON.parse(data).type === kind) resolve();
    }));
}

async function ask(method, url, type, body, headers = {}) {
    headers = {...headers, "Content-Type": type, Authorization: `Bearer ${key}`};
    const response = await fetch(url, {method, headers, body});
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return response;
}

function restarted(sdp, fragment) {
    const value = (name) => fragment.match(new RegExp(`^a=${name}:.*$`, "m"))[0];
    return sdp.replaceAll(/^a=ice-ufrag:.*$/gm, value("ice-ufrag"))
        .replaceAll(/^a=ice-pwd:.*$/gm, value("ice-pwd"));
}

window.client = {
    async connect(url, secret) {
        [events, key] = [[], secret];
        peer = new RTCPeerConnection({iceServers: []});
        channel = peer.createDataChannel("oai-events");
        channel.addEventListener("message", ({data}) => events.push(JSON.parse(data)));
        peer.addEventListener("track", ({track}) => {
            const audio = new Audio();
            audio.srcObject = new MediaStream([track]);
            audio.play();
        });
        const opened = new Promise((resolve) => channel.addEventListener("open", resolve));
        const stream = await navigator.mediaDevices.getUserMedia({audio: true});
        peer.addTrack(stream.getTracks()[0], stream);
        await peer.setLocalDescription();
        const sdp = peer.localDescription.sdp;
        const response = await ask("POST", url, "application/sdp", sdp);
        location = new URL(response.headers.get("Location"), url);
        await peer.setRemoteDescription({type: "answer", sdp: await response.text()});
        await opened;
    },
    async update() {
        const updated = answered("session.updated");
        const session = {type: "realtime", instructions: "Be brief."};
        channel.send(JSON.stringify({type: "session.update", session}));
        await updated;
    },
    // Restart ICE as WHIP has it (RFC 9725, section 4.3.3).
    async restart() {
        const former = peer.remoteDescription.sdp;
        peer.restartIce();
        await peer.setLocalDescription();
        const [ufrag, password] = ["ice-ufrag", "ice-pwd"].map(
            (name) => peer.localDescription.sdp.match(new RegExp(`^a=${name}:.*$`, "m"))[0]);
        const lines = [ufrag, password, "m=audio 9 RTP/AVP 0", "a=mid:0", ""];
        const url = new URL(`/whip/${location.pathname.split("/").at(-1)}`, location);
        const response = await ask("PATCH", url, "application/trickle-ice-sdpfrag",
            lines.join("\r\n"), {"If-Match": "*"});
        const sdp = restarted(former, await response.text());
        await peer.setRemoteDescription({type: "answer", sdp});
    },
    types: () => events.map((event) => event.type),
    close: () => peer.close(),
};
