"""The fuzz targets: each takes any bytes, and raises nothing as long as what it says holds."""

from collections.abc import Callable

from tests.fuzz import name_targets, socketio_targets, store_targets, wire_targets
from tests.fuzz.conversation import conversation
from tests.fuzz.data_files import data_file

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        wire_targets.frames,
        wire_targets.connection,
        wire_targets.batch,
        wire_targets.client,
        wire_targets.payload,
        store_targets.row,
        store_targets.records,
        name_targets.filters,
        name_targets.addresses,
        name_targets.payloads,
        socketio_targets.socketio,
        conversation,
        data_file,
    )
}
