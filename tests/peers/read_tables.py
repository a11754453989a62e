"""Opens every table of a work store with deltalake and DuckDB and compares the row counts.

usage: read_tables.py TABLES_FOLDER ROWS
"""
import importlib.util
import pathlib
import sys

import duckdb
from deltalake import DeltaTable

folder, rows = pathlib.Path(sys.argv[1]), int(sys.argv[2])
# DuckDB's own reader of Delta tables, where it is installed as a package: its server is not reached from everywhere
scans = importlib.util.find_spec("duckdb_extension_delta")
if scans:
    [extension] = pathlib.Path(scans.origin).parent.glob("**/delta.duckdb_extension")
    duckdb.sql(f"load '{extension}'")
tables = sorted(path for path in folder.iterdir() if (path / "_delta_log").is_dir())
assert tables, f"no tables in {folder}"
for path in tables:
    table = DeltaTable(str(path))
    arrow = table.to_pyarrow_table()
    ids = arrow.column("image_id").to_pylist()
    assert len(ids) == rows and len(set(ids)) == rows, (path.name, len(ids))
    assert set(arrow.column("country").to_pylist()) == {"finland"}, path.name
    if scans:
        [(live,)] = duckdb.sql(f"select count(distinct image_id) from delta_scan('{path}')").fetchall()
        assert live == rows, (path.name, live)
    # without it: the live version's own files, never a glob over the folder
    files = table.file_uris()
    [(count, countries)] = duckdb.sql(
        f"select count(*), count(distinct country) from read_parquet({files!r}, hive_partitioning = true)"
    ).fetchall()
    assert (count, countries) == (rows, 1), (path.name, count, countries)
    print(f"{path.name}: version {table.version()}, {len(ids)} rows, {len(arrow.schema)} columns")
