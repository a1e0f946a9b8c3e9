// A Pipecat client in a page; window.client is what the test drives.

import {PipecatClient} from "@pipecat-ai/client-js";
import {SmallWebRTCTransport, WavMediaManager} from "@pipecat-ai/small-webrtc-transport";

let client;
let messages = [];

function play(track) {
    const audio = new Audio();
    audio.srcObject = new MediaStream([track]);
    audio.play();
}

window.client = {
    async connect(url, key) {
        messages = [];
        // The default media manager would load a script from the network.
        const transport = new SmallWebRTCTransport({mediaManager: new WavMediaManager()});
        const callbacks = {
            onServerMessage: (message) => messages.push(message),
            onTrackStarted: (track) => play(track),
        };
        client = new PipecatClient({transport, enableMic: true, callbacks});
        const headers = new Headers({Authorization: `Bearer ${key}`});
        await client.connect({webrtcRequestParams: {endpoint: url, headers}});
    },
    send: (message) => client.sendClientMessage("asked", message),
    state: () => client.state,
    messages: () => messages,
    close: () => client.disconnect(),
};
