package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"io"
	"strings"

	"github.com/spiffe/go-spiffe/v2/exp/proto/spiffe/broker"
	"github.com/spiffe/go-spiffe/v2/spiffegrpc/grpccredentials"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// askBroker names a workload to the Broker Endpoint of an agent, with the X.509-SVID that the Workload
// API gives this program.
func askBroker(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("broker", flag.ContinueOnError)
	socket := flags.String("socket", "", "the Broker Endpoint's socket")
	address := flags.String("address", "", "the Broker Endpoint's TCP address, instead of -socket")
	pid := flags.Int("pid", 0, "the process to name")
	named := flags.String("object", "", "the object of Kubernetes to name instead: PLURAL.GROUP/NAMESPACE/NAME")
	uid := flags.String("uid", "", "the UID of the object; alone with -object PLURAL.GROUP")
	typeURL := flags.String("type", "", "another type of reference")
	bare := flags.Bool("bare", false, "leave out the security header")
	what := flags.String("what", "x509", "x509, bundles, jwt or jwt-bundles")
	if err := flags.Parse(args); err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	// Any member of the trust domain: the agent's ID is its own.
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	authorizer := tlsconfig.AuthorizeMemberOf(svid.ID.TrustDomain())
	target := "unix://" + *socket
	if *address != "" {
		target = "passthrough:///" + *address
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(grpccredentials.MTLSClientCredentials(source, source, authorizer)))
	if err != nil {
		return err
	}
	defer conn.Close()
	if !*bare {
		ctx = metadata.AppendToOutgoingContext(ctx, "broker.spiffe.io", "true")
	}
	var message proto.Message = &broker.WorkloadPIDReference{Pid: int32(*pid)}
	if *named != "" {
		message = objectReference(*named, *uid)
	}
	reference, err := anypb.New(message)
	if err != nil {
		return err
	}
	if *typeURL != "" {
		reference.TypeUrl = *typeURL
	}
	workload := &broker.WorkloadReference{Reference: reference}
	client := broker.NewAPIClient(conn)
	switch *what {
	case "services":
		return services(ctx, conn)
	case "jwt":
		answer, err := client.FetchJWTSVID(ctx,
			&broker.FetchJWTSVIDRequest{Reference: workload, Audience: []string{"db"}})
		if err != nil {
			return said(err)
		}
		for _, svid := range answer.Svids {
			emit(object{"id": svid.SpiffeId, "token": svid.Svid, "hint": svid.Hint})
		}
		return nil
	case "x509":
		stream, err := client.SubscribeToX509SVID(ctx, &broker.SubscribeToX509SVIDRequest{Reference: workload})
		if err != nil {
			return said(err)
		}
		return each(stream.Recv, func(answer *broker.SubscribeToX509SVIDResponse) error {
			ids := []string{}
			for _, svid := range answer.Svids {
				chain, err := x509.ParseCertificates(svid.X509Svid)
				if err != nil {
					return err
				}
				if _, err := x509.ParsePKCS8PrivateKey(svid.X509SvidKey); err != nil {
					return err
				}
				ids = append(ids, chain[0].URIs[0].String())
			}
			emit(object{"ids": ids})
			return nil
		})
	case "bundles":
		stream, err := client.SubscribeToX509Bundles(ctx, &broker.SubscribeToX509BundlesRequest{Reference: workload})
		if err != nil {
			return said(err)
		}
		return each(stream.Recv, func(answer *broker.SubscribeToX509BundlesResponse) error {
			for id, bundle := range answer.Bundles {
				certificates, err := x509.ParseCertificates(bundle)
				if err != nil {
					return err
				}
				emit(object{"bundle": id, "authorities": len(certificates)})
			}
			return nil
		})
	case "jwt-bundles":
		stream, err := client.SubscribeToJWTBundles(ctx, &broker.SubscribeToJWTBundlesRequest{Reference: workload})
		if err != nil {
			return said(err)
		}
		return each(stream.Recv, func(answer *broker.SubscribeToJWTBundlesResponse) error {
			for id, bundle := range answer.Bundles {
				emit(object{"bundle": id, "jwks": string(bundle)})
			}
			return nil
		})
	}
	return errors.New("unknown -what")
}

// objectReference names an object: PLURAL.GROUP/NAMESPACE/NAME, or PLURAL.GROUP and a UID.
func objectReference(named, uid string) *broker.KubernetesObjectReference {
	kind, key, hasKey := strings.Cut(named, "/")
	plural, group, _ := strings.Cut(kind, ".")
	reference := &broker.KubernetesObjectReference{
		Type: &broker.KubernetesObjectType{Plural: plural, Group: group},
		Uid:  uid,
	}
	if hasKey {
		namespace, name, _ := strings.Cut(key, "/")
		reference.Key = &broker.KubernetesObjectKey{Namespace: namespace, Name: name}
	}
	return reference
}

// services lists what reflection says is served.
func services(ctx context.Context, conn *grpc.ClientConn) error {
	stream, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return said(err)
	}
	question := &reflection.ServerReflectionRequest{
		MessageRequest: &reflection.ServerReflectionRequest_ListServices{},
	}
	if err := stream.Send(question); err != nil && !errors.Is(err, io.EOF) {
		return said(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		return said(err)
	}
	names := []string{}
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.Name)
	}
	emit(object{"services": names})
	return nil
}

// each hands over the answers of a stream until it ends; why it ended is its last line.
func each[T any](receive func() (T, error), show func(T) error) error {
	for {
		answer, err := receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return said(err)
		}
		if err := show(answer); err != nil {
			return err
		}
	}
}

func said(err error) error {
	emit(object{"code": status.Code(err).String(), "error": status.Convert(err).Message()})
	return nil
}
