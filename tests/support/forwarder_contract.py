"""The contract of a forwarder as test bodies: each opens a rig and says what must come out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

from edge.address import Address
from edge.datagram import Datagrams
from edge.errors import Drop
from edge.forwarder.protocol import (
    FIRST_PEER,
    KNOWN_QUEUE,
    MAX_DATAGRAM,
    MAX_PAYLOAD,
    RAISED_BATCH,
    STRANGER_QUEUE,
    FlowEntry,
    Raised,
)
from edge.registry.protocol import MAX_SLOT
from edge.wire.spp import encode_give, encode_path
from tests.support.forwarder_rig import (
    ASKED,
    CARRYING_SUCCESS,
    DTLS,
    ERROR,
    INDICATION,
    NOISE,
    REQUEST,
    RTP,
    SUCCESS,
    UNASKED,
    UNSOUND,
    OpenRig,
    Rig,
    stun,
)
from tests.support.net import receive, silence

# From clients.


async def what_no_client_sends_is_malformed(open_rig: OpenRig) -> None:
    wrong = [b"", RTP.ljust(MAX_PAYLOAD + 1), RTP.ljust(MAX_DATAGRAM + 1), RTP.ljust(5_000)]
    wrong += [*UNSOUND, *UNASKED, encode_give(3), encode_give(4)]
    async with open_rig() as rig:
        rig.transceiver(3)
        for datagram in wrong:
            assert rig.client.send(datagram, rig.public)
        await rig.counts(drops={Drop.MALFORMED: len(wrong)})
        rig.flow(3)
        for datagram in wrong:
            assert rig.client.send(datagram, rig.public)
        await rig.counts(drops={Drop.MALFORMED: 2 * len(wrong)})
        assert await rig.nothing_raised()


async def our_own_address_is_no_client(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        rig.transceiver(3)
        ourselves = encode_path(rig.public, rig.public)
        rig.flow(3, path=ourselves)
        assert rig.forwarder.deliver(ourselves, RTP)
        assert rig.forwarder.deliver(ourselves, REQUEST)
        await rig.counts(outwards=[RTP, REQUEST], drops={Drop.MALFORMED: 2})
        assert await rig.nothing_raised()


async def requests_with_a_name_are_raised(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner = rig.transceiver(3)
        for known in (False, True):
            for datagram in ASKED:
                rig.client.send(datagram, rig.public)
            raised = await rig.raised(len(ASKED))
            assert raised == [Raised(rig.path, datagram, 0) for datagram in ASKED]
            assert all(type(one.path) is type(one.payload) is bytes for one in raised)
            if not known:
                rig.flow(3)
        await rig.counts()
        assert await silence(owner, seconds=0.02)


async def a_flow_leads_to_its_owner(open_rig: OpenRig) -> None:
    sent = [RTP, DTLS, INDICATION, SUCCESS, CARRYING_SUCCESS, ERROR, NOISE, b"\x80"]
    sent.append(RTP.ljust(MAX_PAYLOAD))
    async with open_rig() as rig:
        owner, other = rig.transceiver(3), rig.transceiver(4)
        rig.flow(3)
        for datagram in sent:
            rig.client.send(datagram, rig.public)
        assert await receive(owner, len(sent)) == [rig.path + datagram for datagram in sent]
        await rig.counts(inwards=sent)
        assert await silence(other, seconds=0.02)
        assert await rig.nothing_raised()
        assert rig.stale == 0


async def each_client_has_its_own_flow(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owners = [rig.transceiver(hop) for hop in (1, 2, 3)]
        clients = [rig.socket() for _ in owners]
        paths = [encode_path(client.address, rig.public) for client in clients]
        for hop, path in enumerate(paths, 1):
            rig.flow(hop, path=path)
        for client in clients:
            client.send(RTP, rig.public)
        for owner, path in zip(owners, paths, strict=True):
            assert await receive(owner) == [path + RTP]
        await rig.counts(inwards=[RTP] * 3)


async def a_challenger_hears_too(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner, challenger = rig.transceiver(3), rig.transceiver(4)
        rig.flow(3, 4)
        rig.client.send(RTP, rig.public)
        assert await receive(owner) == await receive(challenger) == [rig.path + RTP]
        await rig.counts(inwards=[RTP, RTP])


async def hops_that_are_not_there_are_counted_each(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        rig.flow(3, 4)
        rig.client.send(RTP, rig.public)
        await rig.counts(drops={Drop.UNKNOWN_SLOT: 2})
        challenger = rig.transceiver(4)
        rig.client.send(RTP, rig.public)
        assert await receive(challenger) == [rig.path + RTP]
        await rig.counts(inwards=[RTP], drops={Drop.UNKNOWN_SLOT: 3})
        assert rig.stale >= 1


async def a_stranger_is_raised_if_it_may_be_a_client(open_rig: OpenRig) -> None:
    sent = [RTP, DTLS, INDICATION, SUCCESS, ERROR, b"\x80", RTP.ljust(MAX_PAYLOAD)]
    unknown = [NOISE, b"\x04", b"\x13", b"\x40", b"\x7f", b"\xc0", b"\xff" + RTP]
    async with open_rig() as rig:
        for datagram in [*sent, *unknown]:
            rig.client.send(datagram, rig.public)
        assert await rig.raised(len(sent)) == [Raised(rig.path, one, 0) for one in sent]
        await rig.counts(drops={Drop.UNKNOWN_KIND: len(unknown)})
        assert await rig.nothing_raised()


# From transceivers.


async def only_hops_send_from_inside(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stranger = rig.socket()
        rig.flow(3)
        for datagram in (rig.path + RTP, b"", RTP):
            stranger.send(datagram, rig.internal)
        await rig.counts(drops={Drop.UNKNOWN_SLOT: 3})
        assert rig.stale >= 1
        assert await silence(rig.client, seconds=0.02)


async def what_has_no_header_is_malformed(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner = rig.transceiver(3)
        rig.flow(3)
        wrong = [b"", rig.path[:37], b"\x56\xed" + rig.path[2:] + RTP, RTP.ljust(100)]
        wrong += [rig.path + RTP.ljust(MAX_PAYLOAD + 1), rig.path + RTP.ljust(5_000)]
        wrong += [rig.path + datagram for datagram in UNSOUND]
        for datagram in wrong:
            owner.send(datagram, rig.internal)
        await rig.counts(drops={Drop.MALFORMED: len(wrong)})
        assert await rig.nothing_raised()


async def an_unknown_proxy_is_refused(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner = rig.transceiver(3)
        host, port = rig.public
        far = ("2001:db8::1", port), ("192.0.2.1", port), (host, port ^ 1)
        for proxy in far:
            path = encode_path(rig.client.address, proxy)
            rig.flow(3, path=path)
            for payload in (RTP, b"", SUCCESS):
                owner.send_framed(path, payload, rig.internal)
        await rig.counts(drops={Drop.UNKNOWN_RELAY: 3 * len(far)})
        assert await rig.nothing_raised()


async def answers_and_goodbyes_are_raised(open_rig: OpenRig) -> None:
    sent = [b"", SUCCESS, CARRYING_SUCCESS, ERROR, stun(0x0103)]
    sent += [encode_give(1), encode_give(MAX_SLOT)]
    unlike = [bytes(4), b"\x01\x00\x00\x03", encode_give(3)[:3], encode_give(3) + b"\x00"]
    async with open_rig() as rig:
        sender = rig.transceiver(4)
        for _ in range(2):  # without a flow, and with one that is somebody else's
            for payload in sent + unlike:
                sender.send_framed(rig.path, payload, rig.internal)
            raised = await rig.raised(len(sent))
            assert raised == [Raised(rig.path, payload, 4) for payload in sent]
            rig.flow(3)
        rig.flow(4)  # nor does its owner get any of it to the client
        for payload in sent + unlike:
            sender.send_framed(rig.path, payload, rig.internal)
        await rig.raised(len(sent))
        await rig.counts(drops={Drop.MALFORMED: 3 * len(unlike)})
        assert await silence(rig.client, seconds=0.02)


async def an_owner_sends_to_its_client(open_rig: OpenRig) -> None:
    sent = [RTP, DTLS, INDICATION, REQUEST, stun(0x0001), NOISE, b"\x80", RTP.ljust(MAX_PAYLOAD)]
    async with open_rig() as rig:
        owner = rig.transceiver(3)
        rig.flow(3)
        for payload in sent:
            owner.send_framed(rig.path, payload, rig.internal)
        with trio.fail_after(5):
            (first,) = (await rig.client.receive_batch())[:1]
        assert first == (RTP, rig.public)
        await rig.counts(outwards=sent)
        assert await rig.nothing_raised()


async def clients_get_their_payloads_in_order(open_rig: OpenRig) -> None:
    sent = [RTP + bytes([number]) for number in range(200)]
    async with open_rig() as rig:
        owner = rig.transceiver(3)
        rig.flow(3)
        for payload in sent:
            owner.send_framed(rig.path, payload, rig.internal)
            rig.client.send(payload, rig.public)
        assert await receive(rig.client, 200) == sent
        assert await receive(owner, 200) == [rig.path + payload for payload in sent]
        await rig.counts(inwards=sent, outwards=sent)
        assert 1 <= rig.forwarder.statistics().wakes <= 400


async def without_a_flow_it_is_raised(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        sender = rig.transceiver(3)
        for payload in (RTP, NOISE, REQUEST):
            sender.send_framed(rig.path, payload, rig.internal)
        wanted = [Raised(rig.path, payload, 3) for payload in (RTP, NOISE, REQUEST)]
        assert await rig.raised(3) == wanted
        await rig.counts()


async def owner_and_challenger_and_their_groups_may_send(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner, challenger, other = (rig.transceiver(hop) for hop in (3, 4, 5))
        like_owner, like_challenger = rig.transceiver(6, group=3), rig.transceiver(7, group=4)
        rig.flow(3)
        for sender in (owner, like_owner, challenger, like_challenger, other):
            sender.send_framed(rig.path, RTP, rig.internal)
        await rig.counts(outwards=[RTP] * 2, drops={Drop.NOT_OWNER: 3})
        rig.flow(3, 4)
        for sender in (owner, like_owner, challenger, like_challenger, other):
            sender.send_framed(rig.path, RTP, rig.internal)
        await rig.counts(outwards=[RTP] * 6, drops={Drop.NOT_OWNER: 4})


async def nobody_answers_for_a_hop_that_is_gone(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        like_owner = rig.transceiver(6, group=3)
        rig.transceiver(3)
        rig.flow(3)
        rig.forwarder.remove_hop(3)
        rig.forwarder.remove_hop(99)
        like_owner.send_framed(rig.path, RTP, rig.internal)
        await rig.counts(drops={Drop.NOT_OWNER: 1})
        assert rig.forwarder.flows.get(rig.path) is not None


# Hops move.


async def a_hop_that_moves_takes_its_flows_along(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        before = rig.transceiver(3)
        rig.flow(3)
        after = rig.transceiver(3)
        rig.client.send(RTP, rig.public)
        assert await receive(after) == [rig.path + RTP]
        after.send_framed(rig.path, DTLS, rig.internal)
        assert await receive(rig.client) == [DTLS]
        before.send_framed(rig.path, RTP, rig.internal)
        await rig.counts(inwards=[RTP], outwards=[DTLS], drops={Drop.UNKNOWN_SLOT: 1})


async def a_hop_that_is_removed_neither_hears_nor_speaks(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner = rig.transceiver(3)
        rig.flow(3)
        rig.forwarder.remove_hop(3)
        rig.client.send(RTP, rig.public)
        owner.send_framed(rig.path, RTP, rig.internal)
        await rig.counts(drops={Drop.UNKNOWN_SLOT: 2})
        assert await silence(owner, seconds=0.02)


async def an_address_belongs_to_the_hop_that_was_set_last(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        sock = rig.transceiver(3)
        rig.forwarder.set_hop(4, sock.address, group=4, public=None)
        rig.flow(3)
        sock.send_framed(rig.path, b"", rig.internal)
        assert await rig.raised(1) == [Raised(rig.path, b"", 4)]
        sock.send_framed(rig.path, RTP, rig.internal)
        await rig.counts(drops={Drop.NOT_OWNER: 1})
        rig.forwarder.remove_hop(3)
        rig.flow(4)
        sock.send_framed(rig.path, RTP, rig.internal)
        await rig.counts(outwards=[RTP], drops={Drop.NOT_OWNER: 1})


# Relays of other clusters.


async def a_peers_clients_reach_our_transceivers(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner, (peer, outside) = rig.transceiver(3), rig.peer(FIRST_PEER)
        path = encode_path(rig.client.address, outside)
        for payload in (RTP, REQUEST, NOISE, b"", UNSOUND[0], UNASKED[0], encode_give(3)):
            peer.send_framed(path, payload, rig.internal)
        assert await rig.raised(2) == [Raised(path, RTP, 0), Raised(path, REQUEST, 0)]
        drops = {Drop.UNKNOWN_KIND: 1, Drop.MALFORMED: 4}
        await rig.counts(drops=drops)
        rig.flow(3, path=path)
        for payload in (RTP, NOISE, SUCCESS):
            peer.send_framed(path, payload, rig.internal)
        assert await receive(owner, 3) == [path + payload for payload in (RTP, NOISE, SUCCESS)]
        await rig.counts(inwards=[RTP, NOISE, SUCCESS], drops=drops)


async def our_transceivers_answer_through_the_peer(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner, other, (peer, outside) = rig.transceiver(3), rig.transceiver(4), rig.peer(FIRST_PEER)
        path = encode_path(rig.client.address, outside)
        owner.send_framed(path, RTP, rig.internal)
        assert await rig.raised(1) == [Raised(path, RTP, 3)]
        rig.flow(3, path=path)
        for sender in (owner, other):
            sender.send_framed(path, RTP, rig.internal)
        assert await receive(peer) == [path + RTP]
        await rig.counts(outwards=[RTP], drops={Drop.NOT_OWNER: 1})
        assert await silence(rig.client, seconds=0.02)


async def a_peer_answers_for_our_clients(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        (one, _), (two, _) = rig.peer(FIRST_PEER), rig.peer(FIRST_PEER + 1)
        far, _ = rig.peer(FIRST_PEER + 2, group=FIRST_PEER + 2)
        one.send_framed(rig.path, b"", rig.internal)
        one.send_framed(rig.path, RTP, rig.internal)
        sender = FIRST_PEER
        wanted = [Raised(rig.path, b"", sender), Raised(rig.path, RTP, sender)]
        assert await rig.raised(2) == wanted
        rig.flow(FIRST_PEER)
        rig.client.send(RTP, rig.public)
        assert await receive(one) == [rig.path + RTP]
        for peer in (one, two, far):
            peer.send_framed(rig.path, DTLS, rig.internal)
        assert await receive(rig.client, 2) == [DTLS, DTLS]
        await rig.counts(inwards=[RTP], outwards=[DTLS] * 2, drops={Drop.NOT_OWNER: 1})


async def a_peer_speaks_for_itself_alone(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        (one, _), (_, of_two) = rig.peer(FIRST_PEER), rig.peer(FIRST_PEER + 1)
        path = encode_path(rig.client.address, of_two)
        rig.flow(FIRST_PEER, path=path)
        for payload in (RTP, b"", SUCCESS, REQUEST, encode_give(3)):
            one.send_framed(path, payload, rig.internal)
        drops = {Drop.LOOP: 5}
        await rig.counts(drops=drops)
        rig.forwarder.remove_hop(FIRST_PEER + 1)
        one.send_framed(path, RTP, rig.internal)
        await rig.counts(drops=drops | {Drop.UNKNOWN_RELAY: 1})
        assert await rig.nothing_raised()


async def a_peer_does_not_claim_that_we_are_a_client(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        peer, outside = rig.peer(FIRST_PEER)
        rig.transceiver(3)
        path = encode_path(rig.public, outside)
        rig.flow(3, path=path)
        for payload in (RTP, REQUEST):
            peer.send_framed(path, payload, rig.internal)
        await rig.counts(drops={Drop.MALFORMED: 2})
        assert await rig.nothing_raised()


async def a_peer_may_change_its_public_address(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner, (peer, before) = rig.transceiver(3), rig.peer(FIRST_PEER)
        after = rig.socket().address
        rig.forwarder.set_hop(FIRST_PEER, peer.address, group=FIRST_PEER, public=after)
        for proxy in (before, after):
            path = encode_path(rig.client.address, proxy)
            rig.flow(3, path=path)
            owner.send_framed(path, RTP, rig.internal)
            peer.send_framed(path, RTP, rig.internal)
        await rig.counts(inwards=[RTP], outwards=[RTP], drops={Drop.UNKNOWN_RELAY: 2})


# What is raised.


async def _send_slowly(
    rig: Rig, sender: Datagrams, datagrams: Iterable[bytes], to: Address
) -> None:
    """Send no faster than any queue on the way takes."""
    for number, datagram in enumerate(datagrams):
        assert sender.send(datagram, to)
        if number % 50 == 49:
            await trio.sleep(0.012)
    await trio.sleep(0.02)


async def known_flows_come_before_strangers(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        stranger, owner = rig.socket(), rig.transceiver(3)
        rig.flow(3)
        await _send_slowly(rig, stranger, [REQUEST] * 70, rig.public)
        await _send_slowly(rig, rig.client, [REQUEST] * 70, rig.public)
        owner.send_framed(rig.path, SUCCESS, rig.internal)
        await trio.sleep(0.02)
        with trio.fail_after(5):
            batches = [await rig.forwarder.receive() for _ in range(2)]
        sizes = [[sum(one.path == path for one in batch) for path in (
            rig.path, encode_path(stranger.address, rig.public))] for batch in batches]  # fmt: skip
        assert sizes == [[RAISED_BATCH, RAISED_BATCH], [7, 6]]
        assert [one.path for one in batches[0][:RAISED_BATCH]] == [rig.path] * RAISED_BATCH
        assert batches[1][6] == Raised(rig.path, SUCCESS, 3)
        await rig.counts()


async def the_queues_are_bounded(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner = rig.transceiver(3)
        await _send_slowly(rig, rig.client, [REQUEST] * (STRANGER_QUEUE + 5), rig.public)
        await rig.counts(drops={Drop.QUEUE_FULL: 5})
        await _send_slowly(rig, owner, [bytes(rig.path)] * (KNOWN_QUEUE + 7), rig.internal)
        await rig.counts(drops={Drop.QUEUE_FULL: 12})
        raised = await rig.raised(STRANGER_QUEUE + KNOWN_QUEUE)
        assert sum(one.sender == 3 for one in raised) == KNOWN_QUEUE
        assert await rig.nothing_raised()


async def strangers_have_a_rate(open_rig: OpenRig) -> None:
    async with open_rig(strangers_per_second=5.0) as rig:
        rig.transceiver(3)
        for _ in range(20):
            rig.client.send(DTLS, rig.public)
        await rig.counts(drops={Drop.RATE_LIMIT: 15})
        assert len(await rig.raised(5)) == 5
        rig.flow(3)
        for _ in range(20):  # known ones have none
            rig.client.send(REQUEST, rig.public)
        await rig.raised(20)
        await trio.sleep(1.1)
        rig.forwarder.flows.remove(rig.path)
        for _ in range(20):
            rig.client.send(DTLS, rig.public)
        await rig.counts(drops={Drop.RATE_LIMIT: 30})


async def a_cancelled_receive_keeps_what_was_raised(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        with trio.move_on_after(0.01):
            await rig.forwarder.receive()
        rig.client.send(DTLS, rig.public)
        await trio.sleep(0.02)
        with trio.CancelScope() as scope:
            scope.cancel()
            await rig.forwarder.receive()
        assert scope.cancelled_caught
        assert await rig.raised(1) == [Raised(rig.path, DTLS, 0)]


# What Python sends.


async def python_sends_as_the_loop_does(open_rig: OpenRig) -> None:
    async with open_rig(running=False) as rig:
        hop, (peer, outside) = rig.transceiver(3), rig.peer(FIRST_PEER)
        far = encode_path(rig.client.address, outside)
        assert rig.forwarder.forward(rig.path, REQUEST, 3)
        assert rig.forwarder.forward(far, REQUEST, 3)
        assert rig.forwarder.forward(rig.path, RTP, FIRST_PEER)
        assert rig.forwarder.deliver(rig.path, SUCCESS)
        assert rig.forwarder.deliver(far, SUCCESS)
        assert rig.forwarder.deliver(far, b"")
        assert await receive(hop, 2) == [rig.path + REQUEST, far + REQUEST]
        assert await receive(peer, 3) == [rig.path + RTP, far + SUCCESS, far]
        assert await receive(rig.client) == [SUCCESS]
        await rig.counts(inwards=[REQUEST, REQUEST, RTP], outwards=[SUCCESS, SUCCESS, b""])


async def python_is_told_what_can_not_be_sent(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        rig.transceiver(3)
        stranger = encode_path(rig.client.address, rig.client.address)
        assert not rig.forwarder.forward(rig.path, RTP, 4)
        assert rig.stale >= 1
        assert not rig.forwarder.forward(rig.path, RTP.ljust(MAX_PAYLOAD + 1), 3)
        assert not rig.forwarder.deliver(rig.path, RTP.ljust(MAX_PAYLOAD + 1))
        assert not rig.forwarder.deliver(stranger, RTP)
        drops = {Drop.UNKNOWN_SLOT: 1, Drop.MALFORMED: 2, Drop.UNKNOWN_RELAY: 1}
        await rig.counts(drops=drops)


async def another_family_is_a_send_error(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        owner = rig.transceiver(4)
        far: Address = ("192.0.2.1", 9) if ":" in rig.host else ("2001:db8::1", 9)
        path = encode_path(far, rig.public)
        rig.forwarder.set_hop(3, far, group=3, public=None)
        rig.flow(4, 3, path=path)
        assert not rig.forwarder.forward(path, RTP, 3)
        assert not rig.forwarder.deliver(path, RTP)
        owner.send_framed(path, RTP, rig.internal)
        await rig.counts(drops={Drop.SEND_ERROR: 3})
        rig.flow(3, 4)
        rig.client.send(RTP, rig.public)
        assert await receive(owner) == [rig.path + RTP]
        await rig.counts(inwards=[RTP], drops={Drop.SEND_ERROR: 4})


# What goes on.


async def a_restarted_run_goes_on(open_rig: OpenRig) -> None:
    async with open_rig(running=False) as rig:
        owner = rig.transceiver(3)
        rig.flow(3)
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                await nursery.start(rig.forwarder.run)
                rig.client.send(RTP, rig.public)
                rig.client.send(REQUEST, rig.public)
                await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
            rig.client.send(DTLS, rig.public)  # the kernel keeps it
        assert len(await rig.raised(3)) == 3
        async with trio.open_nursery() as nursery:
            await nursery.start(rig.forwarder.run)
            assert await receive(owner, 6) == [rig.path + RTP, rig.path + DTLS] * 3
            await rig.counts(inwards=[RTP, DTLS] * 3)
            nursery.cancel_scope.cancel()
        assert len(rig.forwarder.flows) == 1


async def a_dead_hop_is_noticed(open_rig: OpenRig) -> None:
    async with open_rig() as rig:
        dead, alive = rig.transceiver(3), rig.transceiver(4)
        rig.flow(3, 4)
        dead.close()
        for _ in range(10):
            rig.client.send(RTP, rig.public)
        assert await receive(alive, 10) == [rig.path + RTP] * 10
        await rig.counts(inwards=[RTP] * 20, drops={Drop.UNREACHABLE: 10})
        assert rig.stale >= 1


async def the_store_has_the_room_it_was_given(open_rig: OpenRig) -> None:
    async with open_rig(max_flows=500) as rig:
        flows = rig.forwarder.flows
        paths = [encode_path((rig.host, port), rig.public) for port in range(1, 501)]
        assert all(flows.put(path, FlowEntry(1, 0.0)) for path in paths)
        assert len(flows) == 500
        assert flows.put(paths[7], FlowEntry(2, 5.0, 3, 6.0, 7.0))
        assert flows.get(paths[7]) == FlowEntry(2, 5.0, 3, 6.0, 7.0)
        cursor, found = flows.scan(0, 1 << 20)
        assert (cursor, sorted(path for path, _ in found)) == (0, sorted(paths))


Body = Callable[[OpenRig], Awaitable[None]]
BODIES: list[Body] = [
    what_no_client_sends_is_malformed,
    our_own_address_is_no_client,
    requests_with_a_name_are_raised,
    a_flow_leads_to_its_owner,
    each_client_has_its_own_flow,
    a_challenger_hears_too,
    hops_that_are_not_there_are_counted_each,
    a_stranger_is_raised_if_it_may_be_a_client,
    only_hops_send_from_inside,
    what_has_no_header_is_malformed,
    an_unknown_proxy_is_refused,
    answers_and_goodbyes_are_raised,
    an_owner_sends_to_its_client,
    clients_get_their_payloads_in_order,
    without_a_flow_it_is_raised,
    owner_and_challenger_and_their_groups_may_send,
    nobody_answers_for_a_hop_that_is_gone,
    a_hop_that_moves_takes_its_flows_along,
    a_hop_that_is_removed_neither_hears_nor_speaks,
    an_address_belongs_to_the_hop_that_was_set_last,
    a_peers_clients_reach_our_transceivers,
    our_transceivers_answer_through_the_peer,
    a_peer_answers_for_our_clients,
    a_peer_speaks_for_itself_alone,
    a_peer_does_not_claim_that_we_are_a_client,
    a_peer_may_change_its_public_address,
    known_flows_come_before_strangers,
    the_queues_are_bounded,
    strangers_have_a_rate,
    a_cancelled_receive_keeps_what_was_raised,
    python_sends_as_the_loop_does,
    python_is_told_what_can_not_be_sent,
    another_family_is_a_send_error,
    a_restarted_run_goes_on,
    a_dead_hop_is_noticed,
    the_store_has_the_room_it_was_given,
]
