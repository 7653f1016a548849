package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrar CSI_SOCKET REGISTRATION_DIR KUBELET_PATH: what node-driver-registrar does.
func registrar(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("registrar CSI_SOCKET REGISTRATION_DIR KUBELET_PATH")
	}
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	asking, cancel := soon(ctx)
	defer cancel()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(asking, &csi.GetPluginInfoRequest{})
	if err != nil {
		return err
	}
	if info.GetName() == "" {
		return errors.New("the driver has no name")
	}
	listener, err := net.Listen("unix", filepath.Join(args[1], info.GetName()+"-reg.sock"))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, &sidecar{driver: info.GetName(), endpoint: args[2]})
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	emit(object{"driver": info.GetName(), "version": info.GetVendorVersion()})
	return server.Serve(listener)
}

type sidecar struct {
	registration.UnsafeRegistrationServer
	driver, endpoint string
}

func (s *sidecar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              s.driver,
		Endpoint:          s.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (s *sidecar) NotifyRegistrationStatus(
	_ context.Context, state *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	emit(object{"registered": state.GetPluginRegistered(), "error": state.GetError()})
	if !state.GetPluginRegistered() {
		return nil, fmt.Errorf("refused: %s", state.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}
