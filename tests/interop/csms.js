// A CSMS on the npm library `ocpp-rpc`.
//
//     node csms.js PORT PROTOCOLS [PASSWORD_HEX]
//
// The server listens on loopback, on a free port if PORT is 0. PROTOCOLS are separated by commas. If a password is
// given, stations without it are refused with 401.
//
// Events are printed as one JSON object per line. Commands are read from stdin, one per line, and apply to the station
// that connected last:
//
//     calls N             send N calls concurrently
//     reset               call Reset
//     clearcache          call ClearCache, which stations reject
//     hold                report incoming calls, but send no responses
//     release             send the held responses, and respond to later calls
//     close CODE REASON   close the connection
//
// csms.py has the same commands and events, so one harness drives both.

const { once } = require('events');
const readline = require('readline');
const { NOREPLY, RPCServer, createRPCError } = require('ocpp-rpc');

const [port, protocols, passwordHex] = process.argv.slice(2);

const now = () => new Date().toISOString();
const DIALECTS = {
    'ocpp1.6': { reset: 'Soft', authorized: { idTagInfo: { status: 'Accepted' } } },
    'ocpp2.0.1': { reset: 'Immediate', authorized: { idTokenInfo: { status: 'Accepted' } } },
};

const server = new RPCServer({
    protocols: protocols.split(','),
    callConcurrency: 100,
    callTimeoutMs: 20_000,
    // The library then validates every call and response of a station by its schemas.
    strictMode: true,
});

let station;

// Pending while calls are held.
let answering = Promise.resolve();
let release = () => {};

function say(event, facts) {
    process.stdout.write(JSON.stringify({ event, ...facts }) + '\n');
}

const answers = {
    BootNotification() {
        say('booted');
        return { status: 'Accepted', currentTime: now(), interval: 300 };
    },
    Heartbeat: () => ({ currentTime: now() }),
    StatusNotification: () => ({}),
    MeterValues: () => ({}),
    Authorize: (_, { authorized }) => authorized,
    DataTransfer({ vendorId, data }) {
        if (vendorId === 'refuse') {
            throw createRPCError('SecurityError', 'not for this vendor', { vendorId });
        }
        return { status: 'Accepted', data };
    },
};

function welcome(client) {
    const { identity, protocol } = client;
    station = client;
    say('connected', { identity, protocol });
    client.once('close', ({ code, reason }) => say('disconnected', { code, reason }));

    for (const [action, answer] of Object.entries(answers)) {
        client.handle(action, async ({ params, signal }) => {
            say('call', { action });
            await Promise.race([answering, once(signal, 'abort')]);
            // close() waits for handlers and would send their results.
            return signal.aborted ? NOREPLY : answer(params, DIALECTS[protocol]);
        });
    }
}

async function demand(action, params) {
    try {
        const { status } = await station.call(action, params);
        say('result', { status });
    } catch (error) {
        say('error', { code: error.rpcErrorCode, description: error.message });
    }
}

const commands = {
    async calls([count]) {
        const calls = Array.from({ length: Number(count) }, () => station.call('GetLocalListVersion', {}));
        const refused = (await Promise.allSettled(calls)).filter(({ status }) => status === 'rejected');
        refused.forEach(({ reason }) => console.error('%s: %o', station.identity, reason));
        say('calls', { ok: calls.length - refused.length, failed: refused.length });
    },

    reset: () => demand('Reset', { type: DIALECTS[station.protocol].reset }),
    clearcache: () => demand('ClearCache', {}),

    hold() {
        answering = new Promise(resolve => { release = resolve; });
        say('holding');
    },

    release() {
        release();
        say('released');
    },

    async close([code, ...reason]) {
        await station.close({ code: Number(code), reason: reason.join(' ') });
    },
};

async function main() {
    if (passwordHex !== undefined) {
        const expected = Buffer.from(passwordHex, 'hex');
        // The library reports a password only if the user name is the identity.
        server.auth((accept, reject, { password }) => password?.equals(expected) ? accept() : reject(401, 'Unauthorized'));
    }
    server.on('client', welcome);
    const listener = await server.listen(Number(port), '127.0.0.1');
    say('listening', { port: listener.address().port });

    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [command, ...words] = line.trim().split(' ');
        // Not awaited, because later commands must not wait for the stations' responses.
        commands[command](words);
    }
    // The harness has closed stdin.
    process.exit(0);
}

main().catch(error => {
    console.error('%o', error);
    process.exit(1);
});
