// A server on the npm module `ocpp-rpc`: node npm.js PORT
const { RPCServer } = require('ocpp-rpc');

const server = new RPCServer({ protocols: ['ocpp1.6'] });
server.auth((accept) => accept());
server.on('client', (client) => {
    const now = () => new Date().toISOString();
    client.handle('Heartbeat', () => ({ currentTime: now() }));
    client.handle('BootNotification', () => ({ currentTime: now(), interval: 300, status: 'Accepted' }));
    client.handle('MeterValues', () => ({}));
});
server.listen(Number(process.argv[2]), '127.0.0.1');
