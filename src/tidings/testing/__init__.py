"""Shipped help for tests: contracts, a fake clock, a server in the process, a pytest fixture."""
