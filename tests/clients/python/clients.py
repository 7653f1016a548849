"""Speaks to the Workload API with py-spiffe; each command prints JSON lines."""

import json
import sys
import threading

from cryptography import x509
from OpenSSL import SSL
from spiffe import JwtSvid, WorkloadApiClient, X509Source
from spiffetls import ListenOptions, dial, listen
from spiffetls.mode import ClientTlsMode, ServerTlsMode

TIMEOUT = 10.0


def emit(value):
    print(json.dumps(value), flush=True)


def describe(context):
    bundles = context.x509_bundle_set
    svids = []
    for svid in context.x509_svids:
        bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        svids.append(
            {
                "id": str(svid.spiffe_id),
                "serial": str(svid.leaf.serial_number),
                "not_after": int(svid.leaf.not_valid_after_utc.timestamp()),
                "chain": len(svid.cert_chain),
                "verified": any(issued(svid, root) for root in bundle.x509_authorities),
            }
        )
    authorities = {b.trust_domain.name: len(b.x509_authorities) for b in bundles.bundles}
    return {"svids": svids, "authorities": authorities}


def issued(svid, root):
    try:
        svid.cert_chain[-1].verify_directly_issued_by(root)
        return True
    except Exception:
        return False


def fetch(_):
    with WorkloadApiClient() as client:
        emit(describe(client.fetch_x509_context(timeout=TIMEOUT)))


def watch(_):
    client = WorkloadApiClient()
    client.stream_x509_contexts(
        on_success=lambda context: emit(describe(context)),
        on_error=lambda error: emit({"error": str(error)}),
    )
    threading.Event().wait()


def bundles(_):
    with WorkloadApiClient() as client:
        certs = client.fetch_x509_bundles(timeout=TIMEOUT).bundles
        keys = client.fetch_jwt_bundles(timeout=TIMEOUT).bundles
    emit(
        {
            "x509": {b.trust_domain.name: len(b.x509_authorities) for b in certs},
            "jwt": {b.trust_domain.name: list(b.jwt_authorities) for b in keys},
        }
    )


def jwt(args):
    with WorkloadApiClient() as client:
        svid = client.fetch_jwt_svid(audience=set(args[0].split(",")), timeout=TIMEOUT)
    emit({"id": str(svid.spiffe_id), "token": svid.token, "expiry": svid.expiry})


def validate(args):
    audience, token = args
    with WorkloadApiClient() as client:
        svid = client.validate_jwt_svid(token, audience, timeout=TIMEOUT)
        keys = client.fetch_jwt_bundles(timeout=TIMEOUT)
    bundle = keys.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    JwtSvid.parse_and_validate(token, bundle, {audience})
    emit({"id": str(svid.spiffe_id)})


def peer_id(cert):
    names = cert.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)[0]


def serve(args):
    with X509Source(timeout_in_seconds=TIMEOUT) as source:
        options = ListenOptions(
            tls_mode=ServerTlsMode.MTLS, authorize_fn=lambda cert: peer_id(cert) == args[0]
        )
        listener = listen("127.0.0.1:0", source, options)
        emit({"port": listener.getsockname()[1]})
        while True:
            conn, _ = listener.accept()
            try:
                conn.do_handshake()
                conn.recv(64)
                conn.sendall(f"hello {peer_id(conn.get_peer_certificate())}\n".encode())
                conn.shutdown()
            except SSL.Error as error:
                print("refused:", error, file=sys.stderr)
            finally:
                conn.close()


def call(args):
    with X509Source(timeout_in_seconds=TIMEOUT) as source:
        conn = dial(
            f"127.0.0.1:{args[0]}",
            source,
            tls_mode=ClientTlsMode.TLS,
            authorize_fn=lambda cert: peer_id(cert) == args[1],
        )
        conn.sendall(b"hello\n")
        emit({"reply": conn.recv(1024).decode().strip()})


COMMANDS = {
    "x509": fetch,
    "watch": watch,
    "bundles": bundles,
    "jwt": jwt,
    "validate": validate,
    "serve": serve,
    "call": call,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(64)
    try:
        COMMANDS[sys.argv[1]](sys.argv[2:])
    except Exception as error:
        print("error:", error, file=sys.stderr)
        sys.exit(1)
