"""The ledger remembers: scans, copies and their evidence, steps, tasks, products, and who did what and why.

One small relational schema on SQLite or PostgreSQL. Everything here takes an open connection, so that a caller makes
one transaction of what belongs together; no network call happens inside one. State changes are single statements
guarded by the state that they leave: whoever comes second changes nothing.
"""

from resources.ledger.database import Ledger, WrongLedger

__all__ = ["Ledger", "WrongLedger"]
