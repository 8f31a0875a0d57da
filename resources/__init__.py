"""The services outside: one module each, the one interface to their tasks, and the ledger that remembers."""
