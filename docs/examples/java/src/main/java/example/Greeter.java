package example;

import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.workloadapi.DefaultX509Source;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Set;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/** A greeter: the server greets whoever has the right SPIFFE ID, and the client calls nobody else. */
public final class Greeter {
    public static void main(String[] args) {
        try {
            // The source keeps the identity fresh; SPIFFE_ENDPOINT_SOCKET says where from.
            SSLContext tls = SpiffeSslContextFactory.getSslContext(SslContextOptions.builder()
                    .x509Source(DefaultX509Source.newSource())
                    .acceptedSpiffeIdsSupplier(() -> Set.of(SpiffeId.parse(args[2])))
                    .build());
            int port = Integer.parseInt(args[1]);
            if (args[0].equals("serve")) {
                serve(tls, port, args[2]);
            } else {
                call(tls, port);
            }
            System.exit(0);
        } catch (Exception e) {
            for (Throwable cause = e; cause != null; cause = cause.getCause()) {
                System.err.println(cause);
            }
            // Threads of the library would keep the program alive.
            System.exit(1);
        }
    }

    private static void serve(SSLContext tls, int port, String peer) throws Exception {
        try (SSLServerSocket listener = (SSLServerSocket) tls.getServerSocketFactory().createServerSocket(port)) {
            listener.setNeedClientAuth(true);
            while (true) {
                try (SSLSocket socket = (SSLSocket) listener.accept()) {
                    socket.setSoTimeout(10_000);
                    socket.getOutputStream().write(("hello " + peer + "\n").getBytes(StandardCharsets.UTF_8));
                } catch (Exception e) {
                    System.err.println("refused: " + e);
                }
            }
        }
    }

    private static void call(SSLContext tls, int port) throws Exception {
        try (SSLSocket socket = (SSLSocket) tls.getSocketFactory().createSocket("127.0.0.1", port)) {
            socket.setSoTimeout(10_000);
            System.out.println(new BufferedReader(
                    new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine());
        }
    }

    private Greeter() {}
}
