// Command clients speaks to Signet with the libraries that others use: go-spiffe as a workload,
// spire-api-sdk as a SPIRE agent and as a SPIRE server. Each command prints JSON lines.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

var commands = map[string]func(context.Context, []string) error{
	"x509":             fetchX509,
	"watch":            watchX509,
	"wit":              fetchWIT,
	"watch-wit":        watchWIT,
	"anchors":          judgeAnchors,
	"broker":           askBroker,
	"bundles":          fetchBundles,
	"jwt":              fetchJWT,
	"validate":         validateJWT,
	"serve":            serveMTLS,
	"call":             callMTLS,
	"exec-twice":       execTwice,
	"delegate":         delegate,
	"visit":            visit,
	"spire-agent":      runSpireAgent,
	"spire-server":     runSpireServer,
	"federation-fetch": fetchFederated,
	"federation-serve": serveFederated,
	"oidc-verify":      verifyOIDC,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: clients COMMAND [ARGUMENT...]")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := commands[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

type object map[string]any

func emit(value object) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}
