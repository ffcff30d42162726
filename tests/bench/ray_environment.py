"""A Python environment with SecretFlow 1.13 and Ray, for the comparison with `sf.init(address="local")`.

SecretFlow 1.14 has no Ray mode any more. `ray.txt` pins what 1.13 needs beside the packages that are here anyway; it
is installed into a directory of its own (1.5 GB), which also sees this environment's packages and puts its own first.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from tests.bench.environment import make_environment


def ray_python(directory: Path) -> str:
    """Make the environment in `directory` and return its interpreter. Raises CalledProcessError without an index."""
    python = make_environment(directory, Path(__file__).with_name("ray.txt"))
    [packages] = (directory / "lib").glob("python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own
    return python


if __name__ == "__main__":
    print(ray_python(Path(sys.argv[1])))
