// A publisher in a page; window.client is what the test drives.

import {WHIPClient} from "@eyevinn/whip-web-client";

let client;

window.client = {
    async connect(url, key) {
        client = new WHIPClient({endpoint: url, opts: {authkey: key, iceServers: []}});
        // With audio alone it trickles nothing: it takes the mid 0 for none.
        const media = {audio: true, video: true};
        await client.ingest(await navigator.mediaDevices.getUserMedia(media));
        return client.getResourceUrl();
    },
    links: () => client.getResourceExtensions(),
    trickles: () => client.supportTrickleIce(),
    close: () => client.destroy(),
};
