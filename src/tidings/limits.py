"""Every bound of Tidings, with its unit, its reason and what others chose."""

from typing import Final

# --- Names and messages ------------------------------------------------------------------------------------

NAME_SIZE_BYTES_MAX: Final = 255
"""Longest queue, event, subscription or client name. NATS and AMQP short strings stop at 255 bytes too."""

ID_LENGTH_MAX: Final = 255
"""Longest message id and key, in characters."""

HEADERS_MAX: Final = 64
"""Most headers of a message; headers are for routing and tracing, payloads are for data."""

HEADERS_SIZE_BYTES_MAX: Final = 8 * 1024
"""Most bytes of a message's headers, names and values together. HTTP servers commonly choose 8 KiB."""

PAYLOAD_SIZE_BYTES_MAX: Final = 1024 * 1024
"""Largest payload. NATS chooses 1 MiB by default, SQS 256 KiB (1 MiB since 2025)."""

# --- Batches -----------------------------------------------------------------------------------------------

BATCH_SIZE_BYTES_MAX: Final = 256 * 1024
"""Size up to which a client joins messages into one batch; one larger message travels alone."""

BATCH_COUNT_MAX: Final = 16_384
"""Most messages in a batch, so that a batch of empty payloads still decodes in a few milliseconds."""

BATCH_RUNS_MAX: Final = 1_024
"""Most runs (changes of event name) in a batch; a batch that would need more is split."""

BATCH_BODY_SIZE_BYTES_MAX: Final = PAYLOAD_SIZE_BYTES_MAX + HEADERS_SIZE_BYTES_MAX * 2 + 64 * 1024
"""Largest body that is accepted: one largest message with its headers, id and key, and their framing."""

ROW_SIZE_BYTES_MAX: Final = 512 * 1024
"""Size up to which the batches of a round are joined into one row of a queue."""

TRANSACTION_QUEUES_MAX: Final = 256
"""Queues that one transaction may publish into. Its messages together are bounded as the body of a batch is."""

TRANSACTION_ACKS_MAX: Final = 4_096
"""Messages that one transaction may ack: as many as may wait outside the order of a cursor, see PARKED_MAX."""

# --- Wire --------------------------------------------------------------------------------------------------

ENVELOPE_SIZE_BYTES_MAX: Final = 1024 * 1024
"""Largest envelope of a frame: 1,024 runs with the longest event names fit, and so does a page of a listing."""

HELLO_SIZE_BYTES_MAX: Final = 16 * 1024
"""Largest first frame, so that a stranger's connection (say, HTTP) is recognised by its first four bytes."""

DELIVERY_PIECES_MAX: Final = 512
"""Most pieces that are cut out of one row for one delivery: what a filter or a key selects one by one. With the runs of
the row, `BATCH_RUNS_MAX`, they fit into an envelope whatever the lengths of their names."""

DELIVERY_BODY_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest body of a delivery: a page, and the row that begins inside it."""

HEARTBEAT_MS: Final = 10_000
"""Longest silence of a living peer. RabbitMQ proposes 60 s, NATS pings after 2 min; presence wants it sooner."""

HEARTBEATS_MISSED_MAX: Final = 2.5
"""Silence, in heartbeats, after which a peer is dead."""

HELLO_TIMEOUT_MS: Final = 10_000
"""Time a new connection has for its first frame."""

SEND_BUFFER_BYTES_MAX: Final = 1024 * 1024
"""Bytes waiting in a connection's send buffer above which nothing more is delivered to it."""

CONNECTION_PENDING_BYTES_MAX: Final = 8 * 1024 * 1024
"""Unconfirmed published bytes of a connection above which its socket is not read."""

NODE_PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
"""Unconfirmed published bytes of all connections above which publishers' sockets are not read."""

COMMIT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of appends after which a commit is full; the rest goes into the next one."""

LISTING_PAGE_COUNT: Final = 500
"""Entries of a listing in one frame."""

LISTINGS_WAITING_MAX: Final = 100
"""Listings that one connection may ask for before the first is answered; the server makes one in a round."""

LISTING_NAMES_MAX: Final = 1_000
"""Queues, and subscriptions, that the listing names of one client: the first ones; the other listings have all."""

LISTING_PAGE_BYTES: Final = 256 * 1024
"""Bytes of names after which a page of the listing of clients ends: one more client still fits into its envelope."""

# --- HTTP --------------------------------------------------------------------------------------------------

HTTP_HEAD_BYTES_MAX: Final = 32 * 1024
"""Largest head of a request: the headers of a message, twice over for their names, and the browser's own."""

