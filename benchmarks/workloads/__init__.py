"""The workloads, in the order of the page; each module says what it does at its top.

A module has TITLE, PEERS (who it is for), `measure(run)`, which returns the figures of one run, and the parts that
its processes play.
"""

from types import ModuleType

from benchmarks.workloads import catch_up, confirms, end_to_end, fan_out, latency, mixed_day, sustained

WORKLOADS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (end_to_end, sustained, confirms, catch_up, fan_out, latency, mixed_day)
}
