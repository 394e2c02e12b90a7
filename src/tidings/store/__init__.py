"""What must survive: the store port and its implementations."""