HTTP_HEAD_TIMEOUT_MS: Final = 10_000
"""Time that a head may take. nginx gives 60 s and Apache 20 s; this is about as long as a native Hello may take."""

HTTP_BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""Largest body of a request: a batch of many messages, as much as one transaction takes."""

HTTP_BODY_TIMEOUT_MS: Final = 30_000
"""Time that a body may take."""

HTTP_WRITE_TIMEOUT_MS: Final = 60_000
"""Time after which a client that takes nothing of its answer is cut off; nginx's send_timeout is the same."""

HTTP_IDLE_TIMEOUT_MS: Final = 75_000
"""Time that a connection may wait between requests; nginx's keepalive_timeout is the same."""

HTTP_DRAIN_TIMEOUT_MS: Final = 5_000
"""Time that answers under way have when the server stops."""

METRICS_SERIES_MAX: Final = 1_000
"""Queues, and subscriptions, of which metrics are told one by one: the first in order. Sums are of all of them. What
collects metrics keeps each for as long as it keeps anything."""

PULL_COUNT_MAX: Final = 1_000
"""Most messages in the answer to one pull. Pub/Sub gives 1,000, SQS 10."""

PULL_COUNT_DEFAULT: Final = 100
"""Messages in the answer to a pull that does not say how many."""

PULL_WAIT_MS_MAX: Final = 60_000
"""Longest time that a pull waits for a message: many proxies cut what is silent for longer. SQS stops at 20 s."""

PULL_LEASE_MS: Final = 60_000
"""Time after its last request for which a puller holds its subscription; an ack timeout if that is longer and it has
messages to ack. Long enough to come back from handling what it got, short enough to let another client in soon."""

WEBSOCKET_FRAME_BYTES_MAX: Final = 2 * PAYLOAD_SIZE_BYTES_MAX
"""Largest frame over WebSocket: a largest payload, in Base64 and with what stands around it."""

WEBSOCKET_REQUESTS_MAX: Final = 256
"""Requests of one WebSocket connection that are not answered: as many as a publisher's unconfirmed batches."""

EVENT_STREAM_PART_BYTES: Final = 64 * 1024
"""Bytes of Server-Sent Events that are written at a time: as much as asyncio lets wait in a socket's buffer."""

POSITION_QUEUES_MAX: Final = 32
"""Queues in one position of a web door, half a kilobyte beside each message: readers of more keep theirs in a named
subscription."""

# --- Socket.IO ---------------------------------------------------------------------------------------------

SOCKETIO_PACKETS_MAX: Final = 10_000
"""Packets in one body of long polling. python-engineio stops at 16, which a burst of the standard client exceeds; the
reference server knows no bound beside the size of the body, which holds a million empty ones."""

SOCKETIO_ATTACHMENTS_MAX: Final = 10
"""Attachments of one packet, as the standard client's parser allows. A message needs one: its payload."""

SOCKETIO_NAMESPACES_MAX: Final = 1_000
"""Namespaces that one connection may connect to."""

SOCKETIO_EVENTS_MAX: Final = 100
"""Events that `auth.events` may list: each is a subscription."""

SOCKETIO_PROOF_DELAY_MS: Final = 1_000
"""Time after which a ping asks whether what was sent has arrived: what a lost connection may bring twice."""

SOCKETIO_PROOF_BYTES: Final = 256 * 1024
"""Bytes sent after which a ping asks that at once, so that the window never waits for the time."""

SOCKETIO_FILL_BYTES: Final = 64 * 1024
"""Bytes of deliveries that are taken at a time to be written: as many as asyncio's buffer takes before it is full."""

WEBHOOKS_MAX: Final = 1_000
"""Most webhooks of one server: each has a connection or more of its own."""

WEBHOOK_URL_LENGTH_MAX: Final = 2_048
"""Longest URL of a webhook, in characters: what browsers and proxies commonly take."""

