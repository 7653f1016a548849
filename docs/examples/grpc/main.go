// gRPC with SPIFFE identities: by the Workload API, and by the files of the helper, which gRPC's own
// file watcher reads, as it does for a bootstrap file of xDS.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/tls/certprovider"
	_ "google.golang.org/grpc/credentials/tls/certprovider/pemfile"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) < 4 {
		log.Fatal("usage: greeter serve|call ADDRESS PEER | greeter files ADDRESS PEER BOOTSTRAP")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	switch address, peer := os.Args[2], spiffeid.RequireFromString(os.Args[3]); os.Args[1] {
	case "serve":
		err = serve(ctx, address, peer)
	case "call":
		err = byWorkloadAPI(ctx, address, peer)
	case "files":
		err = byFiles(ctx, address, peer, os.Args[4])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// serve takes calls of peer only. The source keeps the identity fresh; SPIFFE_ENDPOINT_SOCKET says
// where from.
func serve(ctx context.Context, address string, peer spiffeid.ID) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	mtls := grpccredentials.MTLSServerCredentials(source, source, tlsconfig.AuthorizeID(peer))
	server := grpc.NewServer(grpc.Creds(mtls))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return server.Serve(listener)
}

func byWorkloadAPI(ctx context.Context, address string, peer spiffeid.ID) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	return call(ctx, address, grpccredentials.MTLSClientCredentials(source, source, tlsconfig.AuthorizeID(peer)))
}

// byFiles gets certificate, key and bundles from the provider "spiffe" of a bootstrap file. gRPC's xDS
// client does the same by itself; here there is no xDS server that names the peer.
func byFiles(ctx context.Context, address string, peer spiffeid.ID, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var bootstrap struct {
		Providers map[string]struct {
			Name   string          `json:"plugin_name"`
			Config json.RawMessage `json:"config"`
		} `json:"certificate_providers"`
	}
	if err := json.Unmarshal(text, &bootstrap); err != nil {
		return err
	}
	named := bootstrap.Providers["spiffe"]
	provider, err := certprovider.GetProvider(named.Name, named.Config, certprovider.BuildOptions{WantIdentity: true, WantRoot: true})
	if err != nil {
		return err
	}
	defer provider.Close()
	material, err := provider.KeyMaterial(ctx)
	if err != nil {
		return err
	}
	bundles := spiffebundle.NewSet()
	for _, bundle := range material.SPIFFEBundleMap {
		bundles.Add(bundle)
	}
	return call(ctx, address, credentials.NewTLS(&tls.Config{
		Certificates: material.Certs,
		// Names of hosts say nothing here; the peer is known by its SPIFFE ID.
		InsecureSkipVerify:    true,
		VerifyPeerCertificate: tlsconfig.VerifyPeerCertificate(bundles, tlsconfig.AuthorizeID(peer)),
	}))
}

func call(ctx context.Context, address string, mtls credentials.TransportCredentials) error {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(mtls))
	if err != nil {
		return err
	}
	defer connection.Close()
	answer, err := grpc_health_v1.NewHealthClient(connection).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	fmt.Println(answer.Status)
	return nil
}
