// A CSMS on the npm library `ocpp-rpc`.
//
//     node csms.js PORT PROTOCOLS [PASSWORD_HEX]
//
// It listens on loopback, at a port of its choice where PORT is 0. PROTOCOLS are separated by commas. With a password,
// stations without it are refused with 401.
//
// What happens is printed as one JSON object per line; commands are read from stdin, one per line. They concern the
// station that connected last:
//
//     calls N             have N calls out at once
//     reset               call for a reset
//     clearcache          call for something that stations refuse
//     hold                announce the calls that come in, but answer none of them
//     release             answer the calls held back, and those to come
//     close CODE REASON   close the connection
//
// csms.py speaks the same lines, so that one harness drives both.

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
    // The library's schemas then judge every call and every answer of a station.
    strictMode: true,
});

let station;

// Settled, but while calls are held.
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
            // close() waits for handlers to settle, and would send what they return.
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
        // The library reports a password only where the user name is the identity.
        server.auth((accept, reject, { password }) => password?.equals(expected) ? accept() : reject(401, 'Unauthorized'));
    }
    server.on('client', welcome);
    const listener = await server.listen(Number(port), '127.0.0.1');
    say('listening', { port: listener.address().port });

    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [command, ...words] = line.trim().split(' ');
        // The next command need not wait for what stations answer to this one.
        commands[command](words);
    }
    // Whoever gave the commands is gone.
    process.exit(0);
}

main().catch(error => {
    console.error('%o', error);
    process.exit(1);
});
