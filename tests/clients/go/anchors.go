package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

type anchorCase struct {
	Name  string
	Now   int64
	Roots [][]byte
	CA    []byte
	Leaf  []byte
}

// judgeAnchors reads cases from a file (a JSON list) and says of each what Go thinks of it: as an
// X.509-SVID, as a node's certificate (any usage), as a TLS server's, and of its CA alone.
func judgeAnchors(_ context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("expected one file of cases")
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var cases []anchorCase
	if err := json.Unmarshal(text, &cases); err != nil {
		return err
	}
	for _, c := range cases {
		svid, chain, server, ca := c.judge()
		emit(object{
			"name": c.Name, "svid": verdict(svid), "any": verdict(chain),
			"server": verdict(server), "ca": verdict(ca),
		})
	}
	return nil
}

func verdict(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

func (c anchorCase) judge() (svid, chain, server, ca error) {
	all := func(err error) (error, error, error, error) { return err, err, err, err }
	now := time.Unix(c.Now, 0)
	roots := x509.NewCertPool()
	bundle := x509bundle.New(spiffeid.RequireTrustDomainFromString("example.org"))
	for _, der := range c.Roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return all(err)
		}
		roots.AddCert(root)
		bundle.AddX509Authority(root)
	}
	caCert, err := x509.ParseCertificate(c.CA)
	if err != nil {
		return all(err)
	}
	leaf, err := x509.ParseCertificate(c.Leaf)
	if err != nil {
		return all(err)
	}
	intermediates := x509.NewCertPool()
	intermediates.AddCert(caCert)
	verify := func(cert *x509.Certificate, usages ...x509.ExtKeyUsage) error {
		_, err := cert.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: usages,
		})
		return err
	}
	_, _, svid = x509svid.Verify(
		[]*x509.Certificate{leaf, caCert}, bundle, x509svid.WithTime(now))
	return svid, verify(leaf, x509.ExtKeyUsageAny), verify(leaf), verify(caCert)
}
