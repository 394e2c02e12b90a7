"""`tidings serve`: which configuration reaches the server, and which does not."""

import sys
from types import SimpleNamespace

import pytest

from tidings.cli.main import run
from tidings.config import LISTEN_DEFAULT, ServerConfig


@pytest.fixture
def configs(monkeypatch):
    """The configurations that a server was started with; it ends at once with exit code 3."""
    started: list[ServerConfig] = []

    def main(config: ServerConfig) -> int:
        started.append(config)
        return 3

    monkeypatch.setitem(sys.modules, "tidings.server", SimpleNamespace(main=main))
    return started


def test_without_options_it_is_the_default_and_the_exit_code_is_the_servers(configs):
    assert run(["serve"]) == 3
    assert configs == [ServerConfig()]


def test_listen_is_repeatable_and_replaces_the_default(configs):
    run(["serve", "--listen", "tidings://localhost:1", "--listen", "tidings://[::1]:2", "--store", "memory:"])
    assert configs == [ServerConfig("memory:", ("tidings://localhost:1", "tidings://[::1]:2"))]


def test_http_can_be_left_out_and_opened_to_names_and_pages(configs):
    run(["serve", "--no-http"])
    run(["serve", "--allow-host", "queue.example", "--allow-origin", "https://app.example"])
    assert configs == [
        ServerConfig(listen=(LISTEN_DEFAULT,)),
        ServerConfig(allow_hosts=("queue.example",), allow_origins=("https://app.example",)),
    ]


def test_insecure_allows_other_machines(configs, capfd):
    assert run(["serve", "--listen", "tidings://0.0.0.0:7433"]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error (invalid_option): --listen tidings://0.0.0.0:7433: ")
    assert "--insecure" in error
    assert configs == []
    assert run(["serve", "--listen", "tidings://0.0.0.0:7433", "--insecure"]) == 3
    assert configs[0].insecure


def test_what_is_no_option_is_refused(configs):
    assert run(["serve", "sqlite:x.db"]) == 2
    assert configs == []
