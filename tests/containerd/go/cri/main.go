// Asks containerd for what Kubernetes' kubelet does, through the container runtime interface.
//
// Usage:  cri SOCKET pull|remove-image IMAGE
//
//	cri SOCKET run IMAGE NAME COMMAND...      prints the IDs of the pod and of the container
//	cri SOCKET exec CONTAINER COMMAND...
//	cri SOCKET stop|remove-container CONTAINER
//	cri SOCKET remove POD
//
// Debian has no package of the interface, so messages are put together of fields here, by the numbers of
// https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
)

// encoded leaves messages as they are.
type encoded struct{}

func (encoded) Marshal(v interface{}) ([]byte, error)      { return *v.(*[]byte), nil }
func (encoded) Unmarshal(data []byte, v interface{}) error { *v.(*[]byte) = data; return nil }
func (encoded) Name() string                               { return "proto" }

func varint(value uint64) []byte {
	var buffer [binary.MaxVarintLen64]byte
	return buffer[:binary.PutUvarint(buffer[:], value)]
}

func number(field int, value uint64) []byte {
	return append(varint(uint64(field)<<3), varint(value)...)
}

// bytes is a field of bytes, a text, or a message of other fields.
func bytes(field int, parts ...[]byte) []byte {
	var value []byte
	for _, part := range parts {
		value = append(value, part...)
	}
	return append(append(varint(uint64(field)<<3|2), varint(uint64(len(value)))...), value...)
}

func text(field int, value string) []byte {
	return bytes(field, []byte(value))
}

func texts(field int, values []string) []byte {
	var all []byte
	for _, value := range values {
		all = append(all, text(field, value)...)
	}
	return all
}

// fields takes a message apart; numbers are given as they are encoded.
func fields(message []byte) map[uint64][]byte {
	found := map[uint64][]byte{}
	for len(message) > 0 {
		key, length := binary.Uvarint(message)
		message = message[length:]
		size, length := binary.Uvarint(message)
		if key&7 == 2 {
			message = message[length:]
			length = int(size)
		}
		found[key>>3] = message[:length]
		message = message[length:]
	}
	return found
}

func main() {
	if err := do(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

func do(socket, verb string, args []string) error {
	conn, err := grpc.Dial("unix://"+socket, grpc.WithInsecure(), grpc.WithDefaultCallOptions(grpc.ForceCodec(encoded{})))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	call := func(method string, request ...[]byte) (map[uint64][]byte, error) {
		var message, answer []byte
		for _, field := range request {
			message = append(message, field...)
		}
		err := conn.Invoke(ctx, "/runtime.v1."+method, &message, &answer)
		return fields(answer), err
	}
	switch verb {
	case "pull":
		_, err = call("ImageService/PullImage", bytes(1, text(1, args[0])))
	case "remove-image":
		_, err = call("ImageService/RemoveImage", bytes(1, text(1, args[0])))
	case "run":
		return run(call, args[0], args[1], args[2:])
	case "exec":
		answer, err := call("RuntimeService/ExecSync", text(1, args[0]), texts(2, args[1:]))
		if err != nil {
			return err
		}
		os.Stdout.Write(answer[1])
		if code := answer[3]; code != nil {
			return fmt.Errorf("it ended with %d: %s", code, answer[2])
		}
	case "stop":
		_, err = call("RuntimeService/StopContainer", text(1, args[0]))
	case "remove-container":
		_, err = call("RuntimeService/RemoveContainer", text(1, args[0]))
	case "remove":
		if _, err = call("RuntimeService/StopPodSandbox", text(1, args[0])); err == nil {
			_, err = call("RuntimeService/RemovePodSandbox", text(1, args[0]))
		}
	default:
		return fmt.Errorf("no verb %s", verb)
	}
	return err
}

func run(call func(string, ...[]byte) (map[uint64][]byte, error), image, name string, command []string) error {
	// 2 is the network of the machine.
	network := number(1, 2)
	config := [][]byte{
		bytes(1, text(1, name), text(2, name), text(3, "default")),
		bytes(8, bytes(2, bytes(1, network))),
	}
	pod, err := call("RuntimeService/RunPodSandbox", bytes(1, config...))
	if err != nil {
		return err
	}
	container, err := call("RuntimeService/CreateContainer",
		bytes(1, pod[1]),
		bytes(2,
			bytes(1, text(1, name)),
			bytes(2, text(1, image)),
			texts(3, command),
			bytes(15, bytes(2, bytes(3, network)))),
		bytes(3, config...))
	if err != nil {
		return err
	}
	_, err = call("RuntimeService/StartContainer", bytes(1, container[1]))
	fmt.Println(string(pod[1]), string(container[1]))
	return err
}
