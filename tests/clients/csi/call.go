package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	_ "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// call SOCKET: each line of the input is "Service.Method {request as JSON}"; each line of the
// output is {"ok": response}, or the code and message of the status.
func call(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("call SOCKET")
	}
	conn, err := dial(args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 16<<20)
	for input.Scan() {
		name, body, _ := strings.Cut(input.Text(), " ")
		method, err := find(name)
		if err != nil {
			return err
		}
		request, err := message(method.Input())
		if err != nil {
			return err
		}
		if err := protojson.Unmarshal([]byte(body), request); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		response, err := message(method.Output())
		if err != nil {
			return err
		}
		path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
		if err := conn.Invoke(ctx, path, request, response); err != nil {
			emit(failure(err))
			continue
		}
		text, err := protojson.Marshal(response)
		if err != nil {
			return err
		}
		emit(object{"ok": json.RawMessage(text)})
	}
	return input.Err()
}

func find(name string) (protoreflect.MethodDescriptor, error) {
	service, method, _ := strings.Cut(name, ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(
		protoreflect.FullName("csi.v1." + service))
	if err != nil {
		return nil, err
	}
	if found, ok := found.(protoreflect.ServiceDescriptor); ok {
		if found := found.Methods().ByName(protoreflect.Name(method)); found != nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("no method %s", name)
}

func message(kind protoreflect.MessageDescriptor) (protoreflect.ProtoMessage, error) {
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		return nil, err
	}
	return found.New().Interface(), nil
}
