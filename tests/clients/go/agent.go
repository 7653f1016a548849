package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// spireAgent holds what a SPIRE agent holds.
type spireAgent struct {
	addr   string
	td     spiffeid.TrustDomain
	bundle *x509bundle.Bundle
	key    *ecdsa.PrivateKey
	svid   *x509svid.SVID
	conn   *grpc.ClientConn
}

// runSpireAgent reads one command per line from standard input and answers each with one JSON line:
//
//	attest TOKEN | attest-same-key TOKEN | attest-csr TOKEN CSR | bundle | status | sync | authorized | sign ENTRY[=truncated|=signature|=csr:CSR]... |
//	jwt ENTRY AUDIENCE | renew | federated TD
//
// A refused call is an answer, not an end: {"code": "PermissionDenied", "message": ..., "reason": ...}.
func runSpireAgent(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("spire-agent", flag.ContinueOnError)
	addr := flags.String("addr", "", "server address")
	td := flags.String("td", "example.org", "trust domain")
	bundlePath := flags.String("bundle", "", "PEM file of the server's authorities")
	if err := flags.Parse(args); err != nil {
		return err
	}
	trustDomain, err := spiffeid.TrustDomainFromString(*td)
	if err != nil {
		return err
	}
	bundle, err := x509bundle.Load(trustDomain, *bundlePath)
	if err != nil {
		return err
	}
	agent := &spireAgent{addr: *addr, td: trustDomain, bundle: bundle}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		callCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
		answer, err := agent.do(callCtx, words[0], words[1:])
		cancel()
		if err != nil {
			answer = refusal(err)
		}
		emit(answer)
	}
	return lines.Err()
}

func refusal(err error) object {
	s := status.Convert(err)
	answer := object{"code": s.Code().String(), "message": s.Message()}
	for _, detail := range s.Details() {
		if denied, ok := detail.(*types.PermissionDeniedDetails); ok {
			answer["reason"] = denied.Reason.String()
		}
	}
	return answer
}

func (a *spireAgent) do(ctx context.Context, name string, args []string) (object, error) {
	switch name {
	case "attest":
		return a.attest(ctx, args[0], false)
	case "attest-same-key":
		return a.attest(ctx, args[0], true)
	case "attest-csr":
		csr, err := base64.StdEncoding.DecodeString(strings.Join(args[1:], ""))
		if err != nil {
			return nil, err
		}
		_, err = a.present(ctx, args[0], csr)
		return object{}, err
	case "bundle":
		bundle, err := bundlev1.NewBundleClient(a.conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
		if err != nil {
			return nil, err
		}
		return a.learn(bundle)
	case "federated":
		bundle, err := bundlev1.NewBundleClient(a.conn).GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: args[0]})
		if err != nil {
			return nil, err
		}
		return object{"trust_domain": bundle.TrustDomain, "x509": len(bundle.X509Authorities)}, nil
	case "status":
		_, err := agentv1.NewAgentClient(a.conn).PostStatus(ctx, &agentv1.PostStatusRequest{AgentVersion: "1.15.3"})
		return object{}, err
	case "sync":
		return a.sync(ctx)
	case "authorized":
		entries, err := entryv1.NewEntryClient(a.conn).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{OutputMask: entryMask})
		if err != nil {
			return nil, err
		}
		return object{"entries": describeEntries(entries.Entries)}, nil
	case "sign":
		return a.sign(ctx, args)
	case "jwt":
		made, err := svidv1.NewSVIDClient(a.conn).NewJWTSVID(ctx, &svidv1.NewJWTSVIDRequest{EntryId: args[0], Audience: args[1:]})
		if err != nil {
			return nil, err
		}
		return object{"id": made.Svid.Id.Path, "token": made.Svid.Token, "issued_at": made.Svid.IssuedAt, "expires_at": made.Svid.ExpiresAt}, nil
	case "renew":
		return a.renew(ctx)
	}
	return nil, fmt.Errorf("unknown command %q", name)
}

// entryMask is what SPIRE's agent asks for.
var entryMask = &types.EntryMask{
	SpiffeId: true, Selectors: true, FederatesWith: true, Admin: true, Downstream: true,
	RevisionNumber: true, StoreSvid: true, Hint: true, AdditionalAttributes: true, CreatedAt: true,
}

func (a *spireAgent) dial(withSVID bool) error {
	serverID, err := spiffeid.FromPath(a.td, "/spire/server")
	if err != nil {
		return err
	}
	config := tlsconfig.TLSClientConfig(a.bundle, tlsconfig.AuthorizeID(serverID))
	if withSVID {
		config = tlsconfig.MTLSClientConfig(a.svid, a.bundle, tlsconfig.AuthorizeID(serverID))
	}
	conn, err := grpc.NewClient(a.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithDisableServiceConfig())
	if err != nil {
		return err
	}
	if a.conn != nil {
		a.conn.Close()
	}
	a.conn = conn
	return nil
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newCSR(key crypto.Signer, id string) ([]byte, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}}}
	if id != "" {
		uri, err := url.Parse(id)
		if err != nil {
			return nil, err
		}
		template.URIs = []*url.URL{uri}
	}
	return x509.CreateCertificateRequest(rand.Reader, template, key)
}