WEBHOOK_CONCURRENCY: Final = 8
"""Default requests of one webhook that are under way."""

WEBHOOK_CONCURRENCY_MAX: Final = 64
"""Most requests of one webhook that may be under way."""

WEBHOOK_TIMEOUT_MS: Final = 15_000
"""Default time of one request of a webhook. Standard Webhooks recommends 15 to 30 s."""

WEBHOOK_TIMEOUT_MS_MAX: Final = 300_000
"""Longest time of one request of a webhook."""

WEBHOOK_ANSWER_BYTES_MAX: Final = 64 * 1024
"""Bytes of an answer's body after which a webhook's connection is closed instead of used again."""

# --- Subscriptions -----------------------------------------------------------------------------------------

IN_FLIGHT_DEFAULT: Final = 65_536
"""Default window. Large, since small messages travel in batches of thousands; bytes are bounded beside it."""

SHARED_IN_FLIGHT_DEFAULT: Final = 1_024
"""Default window of each subscriber of a shared subscription: what waits at a slow one the others cannot take.
NATS (of a whole consumer), Pub/Sub and Pulsar choose 1,000."""

CROWDED_IN_FLIGHT_MAX: Final = 128
"""Window of each subscriber of a shared subscription once more than an eighth as many messages as are in flight wait
for others of their key, until next to none does: larger ones bring nothing then, and cost the server more."""

MEMBERS_MAX: Final = 1_024
"""Most subscribers of a shared subscription. For each delivery all of them are looked at."""

IN_FLIGHT_MAX: Final = 1_048_576
"""Largest window that may be asked for."""

IN_FLIGHT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes in flight to one subscriber above which it gets no more, whatever its window in messages."""

CONCURRENCY_MAX: Final = 4_096
"""Most messages that a subscriber may say it handles at once."""

ACK_TIMEOUT_MS: Final = 30_000
"""Default ack timeout. SQS, Pub/Sub and JetStream choose 30 s, 10 s and 30 s."""

ACK_TIMEOUT_MS_MIN: Final = 100
"""Shortest ack timeout: below it a round trip under load would look like a failure."""

ACK_TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
"""Longest ack timeout."""

EXTEND_MS_MAX: Final = 12 * 3600 * 1000
"""Longest time that one delivery may be handled by asking for more time. SQS stops at 12 h, too."""

ATTEMPTS_MAX: Final = 10
"""Default attempts of a message before it goes to the dead letters. With the default backoff that takes about
seven minutes; RabbitMQ quorum queues choose 20, Pub/Sub 5, SQS leaves it open."""

ATTEMPTS_MAX_MAX: Final = 1_000_000_000
"""Most attempts that may be asked for."""

BACKOFF_MIN_MS: Final = 1_000
"""Default time before the second attempt of a message."""

BACKOFF_MAX_MS: Final = 5 * 60 * 1000
"""Default longest time between two attempts of a message. Pub/Sub allows 10 min, and so do most retry libraries."""

RETRY_DELAY_MS_MAX: Final = 7 * 24 * 3600 * 1000
"""Longest delay of a nack, and longest backoff that may be asked for."""

PARKED_MAX: Final = 4_096
"""Messages of one cursor that wait for a retry, or for another one of their key, at which deliveries pause: when so
many fail, the next one will."""

DEAD_LETTERS_MAX: Final = 100_000
"""Dead letters of one subscription; at this bound messages are retried without end instead of being given up."""

DEAD_LETTERS_PAGE_COUNT: Final = 100
"""Dead letters in one answer."""

REDRIVE_STEP_COUNT: Final = 100
"""Dead letters that one step of a redrive moves, so that no step delays a confirm noticeably."""

RATE_MIN: Final = 0.001
"""Fewest messages a second that a redrive or a replay may be asked for: one in 17 minutes; slower is by hand."""

RATE_MAX: Final = 100_000
"""Most messages a second that a redrive or a replay may be asked for; without a rate it is as fast as it goes."""

FAILURE_TEXT_LENGTH_MAX: Final = 1_000
"""Characters that are kept of the message of an error that a handler raised."""

FAILURE_HEADLINE_LENGTH_MAX: Final = 100
"""Characters of it that stand beside the type in the list of how dead letters failed; they are kept in memory."""

FAILURE_TRACEBACK_LENGTH_MAX: Final = 8_000
"""Characters that are kept of its traceback: the innermost frames."""

HOLES_MAX: Final = 4_096
"""Unsettled ranges of one cursor at which deliveries pause: a message that is never acked holds the rest."""

GAPS_MAX: Final = 1_024
"""Gaps that a subscription remembers until they are acked; of more, the oldest are not told again. As many a client
lists of those that it was told of."""

LAST_EVENTS_MAX: Final = 10_000
"""Events of one queue with whose last messages a subscription may begin. Each is a hole of its cursor until it is
acked: about 100 bytes in memory, and 20 in a record that is written again while they are."""

SUBSCRIPTIONS_PER_CONNECTION_MAX: Final = 10_000
"""Most subscriptions attached over one connection."""

FETCH_SIZE_BYTES: Final = 512 * 1024
"""Bytes of one page that a subscription behind the tail is given."""

PAGE_CACHE_BYTES: Final = 32 * 1024 * 1024
"""Bytes of recent pages that a node keeps for subscriptions close behind the tail."""

CURSOR_DELAY_MS: Final = 50
"""Longest time until a changed cursor is on its way to disk. Losing one costs a duplicate, never a message."""

FOLLOW_PERSIST_MESSAGES: Final = 10_000
"""A cursor that follows the tail by itself is written again when it has moved this far."""

RECEIPT_WAIT_MS_MAX: Final = 3600 * 1000
"""Longest time that the server waits for one receipt; clients ask again for more."""

RECEIPTS_AWAITED_MAX: Final = 10_000
"""Receipts that one connection may wait for at a time."""

REPLY_WAIT_MS_MAX: Final = 3600 * 1000
"""Longest time that a request waits for its reply; what takes longer is better published when it is done."""

REPLIES_AWAITED_MAX: Final = 10_000
"""Replies that one connection may wait for at a time."""

REPLY_RETURN_MS: Final = 30_000
"""How long replies are awaited for a client whose connection was lost: it comes back sooner, or not for them."""

REPLIES_KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Bytes of replies that wait in memory for clients that are away for a moment or do not read; more are not taken."""

