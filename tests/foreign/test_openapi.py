"""The OpenAPI document against what the server does: schemathesis makes requests from it, valid ones and others."""

from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.integration.processes import Server

# That a name breaks the rules for names, or that there is nothing of the name, is in no schema.
EXCLUDED = [positive_data_acceptance]


def test_the_server_does_what_its_document_says(tmp_path: Path) -> None:
    # Its own pytest plugin is made for an older pytest.
    tested = set()
    with Server(tmp_path, http=True) as server:
        schema = schemathesis.openapi.from_url(f"{server.http_url}/openapi.json")
        # A stream of events does not end.
        for found in schema.exclude(method="GET", path_regex="/events$").get_all_operations():
            operation = found.ok()
            check(operation)
            tested.add((operation.method, operation.path))
        assert server.process.running
    assert ("get", "/subscriptions/{name}/messages") in tested
    assert len(tested) > 30


def check(operation: schemathesis.APIOperation) -> None:
    @settings(
        max_examples=15,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def does_what_it_says(case: schemathesis.Case) -> None:
        case.query = {name: value for name, value in (case.query or {}).items() if name != "wait"}
        case.call_and_validate(excluded_checks=EXCLUDED, timeout=30)

    does_what_it_says()
