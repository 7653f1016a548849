package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// spireServer answers as a SPIRE server does, from memory, and fails on demand.
type spireServer struct {
	agentv1.UnimplementedAgentServer
	bundlev1.UnimplementedBundleServer
	entryv1.UnimplementedEntryServer
	svidv1.UnimplementedSVIDServer

	mu       sync.Mutex
	ca       *authority
	entries  map[string]*types.Entry
	tokens   map[string]bool
	failures map[string]error
	calls    map[string]int
	sequence uint64
	ttl      time.Duration
	agentTTL time.Duration
	pageSize int
	grpc     *grpc.Server
}

// runSpireServer prints {"port": N}, then reads one command per line from standard input and
// answers each with one JSON line:
//
//	token T | entry ID PATH SELECTOR,... [HINT] | delete ID | fail METHOD CODE [REASON] | heal |
//	calls | rotate | taint | revoke | ttl SECONDS | agent-ttl SECONDS | away | back
func runSpireServer(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("spire-server", flag.ContinueOnError)
	td := flags.String("td", "example.org", "trust domain")
	bundlePath := flags.String("bundle", "", "PEM file to write the authorities to")
	pageSize := flags.Int("page", 500, "entries per page of a sync")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ca, err := newAuthority(*td)
	if err != nil {
		return err
	}
	if err := ca.writePEM(*bundlePath); err != nil {
		return err
	}
	server := &spireServer{
		ca: ca, entries: map[string]*types.Entry{}, tokens: map[string]bool{}, failures: map[string]error{},
		calls: map[string]int{}, sequence: 1, ttl: time.Hour, agentTTL: time.Hour, pageSize: *pageSize,
	}
	port, err := server.listen(0)
	if err != nil {
		return err
	}
	emit(object{"port": port})
	go func() {
		<-ctx.Done()
		os.Exit(0)
	}()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		var answer object
		switch words[0] {
		case "away":
			server.grpc.Stop()
			answer = object{}
		case "back":
			_, err = server.listen(port)
			answer = object{}
		default:
			answer, err = server.do(words[0], words[1:])
		}
		if err != nil {
			return err
		}
		emit(answer)
	}
	return lines.Err()
}

func (s *spireServer) listen(port int) (int, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return 0, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"},
		GetCertificate:        func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.ca.serverCertificate() },
		VerifyPeerCertificate: s.ca.verifyClient,
	}
	s.grpc = grpc.NewServer(grpc.Creds(credentials.NewTLS(config)), grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	agentv1.RegisterAgentServer(s.grpc, s)
	bundlev1.RegisterBundleServer(s.grpc, s)
	entryv1.RegisterEntryServer(s.grpc, s)
	svidv1.RegisterSVIDServer(s.grpc, s)
	go func() { _ = s.grpc.Serve(listener) }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

func (s *spireServer) do(name string, args []string) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch name {
	case "token":
		s.tokens[args[0]] = true
	case "entry":
		s.putEntry(args)
	case "delete":
		delete(s.entries, args[0])
	case "fail":
		s.failures[args[0]] = failure(args)
	case "heal":
		s.failures = map[string]error{}
	case "calls":
		calls := object{}
		for method, n := range s.calls {
			calls[method] = n
		}
		return calls, nil
	case "rotate":
		s.sequence++
		return object{}, s.ca.rotate()
	case "taint":
		s.sequence++
		s.ca.taintOld()
	case "revoke":
		s.sequence++
		s.ca.revokeOld()
	case "ttl", "agent-ttl":
		seconds, err := strconv.Atoi(args[0])
		if err != nil {
			return nil, err
		}
		if name == "ttl" {
			s.ttl = time.Duration(seconds) * time.Second
		} else {
			s.agentTTL = time.Duration(seconds) * time.Second
		}
	default:
		return nil, fmt.Errorf("unknown command %q", name)
	}
	return object{}, nil
}

func (s *spireServer) putEntry(args []string) {
	var selectors []*types.Selector
	for _, selector := range strings.Split(args[2], ",") {
		kind, value, _ := strings.Cut(selector, ":")
		selectors = append(selectors, &types.Selector{Type: kind, Value: value})
	}
	entry := &types.Entry{Id: args[0], SpiffeId: &types.SPIFFEID{TrustDomain: s.ca.td, Path: args[1]}, Selectors: selectors, CreatedAt: time.Now().Unix()}
	if len(args) > 3 {
		entry.Hint = args[3]
	}
	if old := s.entries[entry.Id]; old != nil {
		entry.RevisionNumber, entry.CreatedAt = old.RevisionNumber+1, old.CreatedAt
	}
	s.entries[entry.Id] = entry
}

func failure(args []string) error {
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(strconv.Quote(args[1]))); err != nil {
		panic(err)
	}
	failure := status.New(code, "refused by the test")
	if len(args) > 2 {
		failure, _ = failure.WithDetails(&types.PermissionDeniedDetails{Reason: types.PermissionDeniedDetails_Reason(types.PermissionDeniedDetails_Reason_value[args[2]])})
	}
	return failure.Err()
}

// admit counts a call, fails it if so told, and turns agents without an SVID away.
func (s *spireServer) admit(ctx context.Context, method string) error {
	name := method[strings.LastIndex(method, "/")+1:]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[name]++
	if err := s.failures[name]; err != nil {
		return err
	}
	if name == "AttestAgent" || name == "GetBundle" {
		return nil
	}
	if from, ok := peer.FromContext(ctx); ok {
		if info, ok := from.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			return nil
		}
	}
	return status.Error(codes.PermissionDenied, "an agent's SVID is needed")
}