# --- History, producers, presence --------------------------------------------------------------------------

HISTORY_AGE_MS: Final = 24 * 3600 * 1000
"""How long settled messages stay for replay."""

HISTORY_BYTES: Final = 256 * 1024 * 1024
"""How many bytes of settled messages of one queue stay for replay."""

TTL_MS_MAX: Final = 10 * 365 * 24 * 3600 * 1000
"""Longest ttl of a message, ten years. RabbitMQ stops at 49 days, Pub/Sub at 31."""

EXPIRY_PAUSE_MS: Final = 60_000
"""Time until a queue is looked at again whose oldest messages do not expire soon, while others of it may."""

DELETED_RANGES_MAX: Final = 4_096
"""Ranges of single messages that somebody deleted from one queue; they are in its record until they are trimmed."""

MARKS_MAX: Final = 1_024
"""Places of a queue that limits the bytes or the age of what waits whose sizes and times are known, 24 bytes each."""

MARKS_SAMPLED: Final = 256
"""Rows of such a queue that are looked at after a restart to know how its bytes and times are spread."""

PEEK_COUNT_MAX: Final = 1_000
"""Messages that one peek may ask for."""

PRESENCE_HISTORY_BYTES: Final = 64 * 1024 * 1024
"""How many bytes the queue $presence keeps; it keeps nothing longer than HISTORY_AGE_MS."""

TRIM_ROWS_MAX: Final = 64
"""Rows that one step of trimming removes, so that no step delays a confirm noticeably."""

TRIM_INTERVAL_MS: Final = 1_000
"""Time between looks for something to trim."""

PRODUCER_AGE_MS: Final = 24 * 3600 * 1000
"""How long the server remembers the unanswered batches of a publisher that is away."""

PRODUCERS_MAX: Final = 100_000
"""Most publishers away that are remembered; the ones longest away are forgotten first."""

UNCONFIRMED_BATCHES_MAX: Final = 256
"""Most batches of one publisher that may wait for their confirm."""

ID_WINDOW_MS: Final = 10 * 60 * 1000
"""How long a queue remembers the ids of its messages, to store none twice. SQS FIFO takes 5 min, JetStream 2 min."""

