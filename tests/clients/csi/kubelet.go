package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// kubelet REGISTRATION_DIR: waits for the socket of a sidecar, registers the driver that it speaks
// for as the kubelet does, and prints what it learned.
func kubelet(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("kubelet REGISTRATION_DIR")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	socket, err := appears(ctx, filepath.Join(args[0], "*-reg.sock"))
	if err != nil {
		return err
	}
	conn, err := dial(socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	sidecar := registration.NewRegistrationClient(conn)
	plugin, err := sidecar.GetInfo(ctx, &registration.InfoRequest{})
	if err != nil {
		return err
	}
	learned, failed := learn(ctx, plugin)
	state := &registration.RegistrationStatus{PluginRegistered: failed == nil}
	if failed != nil {
		state.Error = failed.Error()
	}
	if _, err := sidecar.NotifyRegistrationStatus(ctx, state); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	emit(learned)
	return nil
}

func appears(ctx context.Context, pattern string) (string, error) {
	for {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("no %s", pattern)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// learn asks the driver what the kubelet wants to know before it uses it.
func learn(ctx context.Context, plugin *registration.PluginInfo) (object, error) {
	if plugin.GetType() != registration.CSIPlugin {
		return nil, fmt.Errorf("type %q", plugin.GetType())
	}
	conn, err := dial(plugin.GetEndpoint())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	if err != nil {
		return nil, err
	}
	if info.GetName() != plugin.GetName() {
		return nil, fmt.Errorf("the driver is %q, the sidecar says %q", info.GetName(), plugin.GetName())
	}
	node, err := csi.NewNodeClient(conn).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return nil, err
	}
	able, err := csi.NewNodeClient(conn).NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	capabilities := []string{}
	for _, capability := range able.GetCapabilities() {
		capabilities = append(capabilities, capability.GetRpc().GetType().String())
	}
	return object{
		"driver":       plugin.GetName(),
		"endpoint":     plugin.GetEndpoint(),
		"versions":     plugin.GetSupportedVersions(),
		"node":         node.GetNodeId(),
		"max_volumes":  node.GetMaxVolumesPerNode(),
		"topology":     node.GetAccessibleTopology() != nil,
		"capabilities": capabilities,
	}, nil
}
