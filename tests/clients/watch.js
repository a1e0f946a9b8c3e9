// When a page's calls come to what, in seconds of the clock that all processes share.

(() => {
    const now = () => (performance.timeOrigin + performance.now()) / 1000;
    const calls = [];
    window.watched = calls;

    const fetchIt = window.fetch;
    window.fetch = (input, options) => {
        const call = calls.at(-1);
        const method = options?.method ?? input.method;
        if (call && method === "POST") call.posted ??= now();
        return fetchIt(input, options);
    };

    function watchChannel(call, channel) {
        channel.addEventListener("open", () => { call.opened ??= now(); });
        return channel;
    }

    window.RTCPeerConnection = new Proxy(window.RTCPeerConnection, {
        construct(target, args) {
            const peer = new target(...args);
            const call = {peer, posted: null, connected: null, opened: null};
            calls.push(call);
            peer.addEventListener("connectionstatechange", () => {
                if (peer.connectionState === "connected") call.connected ??= now();
            });
            const create = peer.createDataChannel.bind(peer);
            peer.createDataChannel = (...all) => watchChannel(call, create(...all));
            return peer;
        },
    });

    // The last call: its times, and what getStats() counts.
    window.lookAtCall = async () => {
        const {peer, posted, connected, opened} = calls.at(-1);
        const all = [...(await peer.getStats()).values()];
        const audio = (type) => all.filter((item) => item.type === type && item.kind === "audio");
        const sum = (items, field) => items.reduce((total, item) => total + (item[field] ?? 0), 0);
        return {
            state: peer.connectionState, posted, connected, opened,
            sent: sum(audio("outbound-rtp"), "packetsSent"),
            received: sum(audio("inbound-rtp"), "packetsReceived"),
            energy: sum(audio("inbound-rtp"), "totalAudioEnergy"),
        };
    };
})();
