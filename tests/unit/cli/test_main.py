"""What becomes of errors, interrupts, closed pipes and missing extras."""

import os
import subprocess
import sys

import pytest

from tidings.cli import main, queues
from tidings.cli.main import run
from tidings.errors import TimedOut

VERBS = ("serve", "publish", "subscribe", "watch", "clients", "queues", "subscriptions", "check", "backup")


def test_help_names_every_verb_and_succeeds(capfd):
    assert run(["--help"]) == 0
    output = capfd.readouterr().out
    for verb in VERBS:
        assert f" {verb} " in output


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb, capfd):
    assert run([verb, "--help"]) == 0
    output = capfd.readouterr().out
    assert output.startswith(f"Usage: tidings {verb}")
    assert "For example:" in output
    assert f"tidings {verb}" in output.split("For example:")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["publish", "orders"],
        ["subscribe"],
        ["subscribe", "orders", "--count", "many"],
        ["clients", "extra"],
        ["clients", "--no-such-option"],
        ["queues", "delete"],
    ],
)
def test_a_wrong_command_line_exits_2_and_says_why_on_standard_error(arguments, capfd):
    assert run(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err


def test_json_that_the_shell_took_apart_is_told_how_to_quote(capfd):
    assert run(["publish", "orders", "created", "{id:", "7}"]) == 2
    told = " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert "Left over: 7}." in told
    assert "single quotes" in told
    assert "tidings publish --help" in told


def test_an_error_is_one_line_with_its_code(client, capfd):
    client.error = TimedOut("no answer\nwithin 5 s")
    assert run(["queues"]) == 1
    captured = capfd.readouterr()
    assert captured.err == "error (timed_out): no answer within 5 s\n"
    assert captured.out == ""


@pytest.mark.parametrize("server", ["localhost:7433", "events.db", "memory:", "http://localhost", ""])
def test_a_server_that_is_no_address_is_refused_before_anything_is_made(server, client, capfd):
    assert run(["queues", "--server", server]) == 1
    assert "write tidings://HOST:PORT" in capfd.readouterr().err
    assert client.url == ""


def test_no_verb_makes_a_data_file_that_is_not_there(tmp_path, capfd):
    path = tmp_path / "typo.db"
    assert run(["queues", "--server", f"sqlite:{path}"]) == 1
    assert f"tidings serve --store sqlite:{path} makes it" in capfd.readouterr().err
    assert not path.exists()


def test_the_server_comes_from_option_environment_or_default_in_this_order(client, monkeypatch):
    assert run(["queues"]) == 0
    assert client.url == "tidings://127.0.0.1:7433"
    monkeypatch.setenv("TIDINGS_SERVER", "tidings://one")
    assert run(["queues"]) == 0
    assert client.url == "tidings://one"
    assert run(["queues", "--server", "tidings://two"]) == 0
    assert client.url == "tidings://two"


def test_control_c_exits_130_without_a_word(monkeypatch, capfd):
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(queues, "print_queues", interrupt)
    assert run(["queues"]) == 130
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["--help"], ["publish", "--help"], ["--version"]])
def test_a_closed_pipe_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tidings", *arguments]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_behind_the_output_is_told_in_one_line():
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "tidings", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "error (system): [Errno 28] No space left on device\n")


def test_output_that_the_caller_has_closed_is_written_nowhere():
    program = f"exec {sys.executable} -m tidings --version >&-"
    done = subprocess.run(["sh", "-c", program], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("missing", ["cyclopts", "rich"])
def test_a_missing_extra_is_told_in_one_line(missing, monkeypatch, capfd):
    def refuse() -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(main, "application", refuse)
    assert run(["queues"]) == 1
    error = capfd.readouterr().err
    assert error == f'tidings: {missing} is not installed; run: pip install "tidings[server]"\n'


def test_a_missing_extra_is_found_by_a_process_without_any():
    # None in sys.modules is how Python says that a module cannot be imported.
    program = "import sys; sys.modules['cyclopts'] = None; from tidings.cli.main import run; sys.exit(run(['queues']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == 'tidings: cyclopts is not installed; run: pip install "tidings[server]"\n'


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken() -> None:
        raise ModuleNotFoundError("No module named 'tidings.nothing'", name="tidings.nothing")

    monkeypatch.setattr(main, "application", broken)
    with pytest.raises(ModuleNotFoundError):
        run(["queues"])
