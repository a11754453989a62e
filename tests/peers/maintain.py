"""Maintenance of a Delta table by another program.

usage: maintain.py TABLE "restore N" | "add COLUMN" | "set PROPERTY VALUE" | delete | optimize | vacuum | checkpoint |
       files
N below 0 counts back from the newest version; `files` prints the newest version and its files
"""
import sys

from deltalake import DeltaTable, Field

table, (what, *arguments) = DeltaTable(sys.argv[1]), sys.argv[2].split()
if what == "restore":
    version = int(arguments[0])
    version = version if version >= 0 else table.version() + version
    table.restore(version, protocol_downgrade_allowed=True)
elif what == "add":
    table.alter.add_columns([Field(arguments[0], "string")])
elif what == "set":
    table.alter.set_table_properties({arguments[0]: arguments[1]})
elif what == "delete":
    table.delete()
elif what == "optimize":
    # small targets leave parts as they are: everything into one file
    table.optimize.compact(target_size=1 << 30)
elif what == "vacuum":
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
elif what == "checkpoint":
    table.create_checkpoint()
elif what == "files":
    print(table.version(), *sorted(uri.rsplit("/", 1)[-1] for uri in table.file_uris()))
else:
    sys.exit(__doc__)
