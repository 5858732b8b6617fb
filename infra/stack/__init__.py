"""The stack without containers: plain processes of this machine, on the loopback address (docs/operations.md)."""
