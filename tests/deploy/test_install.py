"""A wheel of this tree, installed by pip alone into empty environments, as a party and as a web side would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sfworker.cli.child import bound_to_this_process, stop
from tests.documents.shell import blocks
from tests.running_worker import envelope, until

ROOT = Path(__file__).resolve().parents[2]
MOST_OF_THE_WORKER = 1.4e9
MOST_OF_THE_WEB_SIDE = 80e6


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with wheel and sdist."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return directory


class Environment:
    """An empty virtual environment, and what is installed into it."""

    def __init__(self, directory: Path, python: str = sys.executable) -> None:
        subprocess.run([python, "-m", "venv", str(directory)], check=True)
        self.directory = directory
        self.bin = directory / "bin"
        self._empty = self.size()
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("SFWORKER_", "PYTHON"))}
        self.variables = {**variables, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def run(self, command: Sequence[str], **options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.directory,
            env={**self.variables, **options},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def install(self, requirement: str) -> None:
        done = self.run(["pip", "install", "--quiet", "--disable-pip-version-check", requirement])
        assert done.returncode == 0, done.stderr

    def size(self) -> int:
        files = (path for path in self.directory.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_size for path in files)

    def grown(self) -> int:
        """Bytes that were installed."""
        return self.size() - self._empty


def newest_python() -> str:
    """The newest Python that is found here: a web side has any, not the worker's."""
    versions = os.environ.get("PYENV_ROOT", f"{Path.home()}/.pyenv") + "/versions"
    found = [
        *(f"/usr/bin/python3.{minor}" for minor in range(20, 9, -1)),
        *map(str, Path(versions).glob("3.*/bin/python3")),
    ]
    usable = {}
    for python in found:
        if os.path.exists(python):
            asked = [python, "-c", "import ensurepip, venv, sys; print(*sys.version_info[:2])"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                usable[tuple(map(int, done.stdout.split()))] = python
    return max(usable.items(), default=((3, 10), sys.executable))[1]


@pytest.fixture(scope="module")
def worker(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    [wheel] = built.glob("*.whl")
    environment = Environment(tmp_path_factory.mktemp("worker"))
    environment.install(f"{wheel}[worker,demo]")
    return environment


@pytest.fixture(scope="module")
def web_side(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    [wheel] = built.glob("*.whl")
    environment = Environment(tmp_path_factory.mktemp("web"), newest_python())
    environment.install(str(wheel))
    return environment


@contextmanager
def running(environment: Environment, directory: Path) -> Iterator[str]:
    """`sfworker run --embedded` from that environment; gives the URL of its Redis."""
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            bound_to_this_process([str(environment.bin / "sfworker"), "run", "--embedded"]),
            cwd=directory,
            env=environment.variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until(lambda: "ready, " in log.read_text() or process.poll() is not None, 60)
        [url] = re.findall(r"Redis runs at (\S+?)\.\s", log.read_text())
        yield url
    finally:
        stop(process, 20)


def test_wheel_and_sdist_carry_constraints_licence_and_types(built: Path) -> None:
    carried = {"sfworker/constraints.txt", "sfworker/py.typed", "sfworker/broker/lua/finish.lua"}
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("sfworker/constraints.txt") == (ROOT / "sfworker" / "constraints.txt").read_bytes()
    assert carried <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith("tests/") for name in names)
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive_of_sources:
        names = {name.partition("/")[2] for name in archive_of_sources.getnames()}
    assert {*carried, "LICENSE", "README.md", "CHANGELOG.md", "requirements.lock"} <= names


@pytest.mark.slow
def test_pip_alone_installs_a_worker_that_agrees_with_scikit_learn(worker: Environment) -> None:
    assert worker.run(["pip", "check"]).returncode == 0
    done = worker.run(["sfworker", "demo", "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["agrees"] is True
    assert worker.grown() < MOST_OF_THE_WORKER, worker.grown()


@pytest.mark.slow
def test_the_base_package_is_small_and_submits_to_that_worker(
    worker: Environment, web_side: Environment, tmp_path: Path
) -> None:
    assert web_side.grown() < MOST_OF_THE_WEB_SIDE, web_side.grown()
    (tmp_path / "job.json").write_text(json.dumps(envelope({"task_type": "hello", "name": "web side"})))
    with running(worker, tmp_path) as url:
        done = web_side.run(["sfworker", "submit", str(tmp_path / "job.json"), "--wait"], REDIS_URL=url)
        assert (done.returncode, "Hello, web side!" in done.stdout) == (0, True), done
        for command in (["status"], ["tasks", "ss_xgb"], ["schema", "psi"], ["dead", "list"]):
            done = web_side.run(["sfworker", *command], REDIS_URL=url)
            assert (done.returncode, done.stderr) == (0, ""), done


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["run"], "worker"),
        (["run", "--embedded"], "demo"),
        (["demo"], "demo"),
    ],
)
def test_the_base_package_says_in_one_sentence_what_is_missing(
    web_side: Environment, command: list[str], extra: str
) -> None:
    done = web_side.run(["sfworker", *command])
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"pip install 'sfworker[{extra}]'" in done.stderr


def test_doctor_of_the_base_package_names_the_remedy(web_side: Environment) -> None:
    done = web_side.run(["sfworker", "doctor"], REDIS_URL="unix:///nowhere")
    assert done.returncode == 1
    assert "pip install 'sfworker[worker]'" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_what_deploy_readme_says_of_constraints(worker: Environment, built: Path) -> None:
    """Last, as it changes what is installed: the versions that were tried together."""
    [block] = [each for each in blocks(ROOT / "deploy" / "README.md") if each.note.endswith("test_install.py")]
    [wheel] = built.glob("*.whl")
    shutil.copy(wheel, worker.directory)
    done = worker.run(["bash", "-euc", block.text])
    assert done.returncode == 0, done.stderr
    frozen = dict(line.split("==") for line in worker.run(["pip", "freeze"]).stdout.split() if "==" in line)
    constraints = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "sfworker" / "constraints.txt").read_text(), re.MULTILINE)
    )
    installed = {re.sub(r"[_.]", "-", name.lower()): version for name, version in frozen.items()}
    assert len(installed.keys() & constraints.keys()) > 70
    assert {name: version for name, version in installed.items() if constraints.get(name, version) != version} == {}
