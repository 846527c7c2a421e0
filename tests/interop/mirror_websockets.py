"""A mirror on the Python library `websockets`.

    python mirror_websockets.py client URL [OPTIONS]
    python mirror_websockets.py server [OPTIONS]

mirror_ws.js says what a mirror does. OPTIONS are those of the library's extension
factories as JSON.
"""

import asyncio
import json
import sys

import websockets
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)


async def mirror(connection):
    names = [extension.name for extension in connection.protocol.extensions]
    report = {"vendorId": "report", "data": ", ".join(names)}
    await connection.send(json.dumps([2, "report", "DataTransfer", report]))
    async for text in connection:
        if not text.startswith('[3,"report"'):
            await connection.send(text)


def settings(factory, options):
    return {
        "compression": None,
        "extensions": [factory(**json.loads(text)) for text in options],
        "subprotocols": ["ocpp1.6"],
    }


async def client(url, *options):
    async with websockets.connect(
        url, proxy=None, **settings(ClientPerMessageDeflateFactory, options)
    ) as connection:
        await mirror(connection)


async def server(*options):
    listener = await websockets.serve(
        mirror, "127.0.0.1", 0, **settings(ServerPerMessageDeflateFactory, options)
    )
    port = listener.sockets[0].getsockname()[1]
    print(json.dumps({"event": "listening", "port": port}), flush=True)
    await listener.serve_forever()


role, *arguments = sys.argv[1:]
asyncio.run({"client": client, "server": server}[role](*arguments))
