"""A Python environment with SecretFlow 1.13 and Ray, for the comparison with `sf.init(address="local")`.

SecretFlow 1.14 has no Ray mode any more. `ray.txt` pins what 1.13 needs beside the packages that are here anyway; it
is installed into a directory of its own (1.5 GB), which also sees this environment's packages and puts its own first.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

_PINS = Path(__file__).with_name("ray.txt")


def ray_python(directory: Path) -> str:
    """Make the environment in `directory` and return its interpreter. Raises CalledProcessError without an index."""
    venv.create(directory, with_pip=True)
    python = str(directory / "bin" / "python")
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--requirement",
        str(_PINS),
    ]
    subprocess.run([python, *install], check=True)
    [packages] = (directory / "lib").glob("python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own
    return python


if __name__ == "__main__":
    print(ray_python(Path(sys.argv[1])))