func (a *spireAgent) attest(ctx context.Context, token string, sameKey bool) (object, error) {
	if !sameKey || a.key == nil {
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		a.key = key
	}
	csr, err := newCSR(a.key, "")
	if err != nil {
		return nil, err
	}
	result, err := a.present(ctx, token, csr)
	if err != nil {
		return nil, err
	}
	bundle, err := bundlev1.NewBundleClient(a.conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	if err != nil {
		return nil, err
	}
	if _, err := a.learn(bundle); err != nil {
		return nil, err
	}
	if err := a.hold(result.Svid, a.key); err != nil {
		return nil, err
	}
	return object{"id": a.svid.ID.String(), "reattestable": result.Reattestable, "serial": a.svid.Certificates[0].SerialNumber.String(), "expires_at": result.Svid.ExpiresAt}, nil
}

// present attests with a token and a CSR.
func (a *spireAgent) present(ctx context.Context, token string, csr []byte) (*agentv1.AttestAgentResponse_Result, error) {
	if err := a.dial(false); err != nil {
		return nil, err
	}
	stream, err := agentv1.NewAgentClient(a.conn).AttestAgent(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{
		Data:   &types.AttestationData{Type: "join_token", Payload: []byte(token)},
		Params: &agentv1.AgentX509SVIDParams{Csr: csr},
	}}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	result := answer.GetResult()
	if result == nil {
		return nil, errors.New("neither a result nor an error")
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	return result, nil
}

// hold takes over an SVID after the checks that SPIRE's agent makes, and connects with it.
func (a *spireAgent) hold(svid *types.X509SVID, key *ecdsa.PrivateKey) error {
	var certs []*x509.Certificate
	for _, der := range svid.CertChain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		certs = append(certs, cert)
	}
	id, _, err := x509svid.Verify(certs, a.bundle)
	if err != nil {
		return err
	}
	if svid.ExpiresAt != certs[0].NotAfter.Unix() {
		return errors.New("expires_at is not the certificate's")
	}
	a.key, a.svid = key, &x509svid.SVID{ID: id, Certificates: certs, PrivateKey: key}
	return a.dial(true)
}

func (a *spireAgent) learn(bundle *types.Bundle) (object, error) {
	var roots []*x509.Certificate
	for _, authority := range bundle.X509Authorities {
		cert, err := x509.ParseCertificate(authority.Asn1)
		if err != nil {
			return nil, err
		}
		roots = append(roots, cert)
	}
	a.bundle = x509bundle.FromX509Authorities(a.td, roots)
	kids := []string{}
	for _, authority := range bundle.JwtAuthorities {
		if _, err := x509.ParsePKIXPublicKey(authority.PublicKey); err != nil {
			return nil, err
		}
		kids = append(kids, authority.KeyId)
	}
	return object{"trust_domain": bundle.TrustDomain, "x509": len(roots), "jwt": kids, "sequence_number": bundle.SequenceNumber}, nil
}

func (a *spireAgent) renew(ctx context.Context) (object, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := newCSR(key, "")
	if err != nil {
		return nil, err
	}
	renewed, err := agentv1.NewAgentClient(a.conn).RenewAgent(ctx, &agentv1.RenewAgentRequest{Params: &agentv1.AgentX509SVIDParams{Csr: csr}})
	if err != nil {
		return nil, err
	}
	if err := a.hold(renewed.Svid, key); err != nil {
		return nil, err
	}
	return object{"serial": a.svid.Certificates[0].SerialNumber.String()}, nil
}

func (a *spireAgent) sign(ctx context.Context, entries []string) (object, error) {
	request := &svidv1.BatchNewX509SVIDRequest{}
	for _, word := range entries {
		entry, flaw, _ := strings.Cut(word, "=")
		key, err := newKey()
		if err != nil {
			return nil, err
		}
		csr, err := newCSR(key, a.td.IDString()+"/ignored")
		if err != nil {
			return nil, err
		}
		if encoded, ok := strings.CutPrefix(flaw, "csr:"); ok {
			if csr, err = base64.StdEncoding.DecodeString(encoded); err != nil {
				return nil, err
			}
		} else if flaw == "truncated" {
			csr = csr[:len(csr)/2]
		} else if flaw == "signature" {
			csr[len(csr)-1] ^= 1
		}
		request.Params = append(request.Params, &svidv1.NewX509SVIDParams{EntryId: entry, Csr: csr})
	}
	response, err := svidv1.NewSVIDClient(a.conn).BatchNewX509SVID(ctx, request)
	if err != nil {
		return nil, err
	}
	results := []object{}
	for _, result := range response.Results {
		item := object{"code": result.Status.Code, "message": result.Status.Message}
		if result.Svid != nil {
			cert, err := x509.ParseCertificate(result.Svid.CertChain[0])
			if err != nil {
				return nil, err
			}
			if _, _, err := x509svid.Verify([]*x509.Certificate{cert}, a.bundle); err != nil && len(result.Svid.CertChain) == 1 {
				return nil, err
			}
			item["id"] = cert.URIs[0].String()
			item["lifetime"] = cert.NotAfter.Unix() - time.Now().Unix()
			item["dns_names"] = cert.DNSNames
		}
		results = append(results, item)
	}
	return object{"results": results}, nil
}
