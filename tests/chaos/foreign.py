"""What other programs do to a Delta table of ours, by deltalake.

usage: foreign.py TABLE_FOLDER version            prints the newest version
       foreign.py TABLE_FOLDER restore VERSION    brings a version back
       foreign.py TABLE_FOLDER delete             removes some rows
       foreign.py TABLE_FOLDER optimize           puts small files together
       foreign.py TABLE_FOLDER vacuum             deletes files that no live version needs
"""
import sys

from deltalake import DeltaTable

table = DeltaTable(sys.argv[1])
match sys.argv[2:]:
    case ["version"]:
        print(table.version())
    case ["restore", version]:
        print(table.restore(int(version)))
    case ["delete"]:
        print(table.delete("image_id < 'a100000600'"))
    case ["optimize"]:
        print(table.optimize.compact())
    case ["vacuum"]:
        print(len(table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)))
    case other:
        sys.exit(f"{other}: no such verb")