SCHEDULES_READ_BYTES: Final = 1024 * 1024
"""Bytes of scheduled messages that are read at a time, to know which come next."""

SCHEDULES_KNOWN_MAX: Final = 50_000
"""Scheduled messages whose times are kept in memory; the others wait on disk."""

SCHEDULES_STEP_COUNT: Final = 500
"""Scheduled messages that are published at once, so that many of one time do not delay confirms noticeably."""

SCHEDULE_TIME_MS_MAX: Final = 9_999_999_999_999
"""Latest time of a scheduled message: thirteen digits, the year 2286."""

SCHEDULE_EVERY_MS_MIN: Final = 1_000
"""Shortest interval of a recurring message."""

IDS_PER_QUEUE_MAX: Final = 500_000
"""Most ids that one queue remembers, about 100 MB in memory; beyond, the window of the oldest ends sooner."""

QUEUES_MAX: Final = 1_000_000
"""Most queues of one server."""

DISK_RESERVE_BYTES: Final = 64 * 1024 * 1024
"""Free disk space below which publishes are refused, so that acks and trims can go on."""

# --- Client ------------------------------------------------------------------------------------------------

PUBLISH_BUFFER_BYTES_MAX: Final = 32 * 1024 * 1024
"""Bytes of unconfirmed messages in a client above which `publish` waits for room."""

DECODED_ROWS_MAX: Final = 8
"""Rows, of up to 256 KiB, that stay decoded for web doors: all who are at the tail get the same ones in one round."""

SPELLINGS_BYTES_MAX: Final = 1024 * 1024
"""Bytes of messages that a web door keeps spelled for its other clients; the oldest go first."""

REQUEST_TIMEOUT_MS: Final = 30_000
"""Default time limit of a request that is not a publish."""

BACKOFF_MS_MIN: Final = 50
"""First pause before a client connects again."""

BACKOFF_MS_MAX: Final = 5_000
"""Longest pause before a client connects again."""

# --- SQLite store ------------------------------------------------------------------------------------------

SQLITE_LOG_BYTES_MAX: Final = 32 * 1024 * 1024
"""Size of SQLite's write-ahead log at which the writer moves it into the data file.

Four full commits; half of DISK_RESERVE_BYTES, so that it can still be moved when publishes are refused.
"""

SQLITE_LOG_WAIT_MS: Final = 50
"""Longest time that moving the log waits for a reader; it is tried again when the log has grown by a quarter."""

SQLITE_CACHE_BYTES: Final = 16 * 1024 * 1024
"""Page cache of the writer: the pages of one full commit fit, so that none is written twice."""

SQLITE_STATEMENTS_MAX: Final = 32
"""Statements of the writer that stay prepared; Python's default of 128 would keep four times the bytes."""

SQLITE_STATEMENT_BYTES_MAX: Final = 256 * 1024
"""Bytes of rows in one statement of more than one row: a statement that stays prepared keeps them."""

SQLITE_QUEUE_ENDS_MAX: Final = 65_536
"""Queues whose end the writer remembers; the end of any other is one look into the file away."""

READ_ROWS_MAX: Final = 1_024
"""Most rows of one read, so that a page of tiny rows takes a few milliseconds too."""

BACKUP_STEP_BYTES: Final = 1024 * 1024
"""Bytes that a backup copies at a time; commits go between the steps."""

CLOSE_TIMEOUT_MS: Final = 10_000
"""Time that closing a client gives to unanswered publishes and unsent acks."""

HANDLING_MAX_MS: Final = 3600 * 1000
"""Default time for which a client extends what one handler holds: one that takes longer probably hangs."""

ACK_RANGES_MAX: Final = 4_096
"""Ranges in one ack; as many of a subscription's latest are kept to be told again after a reconnect."""

RESUME_QUEUES_MAX: Final = 4_096
"""Queues of one subscription for which a client remembers where it stands; the longest silent go first."""

PUBLISH_CHUNK_COUNT: Final = 256
"""Messages that `publish_many` encodes at once: enough that the call does not count, few enough to fill batches."""

MESSAGES_PER_TURN_MAX: Final = 2_048
"""Messages that an iteration hands over before it lets the event loop turn, about a millisecond of them."""
