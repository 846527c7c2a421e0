// A mirror on the npm library `ws`. It sends every message back as it came, so it answers a call by the same call, and
// the response to that call is its response to the first one.
//
//     node mirror_ws.js client URL [OPTIONS]
//     node mirror_ws.js server [OPTIONS]
//
// OPTIONS are the library's options of permessage-deflate as JSON. Without them, the mirror does not compress. The first
// message is a call of the mirror, which reports the extensions of the connection.

const { WebSocket, WebSocketServer } = require('ws');

const [role, ...rest] = process.argv.slice(2);
const url = role === 'client' ? rest.shift() : undefined;
const perMessageDeflate = rest.length > 0 && { threshold: 0, ...JSON.parse(rest[0]) };

function mirror(socket) {
    socket.send(JSON.stringify([2, 'report', 'DataTransfer', { vendorId: 'report', data: socket.extensions }]));
    socket.on('message', data => {
        const text = data.toString();
        if (!text.startsWith('[3,"report"')) {
            socket.send(text);
        }
    });
}

if (role === 'client') {
    const socket = new WebSocket(url, ['ocpp1.6'], { perMessageDeflate });
    socket.on('open', () => mirror(socket));
} else {
    const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate });
    server.on('connection', mirror);
    server.on('listening', () => console.log(JSON.stringify({ event: 'listening', port: server.address().port })));
}
