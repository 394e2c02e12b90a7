"""How fast Tidings is, beside other queues and the bare machine in the same run: `python -m benchmarks --help`."""
