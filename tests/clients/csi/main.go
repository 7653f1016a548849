// Command csi speaks to a CSI driver with the modules that Kubernetes publishes: as the kubelet, and
// as the sidecar that registers the driver with it. Each command prints JSON lines.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

var commands = map[string]func(context.Context, []string) error{
	"call":      call,
	"kubelet":   kubelet,
	"registrar": registrar,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: csi COMMAND [ARGUMENT...]")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := commands[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// dial connects to a Unix socket the way the kubelet does.
func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket,
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// soon is the time that the sidecar gives a driver.
func soon(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Second)
}

type object map[string]any

func emit(value object) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

// failure is what a call that failed prints.
func failure(err error) object {
	state := status.Convert(err)
	return object{"code": state.Code().String(), "message": state.Message()}
}
