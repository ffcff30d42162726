"""Which links go without acknowledgements. SecretFlow is imported in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from sfworker.session.device_manager import _is_acknowledged
from sfworker.wire.frames import Start

def asked(task_type, protocol="SEMI2K", **link):
    spu = {"cluster_def": {"runtime_config": {"protocol": protocol}}, "link_desc": link or None}
    given = dict(execution_id="e", task_id="t", subtask_id="s", attempt=1, self_party="alice", parties=["alice", "bob"])
    given |= dict(mode="mesh", heu_config=None, mesh_dir="", scratch_dir="", data_roots={}, log_level="INFO")
    task = {"task_type": task_type}
    return _is_acknowledged(Start(**given, spu_config=spu, task_config=task, max_result_bytes=1))

assert not asked("ss_xgb")
assert not asked("ss_lr", protocol="ABY3")
assert asked("ss_xgb", protocol="CHEETAH")
assert asked("psi")
assert asked("component")
assert asked("a_task_type_of_ones_own")
assert asked("ss_xgb", throttle_window_size=5)
assert not asked("ss_xgb", recv_timeout_ms=5)
"""


def test_only_trainings_whose_parties_go_in_step_send_no_acknowledgements() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
