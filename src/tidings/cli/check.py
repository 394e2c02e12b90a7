"""`tidings check`: reads a whole data file and says what is wrong with it."""

from typing import Annotated

from cyclopts import Parameter

from tidings.cli.options import Json
from tidings.cli.output import count, print_json, printable, readable_size
from tidings.errors import StoreUnusable


def check(path: Annotated[str, Parameter(help="The data file.")], /, *, json: Json = False) -> int:
    """Verify a data file: every row, the order of every queue, every record. Nothing is changed.

    Stop its server first. The exit code is 0 if the file is sound and 1 if it is not.

    For example:

        tidings check tidings.db
    """
    # Imported here so that `--help` does not load the store.
    from tidings.store.sqlite import check as check_file

    if path == "memory:":
        raise StoreUnusable("memory: keeps no file to check")
    problems: list[str] = []

    def report(problem: str) -> None:
        problems.append(problem)
        if not json:
            print(printable(problem), flush=True)

    result = check_file(path.removeprefix("sqlite:"), report)
    if json:
        counts = ("queues", "rows", "messages", "records")
        entry = {name: getattr(result, name) for name in counts}
        print_json({"path": path, **entry, "bytes": result.size_bytes, "sound": result.sound, "problems": problems})
    else:
        verdict = "sound" if result.sound else count(result.problems, "problem")
        parts = [count(result.queues, "queue"), count(result.messages, "message") + " in " + count(result.rows, "row")]
        print(f"{verdict}: {', '.join(parts)}, {readable_size(result.size_bytes)}, {count(result.records, 'record')}")
    return 0 if result.sound else 1
