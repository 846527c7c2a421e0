"""A mirror on the Python library `aiohttp`.

    python mirror_aiohttp.py client URL [BITS]
    python mirror_aiohttp.py server [BITS]

mirror_ws.js says what a mirror does. BITS are the window of the server that a client
offers, and only turn compression on at a server.
"""

import asyncio
import json
import sys

import aiohttp
from aiohttp import web


async def mirror(socket):
    extensions = "permessage-deflate" if socket.compress else ""
    report = {"vendorId": "report", "data": extensions}
    await socket.send_json([2, "report", "DataTransfer", report])
    async for message in socket:
        if not message.data.startswith('[3,"report"'):
            await socket.send_str(message.data)


async def client(url, bits=0):
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=["ocpp1.6"], compress=int(bits)) as socket,
    ):
        await mirror(socket)


async def server(bits=0):
    async def serve(request):
        socket = web.WebSocketResponse(protocols=["ocpp1.6"], compress=bool(bits))
        await socket.prepare(request)
        await mirror(socket)
        return socket

    application = web.Application()
    application.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    _, port = runner.addresses[0]
    print(json.dumps({"event": "listening", "port": port}), flush=True)
    await asyncio.Event().wait()


role, *arguments = sys.argv[1:]
asyncio.run({"client": client, "server": server}[role](*arguments))
