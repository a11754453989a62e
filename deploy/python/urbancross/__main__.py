"""`python -m urbancross`: the program of this installation, whatever else is on the path."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path


def program() -> Path:
    """Where pip put it: the scripts of this environment, of the user, or of a `--target`."""
    name = "urbancross" + (sysconfig.get_config_var("EXE") or "")
    user = sysconfig.get_preferred_scheme("user") if sys.version_info >= (3, 10) else f"{os.name}_user"
    folders = [
        Path(sysconfig.get_path("scripts")),
        Path(sysconfig.get_path("scripts", scheme=user)),
        Path(__file__).resolve().parent.parent / "bin",
    ]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise SystemExit(f"error: there is no {name} in {', '.join(map(str, folders))}; install the package again")


def main() -> None:
    arguments = [os.fspath(program()), *sys.argv[1:]]
    if os.name == "posix":
        os.execv(arguments[0], arguments)
    raise SystemExit(subprocess.run(arguments).returncode)


if __name__ == "__main__":
    main()
