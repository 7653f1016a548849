package test;

import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.bundle.x509bundle.X509Bundle;
import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.spiffeid.TrustDomain;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.svid.x509svid.X509Svid;
import io.spiffe.svid.x509svid.X509SvidValidator;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/** Speaks to the Workload API with java-spiffe; each command prints JSON lines. */
public final class Clients {
    public static void main(String[] args) {
        try {
            run(args);
            System.exit(0);
        } catch (Throwable e) {
            // Threads of the library would keep the program alive.
            for (Throwable cause = e; cause != null; cause = cause.getCause()) {
                System.err.println("error: " + cause);
            }
            System.exit(1);
        }
    }

    private static void run(String[] args) throws Exception {
        switch (args.length == 0 ? "" : args[0]) {
            case "x509" -> {
                try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
                    System.out.println(describe(client.fetchX509Context()));
                }
            }
            case "watch" -> watch();
            case "bundles" -> bundles();
            case "jwt" -> jwt(args[1].split(","));
            case "validate" -> validate(args[1], args[2]);
            case "serve" -> serve(SpiffeId.parse(args[1]));
            case "call" -> call(Integer.parseInt(args[1]), SpiffeId.parse(args[2]));
            default -> {
                System.err.println("usage: Clients COMMAND [ARGUMENT...]");
                System.exit(64);
            }
        }
    }

    private static String describe(X509Context context) {
        List<String> svids = new ArrayList<>();
        for (X509Svid svid : context.getX509Svids()) {
            X509Certificate leaf = svid.getLeaf();
            boolean verified = true;
            try {
                X509SvidValidator.verifyChain(svid.getChain(), context.getX509BundleSet());
            } catch (Exception e) {
                verified = false;
            }
            svids.add(object(
                    "id", text(svid.getSpiffeId()), "hint", text(svid.getHint()), "serial", text(leaf.getSerialNumber()),
                    "not_after", leaf.getNotAfter().getTime() / 1000, "chain", svid.getChain().size(), "verified", verified));
        }
        List<Object> authorities = new ArrayList<>();
        for (Map.Entry<TrustDomain, X509Bundle> bundle : context.getX509BundleSet().getBundles().entrySet()) {
            authorities.add(bundle.getKey().getName());
            authorities.add(bundle.getValue().getX509Authorities().size());
        }
        return object("svids", "[" + String.join(",", svids) + "]", "authorities", object(authorities.toArray()));
    }

    private static void watch() throws Exception {
        WorkloadApiClient client = DefaultWorkloadApiClient.newClient();
        client.watchX509Context(new Watcher<>() {
            @Override
            public void onUpdate(X509Context update) {
                System.out.println(describe(update));
            }

            @Override
            public void onError(Throwable e) {
                System.out.println(object("error", text(e)));
            }
        });
        new CountDownLatch(1).await();
    }

    private static void bundles() throws Exception {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
            List<Object> x509 = new ArrayList<>();
            client.fetchX509Bundles().getBundles().forEach((td, bundle) -> {
                x509.add(td.getName());
                x509.add(bundle.getX509Authorities().size());
            });
            List<Object> jwt = new ArrayList<>();
            client.fetchJwtBundles().getBundles().forEach((td, bundle) -> {
                jwt.add(td.getName());
                jwt.add("[" + bundle.getJwtAuthorities().keySet().stream().map(Clients::text).collect(Collectors.joining(",")) + "]");
            });
            System.out.println(object("x509", object(x509.toArray()), "jwt", object(jwt.toArray())));
        }
    }

    private static void jwt(String[] audience) throws Exception {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
            JwtSvid svid = client.fetchJwtSvid(audience[0], Arrays.copyOfRange(audience, 1, audience.length));
            System.out.println(object("id", text(svid.getSpiffeId()), "token", text(svid.getToken()), "hint", text(svid.getHint()),
                    "expiry", svid.getExpiry().getTime() / 1000));
        }
    }

    private static void validate(String audience, String token) throws Exception {
        try (WorkloadApiClient client = DefaultWorkloadApiClient.newClient()) {
            JwtSvid svid = client.validateJwtSvid(token, audience);
            JwtBundleSet bundles = client.fetchJwtBundles();
            JwtSvid.parseAndValidate(token, bundles, Set.of(audience));
            System.out.println(object("id", text(svid.getSpiffeId())));
        }
    }

    private static SSLContext context(DefaultX509Source source, SpiffeId peer) throws Exception {
        return SpiffeSslContextFactory.getSslContext(
                SslContextOptions.builder().x509Source(source).acceptedSpiffeIdsSupplier(() -> Set.of(peer)).build());
    }

    private static void serve(SpiffeId allowed) throws Exception {
        DefaultX509Source source = DefaultX509Source.newSource();
        try (SSLServerSocket listener = (SSLServerSocket) context(source, allowed).getServerSocketFactory().createServerSocket(0)) {
            listener.setNeedClientAuth(true);
            System.out.println(object("port", listener.getLocalPort()));
            while (true) {
                try (SSLSocket socket = (SSLSocket) listener.accept()) {
                    socket.setSoTimeout(10_000);
                    line(socket);
                    X509Certificate peer = (X509Certificate) socket.getSession().getPeerCertificates()[0];
                    String id = peer.getSubjectAlternativeNames().stream().filter(name -> name.get(0).equals(6))
                            .map(name -> name.get(1).toString()).findFirst().orElse("");
                    write(socket, "hello " + id);
                } catch (Exception e) {
                    System.err.println("refused: " + e);
                }
            }
        }
    }

    private static void call(int port, SpiffeId expected) throws Exception {
        DefaultX509Source source = DefaultX509Source.newSource();
        try (SSLSocket socket = (SSLSocket) context(source, expected).getSocketFactory().createSocket("127.0.0.1", port)) {
            socket.setSoTimeout(10_000);
            write(socket, "hello");
            System.out.println(object("reply", text(line(socket))));
        }
    }

    private static String line(SSLSocket socket) throws Exception {
        return new BufferedReader(new InputStreamReader(socket.getInputStream(), StandardCharsets.UTF_8)).readLine();
    }

    private static void write(SSLSocket socket, String text) throws Exception {
        OutputStream out = socket.getOutputStream();
        out.write((text + "\n").getBytes(StandardCharsets.UTF_8));
        out.flush();
    }

    /** A JSON object of names and already encoded values. */
    private static String object(Object... pairs) {
        StringBuilder out = new StringBuilder("{");
        for (int i = 0; i < pairs.length; i += 2) {
            out.append(i == 0 ? "" : ",").append(text(pairs[i])).append(':').append(pairs[i + 1]);
        }
        return out.append('}').toString();
    }

    private static String text(Object value) {
        String plain = value == null ? "" : value.toString();
        return "\"" + plain.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", " ") + "\"";
    }

    private Clients() {}
}
