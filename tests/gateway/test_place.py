"""The place of a party's gateway, which one has at a time and a worker's own one leaves to the operator's."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from sfworker.errors import SettingsError
from sfworker.gateway.place import own_place
from sfworker.settings import Settings


def listen(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen()
    return listening


@pytest.mark.parametrize("gives_way", [True, False])
def test_one_that_does_not_listen_yet_is_asked_when_it_does(tmp_path: Path, gives_way: bool) -> None:
    settings = Settings(party="alice", gateway_dir=str(tmp_path))
    entered = threading.Event()
    refused: list[str] = []

    def enter() -> None:
        try:
            with own_place(settings, while_needed=False):
                entered.set()
        except SettingsError as error:
            refused.append(str(error))

    with own_place(settings, while_needed=True) as place:
        later = threading.Thread(target=enter)
        later.start()
        time.sleep(0.2)
        with listen(place.path) as listening:
            assert later.is_alive()
            asked, _ = listening.accept()
            if gives_way:
                place.let_go()
            asked.close()
            later.join(10)
    assert entered.is_set() == gives_way
    assert refused == ([] if gives_way else ["SFWORKER_GATEWAY_DIR: a gateway of this party runs there already"])
