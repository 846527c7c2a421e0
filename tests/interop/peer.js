// Either end on the npm library `ocpp-rpc`. It runs commands and reports every event of the connection.
//
//     node peer.js server PROTOCOL            listens on loopback, on a free port, for one station at a time
//     node peer.js client PROTOCOL URL        a station that connects on command
//
// Commands are read from stdin, and events are printed, as one JSON object per line:
//
//     {"do":"connect"}                                client only; then `open`, or `refused` with status and body
//     {"do":"reject","status":401,"body":"…"}         server only; refuses later handshakes
//     {"do":"call","action":"A","params":{}}          then `outcome`, with `result` or `error`
//     {"do":"answer","action":"A","with":…}           for later calls: {"result":…}, {"error":[code,text,details]},
//                                                     {"call":"B"} for the peer's response to B, or "hold"
//     {"do":"release"}                                sends {} as the response to held calls
//     {"do":"raw","text":"…"}                         sends the text unchanged
//     {"do":"close","code":1000,"reason":"","awaitPending":false}
//
// `received` contains a received message, `bad` the text of a malformed one, and `closed` the code and reason.

const readline = require('readline');
const { RPCClient, RPCServer, UnexpectedHttpResponse, createRPCError } = require('ocpp-rpc');

const [role, protocol, endpoint] = process.argv.slice(2);

let peer;
let rejection;
let held = [];
const answers = new Map();

function say(event, facts) {
    process.stdout.write(JSON.stringify({ event, ...facts }) + '\n');
}

function watch(client) {
    peer = client;
    client.on('message', ({ message, outbound }) => {
        if (!outbound) {
            try {
                say('received', { frame: JSON.parse(message.toString()) });
            } catch {
                // Reported as a bad message.
            }
        }
    });
    client.on('badMessage', ({ buffer }) => say('bad', { text: buffer.toString() }));
    client.on('close', ({ code, reason }) => say('closed', { code, reason }));
    client.handle(async ({ method, signal }) => {
        const answer = answers.get(method);
        if (answer === 'hold') {
            await new Promise(resolve => {
                held.push(resolve);
                signal.addEventListener('abort', resolve);
            });
            return {};
        }
        if (answer?.call) {
            return await client.call(answer.call, {});
        }
        if (answer?.error) {
            const [rpcErrorCode, text, details] = answer.error;
            throw Object.assign(new Error(text), { rpcErrorCode, details });
        }
        if (!answer) {
            throw createRPCError('NotImplemented', `no ${method} here`);
        }
        return answer.result;
    });
}

const commands = {
    async connect() {
        try {
            await peer.connect();
            say('open', { protocol: peer.protocol });
        } catch (error) {
            if (!(error instanceof UnexpectedHttpResponse)) {
                throw error;
            }
            say('refused', { status: error.code, body: error.message });
        }
    },

    reject({ status, body }) {
        rejection = [status, body];
        say('rejecting');
    },

    async call({ action, params }) {
        try {
            say('outcome', { action, result: await peer.call(action, params ?? {}) });
        } catch (error) {
            const { rpcErrorCode: code, message: text, details } = error;
            say('outcome', { action, error: [code ?? error.constructor.name, text, details] });
        }
    },

    answer({ action, with: answer }) {
        answers.set(action, answer);
        say('ready');
    },

    release() {
        held.forEach(resolve => resolve());
        held = [];
    },

    raw({ text }) {
        peer.sendRaw(text);
    },

    close({ code, reason, awaitPending }) {
        peer.close({ code, reason, awaitPending });
    },
};

async function main() {
    if (role === 'server') {
        const server = new RPCServer({ protocols: [protocol], respondWithDetailedErrors: false });
        server.auth((accept, reject) => rejection ? reject(...rejection) : accept());
        server.on('client', client => {
            watch(client);
            say('connected', { identity: client.identity, protocol: client.protocol });
        });
        const listener = await server.listen(0, '127.0.0.1');
        say('listening', { port: listener.address().port });
    } else {
        watch(new RPCClient({ endpoint, identity: 'CP-1', protocols: [protocol], reconnect: false }));
    }
    for await (const line of readline.createInterface({ input: process.stdin })) {
        const command = JSON.parse(line);
        // Not awaited, because later commands must not wait for the outcome.
        Promise.resolve(commands[command.do](command)).catch(error => console.error('%o', error));
    }
    process.exit(0);
}

main().catch(error => {
    console.error('%o', error);
    process.exit(1);
});
