"""What must hold for any bytes that a client of Socket.IO sends: bodies, frames, packets and attachments."""

from collections.abc import Iterator

from tests.fuzz.choices import Choices
from tidings.errors import InvalidPayload, NotFound, ProtocolViolation
from tidings.gateways.messages import is_json
from tidings.gateways.socketio.connection import Connecting, Connection, Emitted, Received
from tidings.gateways.socketio.engine import Engine
from tidings.gateways.socketio.engine_packets import decode_payload, encode_payload
from tidings.gateways.socketio.packets import EVENT, Decoder, Packet, encode, payload_of


def socketio(data: bytes) -> None:
    """A connection goes on, or ends as a violation; what it hands over is JSON, and survives a round trip."""
    choices = Choices(data)
    engine = Engine("sid", 0, websocket=choices.below(2) == 0)
    connection = Connection()
    now_ms = 0
    while choices.left and not engine.closed:
        now_ms += choices.number(1)
        try:
            for received in list(_said(engine, connection, choices, now_ms)):
                _check(received)
                _answer(connection, received, let_in=choices.below(4) > 0)
        except ProtocolViolation as error:
            assert error.text
            engine.close(error.text)
        if engine.closed:
            assert not engine.receive_frame("4later", now_ms), "one that is closed takes nothing"
        for message in connection.messages_to_send():
            engine.send(message)
        engine.tick(now_ms)
        if engine.websocket:
            engine.frames_to_send(now_ms)
        else:
            body = engine.payload_to_send(now_ms)
            assert body is None or encode_payload(decode_payload(body)) == body
        assert engine.proven <= engine.sent <= engine.numbered
        assert engine.waiting_bytes >= 0


def _said(engine: Engine, connection: Connection, choices: Choices, now_ms: int) -> Iterator[Received]:
    piece = choices.take(choices.number(1))
    if not engine.websocket:
        engine.poll_received(now_ms)
        messages = engine.receive_payload(piece, now_ms)
        packets = decode_payload(piece)
        assert decode_payload(encode_payload(packets)) == packets
    else:
        frame = piece if choices.below(2) else piece.decode(errors="replace")
        messages = engine.receive_frame(frame, now_ms)
    for message in messages:
        received = connection.receive_message(message)
        if received is not None:
            yield received


def _check(received: Received) -> None:
    if not isinstance(received, Emitted):
        return
    assert all(is_json(bytes(value)) for value in received.arguments), "what is no JSON is handed over"
    for value in received.arguments:
        try:
            found = payload_of(value, received.attachments)
            assert found is value or found == received.attachments[0]
        except InvalidPayload as error:
            assert error.text
    packet = Packet(EVENT, received.namespace, received.id, [b'"e"', *received.arguments], received.attachments)
    decoder = Decoder()
    *_, again = [decoder.decode(message) for message in encode(packet)]
    assert again is not None
    assert [bytes(value) for value in again.arguments] == [bytes(value) for value in packet.arguments]
    assert (again.namespace, again.id, list(again.attachments)) == (*packet[1:3], list(packet.attachments))


def _answer(connection: Connection, received: Received, *, let_in: bool) -> None:
    if isinstance(received, Connecting) and let_in:
        connection.accept(received.namespace, sid="s", pid="p")
    elif isinstance(received, Connecting):
        connection.refuse(received.namespace, NotFound("no"))
    elif isinstance(received, Emitted):
        connection.emit(received.namespace, received.name, received.arguments, attachments=received.attachments)
        if received.id is not None:
            connection.answer(received.namespace, received.id, None)
