package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	delegatedv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/agent/delegatedidentity/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// subject is whose identities a delegate asks for: selectors or a process.
type subject struct {
	selectors []*types.Selector
	pid       int32
}

// delegate calls the Delegated Identity API of an agent's admin socket and prints every answer until
// it is ended; a refused call is the last one.
//
//	x509 | x509-bundles | jwt AUDIENCE,... | jwt-bundles
func delegate(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("delegate", flag.ContinueOnError)
	socket := flags.String("socket", "", "the admin socket")
	selectors := flags.String("selectors", "", "type:value, separated by commas")
	pid := flags.Int("pid", 0, "a process")
	if err := flags.Parse(args); err != nil {
		return err
	}
	about := subject{pid: int32(*pid)}
	for _, text := range strings.FieldsFunc(*selectors, func(r rune) bool { return r == ',' }) {
		kind, value, _ := strings.Cut(text, ":")
		about.selectors = append(about.selectors, &types.Selector{Type: kind, Value: value})
	}
	conn, err := grpc.NewClient("unix://"+*socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := delegatedv1.NewDelegatedIdentityClient(conn)
	err = about.call(ctx, client, flags.Args())
	if err != nil && !errors.Is(err, io.EOF) {
		emit(object{"error": refusal(err)})
	}
	return nil
}

func (s subject) call(ctx context.Context, client delegatedv1.DelegatedIdentityClient, args []string) error {
	switch args[0] {
	case "x509":
		stream, err := client.SubscribeToX509SVIDs(ctx, &delegatedv1.SubscribeToX509SVIDsRequest{Selectors: s.selectors, Pid: s.pid})
		return follow(stream, err, describeX509)
	case "x509-bundles":
		stream, err := client.SubscribeToX509Bundles(ctx, &delegatedv1.SubscribeToX509BundlesRequest{})
		return follow(stream, err, func(answer *delegatedv1.SubscribeToX509BundlesResponse) (object, error) {
			out := object{}
			for td, der := range answer.CaCertificates {
				certs, err := x509.ParseCertificates(der)
				if err != nil {
					return nil, err
				}
				out[td] = len(certs)
			}
			return out, nil
		})
	case "jwt":
		answer, err := client.FetchJWTSVIDs(ctx, &delegatedv1.FetchJWTSVIDsRequest{Audience: strings.Split(args[1], ","), Selectors: s.selectors, Pid: s.pid})
		if err != nil {
			return err
		}
		svids := []object{}
		for _, svid := range answer.Svids {
			svids = append(svids, object{"id": idOf(svid.Id), "token": svid.Token, "hint": svid.Hint, "expires_at": svid.ExpiresAt})
		}
		emit(object{"svids": svids})
		return nil
	case "jwt-bundles":
		stream, err := client.SubscribeToJWTBundles(ctx, &delegatedv1.SubscribeToJWTBundlesRequest{})
		return follow(stream, err, func(answer *delegatedv1.SubscribeToJWTBundlesResponse) (object, error) {
			out := object{}
			for td, text := range answer.Bundles {
				var keys struct{ Keys []json.RawMessage }
				if err := json.Unmarshal(text, &keys); err != nil {
					return nil, err
				}
				out[td] = len(keys.Keys)
			}
			return out, nil
		})
	}
	return fmt.Errorf("unknown call %q", args[0])
}

// follow prints what comes on a stream until it ends.
func follow[T any](stream grpc.ServerStreamingClient[T], err error, describe func(*T) (object, error)) error {
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		out, err := describe(answer)
		if err != nil {
			return err
		}
		emit(out)
	}
}

func describeX509(answer *delegatedv1.SubscribeToX509SVIDsResponse) (object, error) {
	svids := []object{}
	for _, svid := range answer.X509Svids {
		cert, err := x509.ParseCertificate(svid.X509Svid.CertChain[0])
		if err != nil {
			return nil, err
		}
		key, err := x509.ParsePKCS8PrivateKey(svid.X509SvidKey)
		if err != nil {
			return nil, err
		}
		svids = append(svids, object{
			"id": idOf(svid.X509Svid.Id), "uri": cert.URIs[0].String(), "hint": svid.X509Svid.Hint,
			"serial": cert.SerialNumber.String(), "own_key": sameKey(key, cert.PublicKey),
		})
	}
	return object{"svids": svids, "federates_with": answer.FederatesWith}, nil
}

func idOf(id *types.SPIFFEID) string { return "spiffe://" + id.TrustDomain + id.Path }

func sameKey(private, public any) bool {
	signer, ok := private.(crypto.Signer)
	if !ok {
		return false
	}
	own, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && own.Equal(public)
}
