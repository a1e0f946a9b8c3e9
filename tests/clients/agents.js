// An agent in a page, as the SDK's guide has it; window.client is what the test drives.

import {OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession} from "@openai/agents-realtime";

let session;
let events = [];

window.client = {
    async connect(url, key) {
        events = [];
        const agent = new RealtimeAgent({name: "Edge", instructions: "Be brief."});
        session = new RealtimeSession(agent, {transport: new OpenAIRealtimeWebRTC({baseUrl: url})});
        session.transport.on("*", (event) => events.push(event));
        session.on("error", ({error}) => console.error(String(error?.message ?? error)));
        await session.connect({apiKey: key});
        return session.transport.callId;
    },
    send: (event) => session.transport.sendEvent(event),
    interrupt: () => session.interrupt(),
    close: () => session.close(),
    status: () => session.transport.status,
    types: () => events.map((event) => event.type),
    find: (type) => events.findLast((event) => event.type === type) ?? null,
};
