"""Headless Chromium, spoken to by its own protocol: a package for that alone would be 50 MB."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

SECONDS = 60.0
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")


class Tab:
    """A tab of a browser."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._session = ""
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.troubles: list[str] = []
        """What the browser has complained of, such as a style that the policy forbids, or a script that asks."""

    async def listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            match said.get("method"):
                case None:
                    self._answers.pop(said["id"]).set_result(said)
                case "Page.loadEventFired":
                    self._loaded.set()
                case "Log.entryAdded" if "favicon" not in said["params"]["entry"]["text"]:
                    self.troubles.append(said["params"]["entry"]["text"])
                case "Runtime.exceptionThrown" | "Page.javascriptDialogOpening":
                    self.troubles.append(str(said["params"]))

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": self._number, "method": method, "params": params, **session})
        said = await asyncio.wait_for(answer, SECONDS)
        assert "error" not in said, (method, said)
        result: dict[str, Any] = said["result"]
        return result

    async def open(self) -> None:
        target = await self.send("Target.createTarget", url="about:blank")
        self._session = (await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True))[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")

    async def go(self, url: str) -> None:
        self._loaded.clear()
        await self.send("Page.navigate", url=url)
        await self.loaded()

    async def loaded(self) -> None:
        await asyncio.wait_for(self._loaded.wait(), SECONDS)

    async def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        answer = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression in the page is true."""
        for _ in range(int(SECONDS * 5)):
            if await self.run(f"!!({script})"):
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"never: {script}")

    async def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    async def submit(self, script: str) -> None:
        """Do something in the page that leads to another, and wait for that."""
        self._loaded.clear()
        await self.run(script)
        await self.loaded()

    async def look(self, *, dark: bool = False, width: int = 1280) -> None:
        """Choose colours and width."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.send("Emulation.setEmulatedMedia", features=features)
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )

    async def picture(self) -> bytes:
        """Return the whole page as PNG."""
        picture = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(picture["data"])


@asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Tab]:
    """Start Chromium; skips the test where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed, so nobody looks at the console; on Debian: apt-get install chromium")
    command = [program, *_OPTIONS, f"--user-data-dir={directory}"]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    try:
        url = b""
        while not url:
            line = await asyncio.wait_for(process.stderr.readline(), SECONDS)
            assert line, "Chromium ended"
            url = line.partition(b"DevTools listening on ")[2].strip()
        async with ClientSession() as session, session.ws_connect(url.decode(), max_msg_size=0) as socket:
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            await tab.open()
            yield tab
            listening.cancel()
    finally:
        process.terminate()
        await process.communicate()
