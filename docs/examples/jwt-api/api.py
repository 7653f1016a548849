"""An HTTP API that answers whoever shows a JWT-SVID for it, and names the caller.

The audience is the name under which callers know this API: a token that was made for another one
is worth nothing here.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from spiffe import WorkloadApiClient

PORT, AUDIENCE, CALLER = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return self.answer(401, "a JWT-SVID is needed: Authorization: Bearer TOKEN")
        try:
            with WorkloadApiClient() as client:
                svid = client.validate_jwt_svid(token, AUDIENCE, timeout=10.0)
        except Exception:
            return self.answer(401, "the token is not valid here")
        if str(svid.spiffe_id) != CALLER:
            return self.answer(403, f"{svid.spiffe_id} may not use this API")
        return self.answer(200, f"hello {svid.spiffe_id}")

    def answer(self, status, text):
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", PORT), Api).serve_forever()
