"""A greeter: the server greets whoever has the right SPIFFE ID, and the client calls nobody else."""

import os
import sys

from cryptography import x509
from spiffe import X509Source
from spiffetls import ListenOptions, dial, listen
from spiffetls.mode import ClientTlsMode, ServerTlsMode


def id_of(certificate):
    names = certificate.to_cryptography().extensions
    names = names.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def serve(source, address, peer):
    options = ListenOptions(
        tls_mode=ServerTlsMode.MTLS, authorize_fn=lambda certificate: id_of(certificate) == peer
    )
    listener = listen(address, source, options)
    while True:
        connection, _ = listener.accept()
        try:
            connection.do_handshake()
            connection.recv(100)
            connection.sendall(f"hello {id_of(connection.get_peer_certificate())}\n".encode())
            connection.shutdown()
        except Exception as error:
            print("refused:", error, file=sys.stderr)
        finally:
            connection.close()


def call(source, address, peer):
    connection = dial(
        address,
        source,
        tls_mode=ClientTlsMode.TLS,
        authorize_fn=lambda certificate: id_of(certificate) == peer,
    )
    connection.sendall(b"hi\n")
    print(connection.recv(100).decode(), end="")


if __name__ == "__main__":
    command, address, peer = sys.argv[1:]
    code = 0
    try:
        # The source keeps the identity fresh; SPIFFE_ENDPOINT_SOCKET says where from.
        x509_source = X509Source(timeout_in_seconds=10.0)
        {"serve": serve, "call": call}[command](x509_source, address, peer)
    except Exception as error:
        print("error:", error, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    # Threads of the library would keep the program alive.
    os._exit(code)
