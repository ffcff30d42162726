"""What waits at a party of a cluster is bounded, whoever sends it.

SecretFlow is imported in a process of its own, as everywhere in these tests.
"""

from __future__ import annotations

import json
import subprocess
import sys

from tests.network import HOST, free_ports

PROGRAM = """
import json, os, sys
import grpc
from secretflow.distributed.fed.proxy.grpc import fed_pb2, fed_pb2_grpc
from sfworker.session import fed_proxy

address = sys.argv[1]
fed_proxy._MOST_BYTES, fed_proxy._MOST_OBJECTS = 3_000_000, 100
proxy = fed_proxy.ListeningGrpcProxy({"alice": address}, "alice", "job", {}, {})
proxy.start()
stub = fed_pb2_grpc.SfFedProxyStub(grpc.insecure_channel(address))

def send(number, size):
    data = fed_pb2.SfFedProxySendData(data=bytes(size), seq_id=number, job_name="job")
    return stub.SendData(data, timeout=10).code

large = [send(number, 1_000_000) for number in range(5)]
proxy._all_data.clear()
print(json.dumps([large, [send(number, 0) for number in range(101)]]), flush=True)
os._exit(0)
"""


def test_a_stranger_cannot_fill_the_memory() -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-c", PROGRAM, f"{HOST}:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    large, many = json.loads(done.stdout.splitlines()[-1])
    assert large == [200, 200, 200, 413, 413]
    assert many == [200] * 100 + [413]
