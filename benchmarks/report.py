"""Stub."""
def write_report(document: dict) -> None:
    pass
