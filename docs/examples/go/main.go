// A greeter: the server greets whoever has the right SPIFFE ID, and the client calls nobody else.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: greeter serve|call ADDRESS PEER")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The source keeps the identity fresh; SPIFFE_ENDPOINT_SOCKET says where from.
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		log.Fatal(err)
	}
	peer := tlsconfig.AuthorizeID(spiffeid.RequireFromString(os.Args[3]))
	if os.Args[1] == "serve" {
		server := &http.Server{
			Addr:              os.Args[2],
			TLSConfig:         tlsconfig.MTLSServerConfig(source, source, peer),
			Handler:           http.HandlerFunc(greet),
			ReadHeaderTimeout: 10 * time.Second,
		}
		log.Fatal(server.ListenAndServeTLS("", ""))
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: tlsconfig.MTLSClientConfig(source, source, peer),
	}}
	answer, err := client.Get("https://" + os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		log.Fatal(err)
	}
}

func greet(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "hello %s\n", r.TLS.PeerCertificates[0].URIs[0])
}
