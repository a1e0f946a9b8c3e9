// Calls with a data channel; window.channels is what tests/browser/test_channels.py drives.

(() => {
    const calls = [];
    const MOST = 32;  // events on their way: half of what a backend's queue holds

    async function post(sdp) {
        const response = await fetch("/v1/realtime/calls",
            {method: "POST", headers: {"Content-Type": "application/sdp"}, body: sdp});
        const text = await response.text();
        if (response.status !== 201) throw new Error(`${response.status} ${text}`);
        return {answer: text, id: response.headers.get("Location").split("/").pop()};
    }

    // As OpenAI's client does: the channel is made before the track is added.
    async function place(label) {
        const peer = new RTCPeerConnection({iceServers: []});
        const channel = peer.createDataChannel(label);
        const call = {peer, channel, said: [], states: [], openedAt: null};
        calls.push(call);
        channel.onopen = () => {
            call.openedAt = Date.now();
            call.states.push("open");
        };
        channel.onclose = () => call.states.push("closed");
        channel.onmessage = ({data}) => call.said.push(data);
        const [track] = (await navigator.mediaDevices.getUserMedia({audio: true})).getAudioTracks();
        peer.addTrack(track);
        await peer.setLocalDescription();
        const {answer, id} = await post(peer.localDescription.sdp);
        Object.assign(call, {id, offer: peer.localDescription.sdp, answer});
        await peer.setRemoteDescription({type: "answer", sdp: answer});
        return calls.length - 1;
    }

    // So many numbered events; one of them is long.
    async function say(index, count, long, bytes) {
        const {channel, said} = calls[index];
        const before = said.length;
        for (let number = 0; number < count; number++) {
            const text = number === long ? "x".repeat(bytes) : "";
            channel.send(JSON.stringify({type: "note", number, text}));
            while (number - (said.length - before) >= MOST) {
                await new Promise((resolve) => setTimeout(resolve, 10));
            }
        }
    }

    function look(index) {
        const {id, peer, channel, said, states, openedAt, offer, answer} = calls[index];
        const text = said.filter((each) => typeof each === "string");
        const snap = (sdp) => sdp.includes("a=sctp-init:");
        return {
            id, states, openedAt,
            connection: peer.connectionState,
            messages: text.map((each) => each.startsWith("{") ? JSON.parse(each).type : each),
            notes: text.map((each) => each.startsWith("{") ? JSON.parse(each) : {})
                .filter((each) => each.type === "note")
                .map((each) => [each.number, each.text.length]),
            offered: snap(offer),
            answered: snap(answer),
        };
    }

    window.channels = {
        place, say, look,
        send: (index, text) => calls[index].channel.send(text),
        closeChannel: (index) => calls[index].channel.close(),
        hangUp: (index) => calls[index].peer.close(),
    };
})();
