/**
 * limits.ts - every bound of the core in one place
 *
 * Nothing in the core grows: memory is taken once, in `init()`, and carved into the regions below.
 * What happens at each limit stands beside it.
 *
 *   region          octets                              at the limit
 *   batch slots     2 * BATCH * SLOT_SIZE = 4.2 MB      the caller reads no more in this pass
 *   output list     OUT_MAX * 32                        the rest leaves in the next pass (`more()`)
 *   emit arena      EMIT_SIZE                           segments we make wait for the next pass
 *   hold ring       HOLD_SIZE                           the caller stops reading the server's side
 *   message body    BODY_SIZE                           records wait for the next message
 *   inboxes         INBOX_SIZE, INBOX2_SIZE             the caller stops receiving
 *   records         capacity * sizeof(Connection)       new connections pass unprotected
 *   comparisons     capacity * COMPARISON_SIZE          as many as records
 *   range nodes     RANGE_NODES                         the connection becomes unprotected
 *   blocks          all that is left                    the connection becomes unprotected
 */

/** Packets taken from one device in one pass. */
export const BATCH: u32 = 8;
/** One packet: virtio_net_hdr (10) and an IP packet of at most 65535 octets, rounded up. */
export const SLOT_SIZE: u32 = 65552;
/** Longest packet a slot holds, virtio_net_hdr included. */
export const PACKET_MAX: u32 = 65545;
/** Entries of the output list of one pass. */
export const OUT_MAX: u32 = 4096;
/** Octets of an entry of the output list, see output.ts. */
export const OUT_ENTRY: u32 = 32;
/** Room before the body, for the caller's envelope. */
export const BODY_HEADROOM: u32 = 128;
/** Segments the core itself makes in one pass: feeder, acknowledgements, parked flight. */
export const EMIT_SIZE: u32 = 4 << 20;
/** Segments that wait for their commit. */
export const HOLD_SIZE: u32 = 16 << 20;
/** Body of one replication message. */
export const BODY_SIZE: u32 = 4 << 20;
/** Received replication octets that are not decoded yet; holds at least one whole message. */
export const INBOX_SIZE: u32 = 8 << 20;
/** The same from a second peer (of more than two replicas, a standby has one on each side): one whole message. */
export const INBOX2_SIZE: u32 = (4 << 20) + (64 << 10);
/** Out-of-order ranges of all connections together. */
export const RANGE_NODES: u32 = 65536;
/** Out-of-order ranges of one connection. */
export const RANGES_PER_CONNECTION: u32 = 1024;
/** Octets of one block of an input log or a parked flight; with its record, below 1 KiB. */
export const BLOCK: u32 = 256;
/** Octets of output parked for one connection; beyond it the kernel's own recovery takes over. */
export const PARKED_MAX: u32 = 4 << 20;
/** Progress records written into one message; the others keep their turn. */
export const PROGRESS_PER_MESSAGE: u32 = 8192;
/** IPv6 extension headers we walk before we call a packet malformed. */
export const EXTENSION_HEADERS_MAX: u32 = 8;
/** Half-open connections are forgotten after this time without progress, in milliseconds. */
export const HALF_OPEN_MS: u32 = 75000;
/** A closed connection's record stays for late retransmissions, in milliseconds. */
export const LINGER_MS: u32 = 5000;
/**
 * One that was read from a log on disk stays for so long: its client, who may lack our last ACK, repeats
 * its FIN at most so far apart (TCP_RTO_MAX of Linux), in milliseconds.
 */
export const READ_LINGER_MS: u32 = 120000;
/** First and last retransmission time-out of the feeder, in milliseconds (a lossless local link). */
export const FEED_RTO_MIN_MS: u32 = 50;
export const FEED_RTO_MAX_MS: u32 = 1000;
/** First time-out of octets that we repeat to a client ourselves, in milliseconds. */
export const REPEAT_MIN_MS: u32 = 200;
/** Attempts to open a connection to the standby's own server before it counts as refused. */
export const FEED_SYN_TRIES: u32 = 12;
/** Consecutive feeder time-outs without any progress before the standby's server counts as dead. */
export const FEED_TRIES: u32 = 60;
/** How often timers are looked at, in milliseconds. */
export const TICK_MS: u32 = 5;
/** Added to the client's timestamp clock at a takeover: the way that the quickest news took. */
export const TS_SLACK_MS: u32 = 10;
/** Payload of one segment the feeder or the parked flight makes (a GSO super-segment). */
export const SUPER_SEGMENT: u32 = 61440;
/** Datagrams whose IPv4 or IPv6 fragments are put together at one time. */
export const REASSEMBLIES: u32 = 4;
/** An incomplete datagram is dropped after this time, in milliseconds (RFC 8200 allows 60 s). */
export const REASSEMBLY_MS: u32 = 5000;
/**
 * After a takeover the client may acknowledge octets the old primary sent in its last moments and
 * told us nothing of: at most this many beyond what we know. Nothing bounds how far ahead of its news a
 * primary sends, and an ACK that is refused leaves its client waiting for ever; with AHEAD_MAX it must
 * stay below 2^31, where numbers turn.
 */
export const UNKNOWN_OUTPUT_MAX: u32 = 512 << 20;
/** A client that says so must echo a timestamp at most this old, in milliseconds. */
export const UNKNOWN_OUTPUT_ECHO_MS: u32 = 60000;
/** Without timestamps it is believed for so long after the takeover, in milliseconds. */
export const UNKNOWN_OUTPUT_MS: u32 = 5000;
/** How far the old primary may have moved the right edge without our knowledge, in octets. */
export const UNKNOWN_EDGE: u32 = 1 << 20;
/**
 * After a takeover a server that has yet to write what the old primary has told of gets so long, in
 * milliseconds; then its clients are reset.
 */
export const PROVE_MS: u32 = 10000;
/** Octets of output that a new server may be behind the client in the client's own numbers. */
export const AHEAD_MAX: u64 = 1 << 30;
/** Octets of output that a standby's server which was brought the past may be behind; below 2^31. */
export const BEHIND_MAX: i32 = 1536 << 20;
/** A client that was heard of so lately, in milliseconds, waits for its server. */
export const WAITING_MS: u32 = 1000;
/** How often each connection is looked at for a server that stands still, in milliseconds. */
export const LAG_SCAN_MS: u32 = 100;
/** Connections looked at in one tick. */
export const LAG_SCAN_MAX: u32 = 2048;
/** A server that hangs already is given up on other connections after this time, in milliseconds. */
export const LAG_AGAIN_MS: u32 = 200;
/**
 * Octets that a kernel may send or take for a server that hangs: most of tcp_rmem and tcp_wmem in tcp(7). Where
 * it may take more (33,554,432 in tcp_rmem of Linux 6.18), such a server seems to work for as long as that lasts.
 */
export const BUFFERED_MAX: u32 = 6 << 20;
/** How long a server may stand still while the other goes on, unless the caller says otherwise. */
export const LAG_MS: u32 = 2000;
/** How far behind it may be for that time though it moves, in octets, unless the caller says so. */
export const LAG_BYTES: u32 = 4 << 20;
/** How long one server's FIN or RST waits for the other's, unless the caller says otherwise. */
export const FIN_WAIT_MS: u32 = 2000;
/** A log is cut when so much of it can go, in octets: less is not worth the two records that tell it. */
export const CUT_INPUT: u32 = 1024;
/** Or when a server that is started anew need not say so many octets again. */
export const CUT_OUTPUT: u32 = 65536;
