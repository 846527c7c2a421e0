// A charging station on the npm library `ocpp-rpc`.
//
//     node station.js URL IDENTITY PROTOCOL
//
// Events are printed as one JSON object per line. Commands are read from stdin, one per line:
//
//     heartbeat           send Heartbeat
//     calls N             send N calls of common actions concurrently
//     unknown             call an action that no backend implements
//     hold                report incoming calls, but send no responses
//     release             send the held responses, and respond to later calls
//     close CODE REASON   close the connection and exit
//
// The variables STATION_CA, STATION_CERT and STATION_KEY name PEM files for endpoints that begin with wss://.
//
// station.py has the same commands and events, so one harness drives both.

const { once } = require('events');
const { readFileSync } = require('fs');
const readline = require('readline');
const { NOREPLY, RPCClient, UnexpectedHttpResponse, createRPCError } = require('ocpp-rpc');

const [endpoint, identity, protocol] = process.argv.slice(2);

const NOON = '2024-06-01T12:00:00Z';
const DIALECTS = {
    'ocpp1.6': {
        boot: { chargePointVendor: 'Interop', chargePointModel: 'npm' },
        everyday: [
            ['Heartbeat', {}],
            ['StatusNotification', { connectorId: 1, errorCode: 'NoError', status: 'Available' }],
            ['MeterValues', { connectorId: 1, meterValue: [{ timestamp: NOON, sampledValue: [{ value: '16.2' }] }] }],
            ['Authorize', { idTag: '0402A1B2' }],
            ['DataTransfer', { vendorId: 'org.example', messageId: 'seal', data: 'intact' }],
        ],
        localListVersion: { listVersion: 7 },
    },
    'ocpp2.0.1': {
        boot: { reason: 'PowerUp', chargingStation: { vendorName: 'Interop', model: 'npm' } },
        everyday: [
            ['Heartbeat', {}],
            ['StatusNotification', { timestamp: NOON, connectorStatus: 'Available', evseId: 1, connectorId: 1 }],
            ['MeterValues', { evseId: 1, meterValue: [{ timestamp: NOON, sampledValue: [{ value: 16.2 }] }] }],
            ['Authorize', { idToken: { idToken: '0402A1B2', type: 'ISO14443' } }],
            ['DataTransfer', { vendorId: 'org.example', messageId: 'seal', data: 'intact' }],
        ],
        localListVersion: { versionNumber: 7 },
    },
};
const dialect = DIALECTS[protocol];

const { STATION_CA, STATION_CERT, STATION_KEY } = process.env;
const wsOpts = Object.fromEntries(
    Object.entries({ ca: STATION_CA, cert: STATION_CERT, key: STATION_KEY })
        .filter(([, path]) => path)
        .map(([name, path]) => [name, readFileSync(path)]),
);

const client = new RPCClient({
    endpoint,
    wsOpts,
    identity,
    protocols: [protocol],
    reconnect: false,
    callConcurrency: 100,
    callTimeoutMs: 20_000,
    // The library then validates every response of the backend by its schemas.
    strictMode: true,
});

// Pending while calls are held.
let answering = Promise.resolve();
let release = () => {};

function say(event, facts) {
    process.stdout.write(JSON.stringify({ event, ...facts }) + '\n');
}

function answer(action, reply) {
    client.handle(action, async ({ signal }) => {
        say('call', { action });
        await Promise.race([answering, once(signal, 'abort')]);
        // close() waits for handlers and would send their results.
        return signal.aborted ? NOREPLY : reply();
    });
}

answer('Reset', () => ({ status: 'Accepted' }));
answer('GetLocalListVersion', () => dialect.localListVersion);
answer('ClearCache', () => {
    throw createRPCError('InternalError', 'no cache here', {});
});

const commands = {
    async heartbeat() {
        const { currentTime } = await client.call('Heartbeat', {});
        say('heartbeat', { currentTime });
    },

    async calls([count]) {
        const { everyday } = dialect;
        const calls = Array.from({ length: Number(count) }, (_, n) => client.call(...everyday[n % everyday.length]));
        const refused = (await Promise.allSettled(calls)).filter(({ status }) => status === 'rejected');
        refused.forEach(({ reason }) => console.error('%s: %o', identity, reason));
        say('calls', { ok: calls.length - refused.length, failed: refused.length });
    },

    async unknown() {
        // Strict mode has no schema for the action and would not send the call.
        client.reconfigure({ strictMode: false });
        try {
            await client.call('NoSuchAction', {});
        } catch (error) {
            say('error', { code: error.rpcErrorCode });
        }
    },

    hold() {
        answering = new Promise(resolve => { release = resolve; });
        say('holding');
    },

    release() {
        release();
        say('released');
    },

    async close([code, ...reason]) {
        await client.close({ code: Number(code), reason: reason.join(' ') });
    },
};

async function main() {
    client.once('open', () => {
        client.once('close', ({ code, reason }) => {
            say('closed', { code, reason });
            process.exit(0);
        });
    });

    try {
        await client.connect();
    } catch (error) {
        if (!(error instanceof UnexpectedHttpResponse)) {
            throw error;
        }
        say('refused', { status: error.code });
        process.exit(0);
    }
    say('open', { protocol: client.protocol });

    const { status, interval } = await client.call('BootNotification', dialect.boot);
    say('boot', { status, interval });

    for await (const line of readline.createInterface({ input: process.stdin })) {
        const [command, ...words] = line.trim().split(' ');
        await commands[command](words);
    }
    // The harness has closed stdin.
    await client.close({ code: 1001 });
}

main().catch(error => {
    console.error('%s: %o', identity, error);
    process.exit(1);
});
