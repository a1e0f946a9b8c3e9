// Calls that differ in their offers; window.variants is what tests/browser/variants.py drives.

(() => {
    const calls = [];

    async function microphone() {
        return (await navigator.mediaDevices.getUserMedia({audio: true})).getAudioTracks()[0];
    }

    async function addAudio(peer, {direction, codec}) {
        const source = direction === "recvonly" ? "audio" : await microphone();
        const transceiver = peer.addTransceiver(source, {direction});
        if (codec) {
            const known = RTCRtpReceiver.getCapabilities("audio").codecs;
            transceiver.setCodecPreferences(
                known.filter((each) => each.mimeType.toLowerCase() === `audio/${codec}`));
        }
        return transceiver;
    }

    const ADD = {
        audio: addAudio,
        video: (peer) => peer.addTransceiver("video"),
        channel: (peer) => peer.createDataChannel("oai-events"),
        // A first description fixes the order: later sections come after these.
        described: (peer) => peer.setLocalDescription(),
    };

    async function post(sdp) {
        const response = await fetch("/v1/realtime/calls",
            {method: "POST", headers: {"Content-Type": "application/sdp"}, body: sdp});
        const text = await response.text();
        if (response.status !== 201) throw new Error(`${response.status} ${text}`);
        return text;
    }

    function connected(peer) {
        return new Promise((resolve, reject) => {
            const look = () => {
                if (peer.connectionState === "connected") resolve();
                if (["failed", "closed"].includes(peer.connectionState)) reject(
                    new Error(`connection ${peer.connectionState}`));
            };
            peer.addEventListener("connectionstatechange", look);
            look();
        });
    }

    async function offer(variant) {
        const peer = new RTCPeerConnection({iceServers: [], bundlePolicy: variant.bundle});
        const call = {peer, audio: null, milliseconds: null};
        calls.push(call);
        for (const part of variant.parts) {
            const added = await ADD[part](peer, variant);
            if (part === "audio") call.audio = added;
            if (part === "channel") call.channel = added;
        }
        await peer.setLocalDescription();
        // What is sent may name one role only; the local description has to say actpass.
        const sdp = peer.localDescription.sdp.replaceAll("setup:actpass", `setup:${variant.setup}`);
        return [call, sdp];
    }

    // Make a call and wait until it is connected.
    async function place(variant) {
        const [call, sdp] = await offer(variant);
        const start = performance.now();
        const answer = await post(sdp);
        await call.peer.setRemoteDescription({type: "answer", sdp: answer});
        await connected(call.peer);
        call.milliseconds = performance.now() - start;
        return calls.length - 1;
    }

    // Have a call answered and go away before the answer is applied.
    async function abandon(variant) {
        const [call, sdp] = await offer(variant);
        await post(sdp);
        call.peer.close();
    }

    async function statistics(index) {
        const {peer, channel, milliseconds} = calls[index];
        const all = [...(await peer.getStats()).values()];
        const sum = (type, field) => all.filter((item) => item.type === type)
            .reduce((total, item) => total + (item[field] ?? 0), 0);
        const transport = all.find((item) => item.type === "transport") ?? {};
        return {
            state: peer.connectionState,
            milliseconds,
            sent: sum("outbound-rtp", "packetsSent"),
            received: sum("inbound-rtp", "packetsReceived"),
            codec: all.find((item) => item.type === "codec")?.mimeType.split("/")[1] ?? "",
            srtp: transport.srtpCipher ?? "",
            role: transport.dtlsRole ?? "",
            channel: channel?.readyState ?? "",
        };
    }

    window.variants = {
        place, abandon, statistics,
        mute: (index, muted) => { calls[index].audio.sender.track.enabled = !muted; },
        detach: async (index) => {
            calls[index].track = calls[index].audio.sender.track;
            await calls[index].audio.sender.replaceTrack(null);
        },
        attach: (index) => calls[index].audio.sender.replaceTrack(calls[index].track),
        hangUp: (index) => calls[index].peer.close(),
    };
})();
