package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func describe(x *workloadapi.X509Context) object {
	svids := []object{}
	for _, svid := range x.SVIDs {
		leaf := svid.Certificates[0]
		// The chain must lead to the bundle that came with it.
		_, _, err := x509svid.Verify(svid.Certificates, x.Bundles)
		svids = append(svids, object{
			"id": svid.ID.String(), "hint": svid.Hint, "serial": leaf.SerialNumber.String(),
			"not_after": leaf.NotAfter.Unix(), "chain": len(svid.Certificates),
			"dns_names": leaf.DNSNames, "subject": leaf.Subject.String(), "verified": err == nil,
		})
	}
	authorities := object{}
	for _, bundle := range x.Bundles.Bundles() {
		authorities[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	return object{"svids": svids, "authorities": authorities}
}

func fetchX509(ctx context.Context, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	x, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	emit(describe(x))
	return nil
}

// execTwice fetches, then becomes another program (the same code under another path) that fetches
// again: same pid, other executable. Arguments: the other program's path.
func execTwice(ctx context.Context, args []string) error {
	if err := fetchX509(ctx, nil); err != nil {
		return err
	}
	return syscall.Exec(args[0], []string{args[0], "x509"}, os.Environ())
}

type watcher struct {
	seen chan object
}

func (w watcher) OnX509ContextUpdate(x *workloadapi.X509Context) { w.seen <- describe(x) }
func (w watcher) OnX509ContextWatchError(err error) {
	w.seen <- object{"error": err.Error()}
}

// watchX509 prints every update, and every error that the library retries after, until it is ended.
func watchX509(ctx context.Context, _ []string) error {
	w := watcher{make(chan object, 64)}
	done := make(chan error, 1)
	go func() { done <- workloadapi.WatchX509Context(ctx, w) }()
	for {
		select {
		case update := <-w.seen:
			emit(update)
		case err := <-done:
			return err
		}
	}
}

func fetchBundles(ctx context.Context, _ []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	x509, jwt := object{}, object{}
	certs, err := workloadapi.FetchX509Bundles(ctx)
	if err != nil {
		return err
	}
	for _, bundle := range certs.Bundles() {
		x509[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	keys, err := workloadapi.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	for _, bundle := range keys.Bundles() {
		jwt[bundle.TrustDomain().Name()] = kids(bundle)
	}
	emit(object{"x509": x509, "jwt": jwt})
	return nil
}

func kids(bundle *jwtbundle.Bundle) []string {
	out := []string{}
	for kid := range bundle.JWTAuthorities() {
		out = append(out, kid)
	}
	return out
}

// fetchJWT takes audiences separated by commas.
func fetchJWT(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	audience := strings.Split(args[0], ",")
	svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience[0], ExtraAudiences: audience[1:]})
	if err != nil {
		return err
	}
	emit(object{"id": svid.ID.String(), "token": svid.Marshal(), "audience": svid.Audience, "expiry": svid.Expiry.Unix(), "hint": svid.Hint})
	return nil
}

// validateJWT checks a token twice: by the agent, and in the library with the agent's bundles.
func validateJWT(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	svid, err := workloadapi.ValidateJWTSVID(ctx, args[1], args[0])
	if err != nil {
		return fmt.Errorf("by the agent: %w", err)
	}
	bundles, err := workloadapi.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	if _, err := jwtsvid.ParseAndValidate(args[1], bundles, []string{args[0]}); err != nil {
		return fmt.Errorf("by the library: %w", err)
	}
	emit(object{"id": svid.ID.String(), "claims": svid.Claims})
	return nil
}

// serveMTLS greets each caller that has the ID given by its ID.
func serveMTLS(ctx context.Context, args []string) error {
	allowed, err := spiffeid.FromString(args[0])
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(allowed)))
	if err != nil {
		return err
	}
	emit(object{"port": listener.Addr().(*net.TCPAddr).Port})
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go greet(conn.(*tls.Conn))
	}
}

func greet(conn *tls.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		return
	}
	if peer, err := x509svid.IDFromCert(conn.ConnectionState().PeerCertificates[0]); err == nil {
		fmt.Fprintf(conn, "hello %s\n", peer)
	}
}

// callMTLS calls the port given, expects the server's ID given, and prints what it was greeted with.
func callMTLS(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	expected, err := spiffeid.FromString(args[1])
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(expected)))
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintln(conn, "hello")
	reply, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	emit(object{"reply": strings.TrimSpace(reply)})
	return nil
}
