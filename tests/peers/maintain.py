"""Maintenance of a Delta table by another program.

usage: maintain.py TABLE "restore N" | delete | optimize | vacuum      (N below 0: back from the newest version)
"""
import sys

from deltalake import DeltaTable

table, (what, *arguments) = DeltaTable(sys.argv[1]), sys.argv[2].split()
if what == "restore":
    version = int(arguments[0])
    table.restore(version if version >= 0 else table.version() + version)
elif what == "delete":
    table.delete()
elif what == "optimize":
    # small targets leave parts as they are: everything into one file
    table.optimize.compact(target_size=1 << 30)
elif what == "vacuum":
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
else:
    sys.exit(__doc__)
