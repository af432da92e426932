"""Where a gate writes every event before anything passes."""

from ext_proc.spool.leftovers import Leftover
from ext_proc.spool.spool import Durability, Spool

__all__ = ["Durability", "Leftover", "Spool"]
