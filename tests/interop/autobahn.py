"""Runs cases of the Autobahn Testsuite by the package `kosoku`.

    python autobahn.py CASES [URL]

CASES are ids with wildcards, separated by commas: 12.*,13.*

With a URL, the script tests the server there. Without one, it listens for the client to
test, which must end the run at the path /updateReports.

The cases of compression are shortened. OCPP_RPC_AUTOBAHN=full sends all of their messages.

It prints these events as JSON, one per line:

    listening  port
    result     case, behavior, behaviorClose, and the reasons of both
"""

import asyncio
import json
import os
import sys
from fnmatch import fnmatch

from kosoku import FailureError, run_fuzzingclient, run_fuzzingserver
from kosoku.cases import CASES

# Each case of compression sends 1000 messages of up to 128 KiB. They fill the largest
# window, of 32 KiB, thousands of times and take minutes. 64 times are enough.
MAX_BYTES = 2 << 20


def say(event, **facts):
    print(json.dumps({"event": event, **facts}), flush=True)


def shorten_compression_cases():
    for case in CASES.values():
        if hasattr(case, "AUTOFRAGSIZE"):
            case.COUNT = min(case.COUNT, MAX_BYTES // case.LEN)


async def report(run):
    try:
        results = await run
    except FailureError as failure:
        results = failure.results
    for result in results:
        say(
            "result",
            case=result.case_id,
            behavior=result.behavior.value,
            behaviorClose=result.behavior_close.value,
            reasons=[result.result, result.result_close],
        )


async def main(patterns, url=None):
    patterns = patterns.split(",")
    cases = [case for case in CASES if any(fnmatch(case, pattern) for pattern in patterns)]
    if url is not None:
        # One by one, so that each result is printed when its case ends.
        for case in cases:
            await report(run_fuzzingclient(url, [case]))
        return
    async with run_fuzzingserver(cases, port=0) as server:
        say("listening", port=server.port)
        await report(server.get_result())


if os.environ.get("OCPP_RPC_AUTOBAHN") != "full":
    shorten_compression_cases()
asyncio.run(main(*sys.argv[1:]))
