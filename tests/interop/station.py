"""A charging station on the Python library `ocpp`.

    python station.py URL IDENTITY PROTOCOL

The events and commands are those of station.js, which lists them.
"""

import asyncio
import json
import logging
import sys
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

import websockets
from ocpp import v16, v201
from ocpp.exceptions import InternalError, OCPPError
from ocpp.routing import on
from websockets.exceptions import ConnectionClosed, InvalidStatus

NOON = "2024-06-01T12:00:00Z"


@dataclass
class NoSuchAction:
    """A call without members. The library uses the class's name as the action."""


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


class Station:
    """The common part of the versions. It must precede the library's ChargePoint."""

    def __init__(self, identity, connection):
        super().__init__(identity, connection, response_timeout=20)
        self.connection = connection
        self.answering = asyncio.Event()
        self.answering.set()

    async def announce(self, action):
        """Report an incoming call, and wait while responses are held.

        The library reads the next message only after a handler has returned. Until then
        the station's own calls receive no responses either.
        """
        say("call", action=action)
        await self.answering.wait()

    @on("Reset")
    async def on_reset(self, **_):
        await self.announce("Reset")
        return self.answers.Reset(status="Accepted")

    @on("GetLocalListVersion")
    async def on_get_local_list_version(self, **_):
        await self.announce("GetLocalListVersion")
        return self.local_list_version()

    @on("ClearCache")
    async def on_clear_cache(self, **_):
        await self.announce("ClearCache")
        raise InternalError(description="no cache here")

    async def boot(self):
        booted = await self.call(self.boot_request(), suppress=False)
        say("boot", status=booted.status, interval=booted.interval)

    async def heartbeat(self):
        beat = await self.call(self.requests.Heartbeat(), suppress=False)
        say("heartbeat", currentTime=beat.current_time)

    async def calls(self, count):
        everyday = self.everyday_requests()
        outcomes = await asyncio.gather(
            *(
                self.call(everyday[n % len(everyday)], suppress=False)
                for n in range(int(count))
            ),
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        for reason in refused:
            print(f"{self.id}: {reason!r}", file=sys.stderr)
        say("calls", ok=len(outcomes) - len(refused), failed=len(refused))

    async def unknown(self):
        try:
            await self.call(NoSuchAction(), suppress=False, skip_schema_validation=True)
        except OCPPError as error:
            say("error", code=error.code)

    async def hold(self):
        self.answering.clear()
        say("holding")

    async def release(self):
        self.answering.set()
        say("released")

    async def close(self, code, *reason):
        await self.connection.close(int(code), " ".join(reason))

    async def boot_and_obey(self):
        commands = {
            "heartbeat": self.heartbeat,
            "calls": self.calls,
            "unknown": self.unknown,
            "hold": self.hold,
            "release": self.release,
            "close": self.close,
        }
        await self.boot()
        # A pipe, because a thread in readline() would prevent the process from exiting.
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
        )
        async for line in lines:
            command, *words = line.decode().split()
            await commands[command](*words)
        # The harness has closed stdin.
        await self.close(1001)


class Station16(Station, v16.ChargePoint):
    requests = v16.call
    answers = v16.call_result

    def local_list_version(self):
        return v16.call_result.GetLocalListVersion(list_version=7)

    def boot_request(self):
        return v16.call.BootNotification(
            charge_point_vendor="Interop", charge_point_model="Python"
        )

    def everyday_requests(self):
        return [
            v16.call.Heartbeat(),
            v16.call.StatusNotification(
                connector_id=1, error_code="NoError", status="Available"
            ),
            v16.call.MeterValues(
                connector_id=1,
                meter_value=[{"timestamp": NOON, "sampled_value": [{"value": "16.2"}]}],
            ),
            v16.call.Authorize(id_tag="0402A1B2"),
            v16.call.DataTransfer(
                vendor_id="org.example", message_id="seal", data="intact"
            ),
        ]


class Station201(Station, v201.ChargePoint):
    requests = v201.call
    answers = v201.call_result

    def local_list_version(self):
        return v201.call_result.GetLocalListVersion(version_number=7)

    def boot_request(self):
        return v201.call.BootNotification(
            reason="PowerUp",
            charging_station={"vendor_name": "Interop", "model": "Python"},
        )

    def everyday_requests(self):
        return [
            v201.call.Heartbeat(),
            v201.call.StatusNotification(
                timestamp=NOON, connector_status="Available", evse_id=1, connector_id=1
            ),
            v201.call.MeterValues(
                evse_id=1,
                meter_value=[{"timestamp": NOON, "sampled_value": [{"value": 16.2}]}],
            ),
            v201.call.Authorize(id_token={"id_token": "0402A1B2", "type": "ISO14443"}),
            v201.call.DataTransfer(
                vendor_id="org.example", message_id="seal", data="intact"
            ),
        ]


STATIONS = {"ocpp1.6": Station16, "ocpp2.0.1": Station201}


async def until_closed(work):
    with suppress(ConnectionClosed):
        await work


async def main(url, identity, protocol):
    try:
        connection = await websockets.connect(
            f"{url}/{quote(identity, safe='')}", subprotocols=[protocol], proxy=None
        )
    except InvalidStatus as refusal:
        say("refused", status=refusal.response.status_code)
        return
    say("open", protocol=connection.subprotocol)

    station = STATIONS[protocol](identity, connection)
    async with asyncio.TaskGroup() as tasks:
        tasks_of_connection = [
            tasks.create_task(until_closed(station.start())),
            tasks.create_task(until_closed(station.boot_and_obey())),
        ]
        await connection.wait_closed()
        for task in tasks_of_connection:
            task.cancel()
    say("closed", code=connection.close_code, reason=connection.close_reason)


# The library logs a stack trace for each call error, even if a test expects it.
logging.getLogger("ocpp").setLevel(logging.CRITICAL)
asyncio.run(main(*sys.argv[1:]))
