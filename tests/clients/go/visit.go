package main

import (
	"context"
	"crypto/tls"
	"flag"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// visit calls a server with an SVID from files, or with none, and prints what each call answers.
func visit(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("visit", flag.ContinueOnError)
	addr := flags.String("addr", "", "server address")
	td := flags.String("td", "example.org", "the server's trust domain")
	bundlePath := flags.String("bundle", "", "PEM file of the server's authorities")
	cert := flags.String("cert", "", "PEM file of a certificate chain")
	key := flags.String("key", "", "PEM file of its key")
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
	serverID, err := spiffeid.FromPath(trustDomain, "/spire/server")
	if err != nil {
		return err
	}
	config := tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(serverID))
	if *cert != "" {
		svid, err := x509svid.Load(*cert, *key)
		if err != nil {
			return err
		}
		tlsconfig.HookMTLSClientConfig(config, svid, bundle, tlsconfig.AuthorizeID(serverID))
	}
	config.MinVersion = tls.VersionTLS12
	conn, err := grpc.NewClient(*addr, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithDisableServiceConfig())
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer := object{}
	record := func(name string, value any, err error) {
		if err != nil {
			answer[name] = refusal(err)
		} else {
			answer[name] = value
		}
	}
	count, err := entryv1.NewEntryClient(conn).CountEntries(ctx, &entryv1.CountEntriesRequest{})
	record("count_entries", count.GetCount(), err)
	_, err = agentv1.NewAgentClient(conn).ListAgents(ctx, &agentv1.ListAgentsRequest{})
	record("list_agents", "ok", err)
	_, err = agentv1.NewAgentClient(conn).PostStatus(ctx, &agentv1.PostStatusRequest{})
	record("post_status", "ok", err)
	_, err = entryv1.NewEntryClient(conn).GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	record("authorized_entries", "ok", err)
	public, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{})
	record("get_bundle", public.GetTrustDomain(), err)
	record("oversized", "ok", oversized(ctx, conn))
	emit(answer)
	return nil
}

// oversized sends evidence of five megabytes.
func oversized(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := agentv1.NewAgentClient(conn).AttestAgent(ctx)
	if err != nil {
		return err
	}
	// Where the server hangs up while it is sent, the reason is in the answer.
	_ = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{Params: &agentv1.AttestAgentRequest_Params{
		Data: &types.AttestationData{Type: "join_token", Payload: make([]byte, 5<<20)},
	}}})
	_, err = stream.Recv()
	return err
}
