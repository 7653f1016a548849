// A greeter that knows nothing of SPIFFE but files and names: Node's own TLS, certificates that the
// helper keeps fresh, and the SPIFFE ID of the peer in its certificate.
'use strict';

const fs = require('node:fs');
const https = require('node:https');

const [command, dir, port, peer] = process.argv.slice(2);

function files() {
  return {
    cert: fs.readFileSync(`${dir}/svid.pem`),
    key: fs.readFileSync(`${dir}/key.pem`),
    ca: fs.readFileSync(`${dir}/bundle.pem`),
  };
}

function idOf(certificate) {
  const names = (certificate.subjectaltname || '').split(', ');
  return names.filter((name) => name.startsWith('URI:')).map((name) => name.slice(4))[0];
}

if (command === 'serve') {
  const server = https.createServer(
    { ...files(), requestCert: true, rejectUnauthorized: true },
    (request, response) => {
      const id = idOf(request.socket.getPeerCertificate());
      response.statusCode = id === peer ? 200 : 403;
      response.end(id === peer ? `hello ${id}\n` : `${id} is not welcome\n`);
    },
  );
  // The helper replaces all files in one step; this picks them up.
  fs.watch(dir, () => {
    try {
      server.setSecureContext(files());
    } catch (error) {
      console.error(`not taken: ${error.message}`);
    }
  });
  server.listen(Number(port), '127.0.0.1');
} else {
  const request = https.get(
    {
      ...files(),
      host: '127.0.0.1',
      port: Number(port),
      // A SPIFFE ID instead of a host name.
      checkServerIdentity: (_, certificate) =>
        idOf(certificate) === peer ? undefined : new Error(`the server is ${idOf(certificate)}`),
    },
    (response) => {
      response.pipe(process.stdout);
      process.exitCode = response.statusCode === 200 ? 0 : 1;
    },
  );
  request.on('error', (error) => {
    console.error(error.message);
    process.exit(1);
  });
}
