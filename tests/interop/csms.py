"""A CSMS on the Python library `ocpp`.

    python csms.py PORT PROTOCOLS [PASSWORD_HEX]

The events and commands are those of csms.js, which lists them.
"""

import asyncio
import json
import logging
import sys
from base64 import b64encode
from contextlib import suppress
from datetime import datetime, timezone
from urllib.parse import unquote, urlsplit

import websockets
from ocpp import v16, v201
from ocpp.exceptions import OCPPError, SecurityError
from ocpp.routing import on
from websockets.exceptions import ConnectionClosed


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


def now():
    return datetime.now(timezone.utc).isoformat()


def identity_of(request):
    return unquote(urlsplit(request.path).path.rpartition("/")[2])


class Station:
    """The common part of the versions. It must precede the library's ChargePoint."""

    # Cleared while calls are held.
    answering = asyncio.Event()
    answering.set()

    def __init__(self, identity, connection):
        super().__init__(identity, connection, response_timeout=20)
        self.connection = connection

    async def route_message(self, message):
        """Report a call before the library responds to it.

        The library handles one message at a time. While a response is held, it reads
        no responses to this side's calls either.
        """
        kind, _, *rest = json.loads(message)
        if kind == 2:
            say("call", action=rest[0])
            await self.answering.wait()
        await super().route_message(message)

    @on("BootNotification")
    def on_boot_notification(self, **_):
        say("booted")
        return self.answers.BootNotification(
            status="Accepted", current_time=now(), interval=300
        )

    @on("Heartbeat")
    def on_heartbeat(self):
        return self.answers.Heartbeat(current_time=now())

    @on("StatusNotification")
    def on_status_notification(self, **_):
        return self.answers.StatusNotification()

    @on("MeterValues")
    def on_meter_values(self, **_):
        return self.answers.MeterValues()

    @on("Authorize")
    def on_authorize(self, **_):
        return self.authorized

    @on("DataTransfer")
    def on_data_transfer(self, vendor_id, data=None, **_):
        if vendor_id == "refuse":
            raise SecurityError(
                description="not for this vendor", details={"vendorId": vendor_id}
            )
        return self.answers.DataTransfer(status="Accepted", data=data)

    async def demand(self, request):
        try:
            say("result", status=(await self.call(request, suppress=False)).status)
        except OCPPError as error:
            say("error", code=error.code, description=error.description)

    async def calls(self, count):
        outcomes = await asyncio.gather(
            *(
                self.call(self.requests.GetLocalListVersion(), suppress=False)
                for _ in range(int(count))
            ),
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        for reason in refused:
            print(f"{self.id}: {reason!r}", file=sys.stderr)
        say("calls", ok=len(outcomes) - len(refused), failed=len(refused))

    async def reset(self):
        await self.demand(self.requests.Reset(type=self.kind_of_reset))

    async def clearcache(self):
        await self.demand(self.requests.ClearCache())

    async def close(self, code, *reason):
        await self.connection.close(int(code), " ".join(reason))


class Station16(Station, v16.ChargePoint):
    requests = v16.call
    answers = v16.call_result
    authorized = v16.call_result.Authorize(id_tag_info={"status": "Accepted"})
    kind_of_reset = "Soft"


class Station201(Station, v201.ChargePoint):
    requests = v201.call
    answers = v201.call_result
    authorized = v201.call_result.Authorize(id_token_info={"status": "Accepted"})
    kind_of_reset = "Immediate"


STATIONS = {"ocpp1.6": Station16, "ocpp2.0.1": Station201}


class Csms:
    def __init__(self, password):
        self.password = password
        # The station that connected last, which the commands apply to.
        self.station = None

    def admit(self, connection, request):
        if self.password is None:
            return None
        # Not by the library `websockets`, because it decodes passwords as text and ends
        # the user name at the first colon.
        credentials = identity_of(request).encode() + b":" + self.password
        basic = f"Basic {b64encode(credentials).decode()}"
        if request.headers.get("Authorization") == basic:
            return None
        return connection.respond(401, "Unauthorized")

    async def serve(self, connection):
        identity, protocol = identity_of(connection.request), connection.subprotocol
        self.station = STATIONS[protocol](identity, connection)
        say("connected", identity=identity, protocol=protocol)

        serving = asyncio.create_task(until_closed(self.station.start()))
        await connection.wait_closed()
        serving.cancel()
        code, reason = connection.close_code, connection.close_reason
        say("disconnected", code=code, reason=reason)

    async def obey(self, command, *words):
        match command:
            case "hold":
                Station.answering.clear()
                say("holding")
            case "release":
                Station.answering.set()
                say("released")
            case "calls" | "reset" | "clearcache" | "close":
                await getattr(self.station, command)(*words)


async def until_closed(work):
    with suppress(ConnectionClosed):
        await work


async def main(port, protocols, password=None):
    csms = Csms(None if password is None else bytes.fromhex(password))
    listener = await websockets.serve(
        csms.serve,
        "127.0.0.1",
        int(port),
        subprotocols=protocols.split(","),
        process_request=csms.admit,
    )
    say("listening", port=listener.sockets[0].getsockname()[1])

    # A pipe, because a thread in readline() would prevent the process from exiting.
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    # Not awaited, because later commands must not wait for the stations' responses.
    async with asyncio.TaskGroup() as tasks:
        async for line in lines:
            tasks.create_task(csms.obey(*line.decode().split()))
        # The harness has closed stdin.
        sys.exit()


# The library logs a stack trace for each call error, even if a test expects it.
logging.getLogger("ocpp").setLevel(logging.CRITICAL)
asyncio.run(main(*sys.argv[1:]))
