package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// fetchFederated fetches a bundle with go-spiffe's federation client:
// TRUST_DOMAIN URL spiffe ENDPOINT_ID BUNDLE_FILE, or TRUST_DOMAIN URL web CA_FILE.
func fetchFederated(ctx context.Context, args []string) error {
	if len(args) < 4 {
		return errors.New("too few arguments")
	}
	domain, err := spiffeid.TrustDomainFromString(args[0])
	if err != nil {
		return err
	}
	var option federation.FetchOption
	switch args[2] {
	case "spiffe":
		id, err := spiffeid.FromString(args[3])
		if err != nil {
			return err
		}
		known, err := spiffebundle.Load(id.TrustDomain(), args[4])
		if err != nil {
			return err
		}
		option = federation.WithSPIFFEAuth(known, id)
	case "web":
		roots, err := certPool(args[3])
		if err != nil {
			return err
		}
		option = federation.WithWebPKIRoots(roots)
	}
	bundle, err := federation.FetchBundle(ctx, domain, args[1], option)
	if err != nil {
		emit(object{"error": err.Error()})
		return nil
	}
	hint, _ := bundle.RefreshHint()
	sequence, _ := bundle.SequenceNumber()
	emit(object{
		"x509":     len(bundle.X509Authorities()),
		"jwt":      len(bundle.JWTAuthorities()),
		"hint":     int(hint / time.Second),
		"sequence": sequence,
	})
	return nil
}

// serveFederated serves a bundle file with go-spiffe's handler and an SVID of files:
// TRUST_DOMAIN BUNDLE_FILE CERT_FILE KEY_FILE. The file is read for each request.
func serveFederated(ctx context.Context, args []string) error {
	domain, err := spiffeid.TrustDomainFromString(args[0])
	if err != nil {
		return err
	}
	svid, err := x509svid.Load(args[2], args[3])
	if err != nil {
		return err
	}
	serve := func(w http.ResponseWriter, r *http.Request) {
		bundle, err := spiffebundle.Load(domain, args[1])
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		handler, err := federation.NewHandler(domain, bundle)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		handler.ServeHTTP(w, r)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(serve),
		TLSConfig:         tlsconfig.TLSServerConfig(svid),
		ReadHeaderTimeout: 10 * time.Second,
	}
	emit(object{"url": fmt.Sprintf("https://%s/", listener.Addr())})
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// verifyOIDC verifies a token by discovery, as relying parties in Go do:
// ISSUER AUDIENCE CA_FILE TOKEN.
func verifyOIDC(ctx context.Context, args []string) error {
	roots, err := certPool(args[2])
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		Timeout:   10 * time.Second,
	}
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), args[0])
	if err != nil {
		emit(object{"error": err.Error()})
		return nil
	}
	token, err := provider.Verifier(&oidc.Config{ClientID: args[1]}).Verify(ctx, args[3])
	if err != nil {
		emit(object{"error": err.Error()})
		return nil
	}
	emit(object{"subject": token.Subject, "issuer": token.Issuer, "audience": token.Audience})
	return nil
}

func certPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return pool, nil
}
