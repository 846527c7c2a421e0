"""A CSMS on the Python library `ocpp`.

    python csms.py PORT PROTOCOLS [PASSWORD_HEX]

It prints the same lines and reads the same commands as csms.js, where they are listed.
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
    """What the versions have in common; goes in front of the library's ChargePoint."""

    # Set, but while calls are held.
    answering = asyncio.Event()
    answering.set()

    def __init__(self, identity, connection):
        super().__init__(identity, connection, response_timeout=20)
        self.connection = connection

    async def route_message(self, message):
        """Announce a call before the library answers it, one after the other.

        It reads on only after an answer has gone out, so that while answers are held
        there are none to this side's calls either.
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
        # The one that connected last, which commands concern.
        self.station = None

    def admit(self, connection, request):
        if self.password is None:
            return None
        # The library `websockets` takes a password for text, and a colon for the end of
        # the user name.
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

    # A pipe, because a thread in readline() would keep the process from ending.
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    # The next command need not wait for what stations answer to this one.
    async with asyncio.TaskGroup() as tasks:
        async for line in lines:
            tasks.create_task(csms.obey(*line.decode().split()))
        # Whoever gave the commands is gone.
        sys.exit()


# The library logs each refusal with its stack, also those that a test asks for.
logging.getLogger("ocpp").setLevel(logging.CRITICAL)
asyncio.run(main(*sys.argv[1:]))