func (s *spireServer) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := s.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, request)
}

func (s *spireServer) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := s.admit(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, stream)
}

func (s *spireServer) AttestAgent(stream agentv1.Agent_AttestAgentServer) error {
	request, err := stream.Recv()
	if err != nil {
		return err
	}
	params := request.GetParams()
	if params.GetData().GetType() != "join_token" {
		return status.Error(codes.FailedPrecondition, "only join_token is known here")
	}
	token := string(params.Data.Payload)
	s.mu.Lock()
	known := s.tokens[token]
	delete(s.tokens, token)
	ttl := s.agentTTL
	s.mu.Unlock()
	if !known {
		return status.Error(codes.InvalidArgument, "failed to attest: join token does not exist or has already been used")
	}
	svid, err := s.ca.sign(params.GetParams().GetCsr(), "/spire/agent/join_token/"+token, ttl)
	if err != nil {
		return err
	}
	return stream.Send(&agentv1.AttestAgentResponse{Step: &agentv1.AttestAgentResponse_Result_{Result: &agentv1.AttestAgentResponse_Result{Svid: svid}}})
}

func (s *spireServer) RenewAgent(ctx context.Context, request *agentv1.RenewAgentRequest) (*agentv1.RenewAgentResponse, error) {
	from, _ := peer.FromContext(ctx)
	leaf := from.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0]
	s.mu.Lock()
	ttl := s.agentTTL
	s.mu.Unlock()
	svid, err := s.ca.sign(request.GetParams().GetCsr(), leaf.URIs[0].Path, ttl)
	return &agentv1.RenewAgentResponse{Svid: svid}, err
}

func (s *spireServer) PostStatus(context.Context, *agentv1.PostStatusRequest) (*agentv1.PostStatusResponse, error) {
	return &agentv1.PostStatusResponse{}, nil
}

func (s *spireServer) GetBundle(context.Context, *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ca.bundle(s.sequence), nil
}

func (s *spireServer) GetFederatedBundle(context.Context, *bundlev1.GetFederatedBundleRequest) (*types.Bundle, error) {
	return nil, status.Error(codes.NotFound, "bundle not found")
}

func (s *spireServer) sorted() []*types.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*types.Entry
	for _, entry := range s.entries {
		all = append(all, entry)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Id < all[j].Id })
	return all
}

func (s *spireServer) GetAuthorizedEntries(context.Context, *entryv1.GetAuthorizedEntriesRequest) (*entryv1.GetAuthorizedEntriesResponse, error) {
	return &entryv1.GetAuthorizedEntriesResponse{Entries: s.sorted()}, nil
}

func (s *spireServer) SyncAuthorizedEntries(stream entryv1.Entry_SyncAuthorizedEntriesServer) error {
	request, err := stream.Recv()
	if err != nil {
		return err
	}
	if len(request.Ids) > 0 {
		return status.Error(codes.InvalidArgument, "specifying IDs on initial request is not supported")
	}
	if request.OutputMask != nil && !request.OutputMask.RevisionNumber {
		return status.Error(codes.InvalidArgument, "revision number cannot be masked")
	}
	all := s.sorted()
	if len(all) <= s.pageSize {
		return stream.Send(&entryv1.SyncAuthorizedEntriesResponse{Entries: all})
	}
	byID := map[string]*types.Entry{}
	var revisions []*entryv1.EntryRevision
	for _, entry := range all {
		byID[entry.Id] = entry
		revisions = append(revisions, &entryv1.EntryRevision{Id: entry.Id, RevisionNumber: entry.RevisionNumber, CreatedAt: entry.CreatedAt})
	}
	for len(revisions) > 0 {
		n := min(s.pageSize, len(revisions))
		page := &entryv1.SyncAuthorizedEntriesResponse{EntryRevisions: revisions[:n], More: n < len(revisions)}
		if err := stream.Send(page); err != nil {
			return err
		}
		revisions = revisions[n:]
	}
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		page := &entryv1.SyncAuthorizedEntriesResponse{}
		for _, id := range request.Ids {
			if entry := byID[id]; entry != nil {
				page.Entries = append(page.Entries, entry)
			}
		}
		if err := stream.Send(page); err != nil {
			return err
		}
	}
}

func (s *spireServer) BatchNewX509SVID(_ context.Context, request *svidv1.BatchNewX509SVIDRequest) (*svidv1.BatchNewX509SVIDResponse, error) {
	response := &svidv1.BatchNewX509SVIDResponse{}
	for _, params := range request.Params {
		s.mu.Lock()
		entry, ttl := s.entries[params.EntryId], s.ttl
		s.mu.Unlock()
		result := &svidv1.BatchNewX509SVIDResponse_Result{Status: &types.Status{}}
		if entry == nil {
			result.Status = &types.Status{Code: int32(codes.NotFound), Message: "entry not found or not authorized"}
		} else {
			svid, err := s.ca.sign(params.Csr, entry.SpiffeId.Path, ttl)
			if err != nil {
				return nil, err
			}
			result.Svid = svid
		}
		response.Results = append(response.Results, result)
	}
	return response, nil
}

func (s *spireServer) NewJWTSVID(_ context.Context, request *svidv1.NewJWTSVIDRequest) (*svidv1.NewJWTSVIDResponse, error) {
	s.mu.Lock()
	entry := s.entries[request.EntryId]
	s.mu.Unlock()
	if entry == nil {
		return nil, status.Error(codes.NotFound, "entry not found or not authorized")
	}
	svid, err := s.ca.signJWT(entry.SpiffeId.Path, request.Audience)
	return &svidv1.NewJWTSVIDResponse{Svid: svid}, err
}
