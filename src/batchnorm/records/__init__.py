"""What runs leave behind: the append-only `results.jsonl`, and the statistics drawn from it.

Loads no torch. The format is described in `docs/reference/results.md`.
"""

from batchnorm.records.store import Records, Run, Store, read

__all__ = ["Records", "Run", "Store", "read"]
