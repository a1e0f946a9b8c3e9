#include "stream.h"

#include <math.h>
#include <string.h>

static uint32_t read16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static uint32_t read32(const uint8_t *at) { return read16(at) << 16 | read16(at + 2); }

static void write32(uint8_t *at, uint32_t value)
{
    for (int i = 3; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

/* Without padding and CSRCs, with one extension block or none; else 0. */
static size_t header_length(const uint8_t *packet, size_t size)
{
    if (size < RTP_HEADER_BYTES + 4)
        return 0;
    if (packet[0] == 0x80)
        return RTP_HEADER_BYTES;
    return packet[0] == 0x90 ? RTP_HEADER_BYTES + 4 + 4 * (size_t)read16(packet + 14) : 0;
}

bool stream_place(const struct stream *stream, const uint8_t *packet, size_t size,
                  struct place *place)
{
    const struct incoming *in = &stream->incoming;
    size_t header = header_length(packet, size), overhead = header + srtp_tag_bytes(&in->srtp);
    if (!in->lent || in->next > MAX_INDEX || header == 0 || size <= overhead || (packet[1] & 0x7F) != in->payload_type ||
        read16(packet + 2) != (in->next & 0xFFFF) || read32(packet + 8) != in->ssrc)
        return false;
    place->header_bytes = header;
    place->payload_bytes = size - overhead;
    place->timestamp = read32(packet + 4);
    return true;
}

/* RFC 3550, A.8. */
static void note_jitter(struct incoming *in, uint32_t timestamp, double now)
{
    if (in->timestamp >= 0) {
        int32_t units = (int32_t)(timestamp - (uint32_t)in->timestamp);
        double transit = fabs((now - in->heard_at) * in->clock_rate - units);
        in->jitter += (transit - in->jitter) / 16;
    }
    in->timestamp = timestamp;
    in->heard_at = now;
}

bool stream_receive(struct stream *stream, const uint8_t *packet, size_t size,
                    const struct place *place, uint8_t *payload, double now)
{
    struct incoming *in = &stream->incoming;
    if (!srtp_unseal(&in->srtp, packet, place->header_bytes, size, payload, in->ssrc, in->next))
        return false;
    in->next++;
    in->octets += place->payload_bytes;
    note_jitter(in, place->timestamp, now);
    return true;
}

size_t stream_send(struct stream *stream, uint8_t *packet, const uint8_t *payload,
                   size_t payload_bytes, uint64_t timestamp, bool marker, double now)
{
    struct outgoing *out = &stream->outgoing;
    size_t size = PATH_BYTES + out->header_bytes + payload_bytes + srtp_tag_bytes(&out->srtp);
    if (!out->lent || out->next >= out->limit || size > MAX_PACKET_BYTES)
        return 0;
    uint64_t index = out->next++; /* whatever happens now, it is used */
    out->timestamp = out->first_timestamp + (uint32_t)timestamp;
    memcpy(packet, stream->path, PATH_BYTES);
    uint8_t *rtp = packet + PATH_BYTES;
    memcpy(rtp, out->header, out->header_bytes);
    rtp[1] |= marker ? 0x80 : 0;
    rtp[2] = (uint8_t)(index >> 8);
    rtp[3] = (uint8_t)index;
    write32(rtp + 4, out->timestamp);
    if (!srtp_seal(&out->srtp, rtp, out->header_bytes, payload, payload_bytes, out->ssrc, index))
        return 0;
    out->packets++;
    out->sent_at = now;
    out->octets += payload_bytes;
    return size;
}
