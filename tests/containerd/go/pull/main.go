// Pulls an image as containerd's CRI service, nerdctl and others do: each layer is prepared before it
// is fetched, with labels that say which image it belongs to.
//
// Usage:  pull SOCKET SNAPSHOTTER REFERENCE NAME-IN-LABELS
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/images"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/remotes/docker"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	if err := pull(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "pull:", err)
		os.Exit(1)
	}
}

func pull(socket, snapshotter, reference, called string) error {
	client, err := containerd.New(socket)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(context.Background(), os.Getenv("CONTAINERD_NAMESPACE"))
	hosts := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost))
	_, err = client.Pull(ctx, reference,
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(snapshotter),
		containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: hosts})),
		containerd.WithImageHandlerWrapper(describe(called)))
	return err
}

// describe adds the labels to the layers of each manifest.
func describe(reference string) func(images.Handler) images.Handler {
	return func(handler images.Handler) images.Handler {
		return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			children, err := handler.Handle(ctx, desc)
			if err != nil {
				return nil, err
			}
			switch desc.MediaType {
			case images.MediaTypeDockerSchema2Manifest, ocispec.MediaTypeImageManifest:
			default:
				return children, nil
			}
			var layers []string
			for i := range children {
				if images.IsLayerType(children[i].MediaType) {
					layers = append(layers, children[i].Digest.String())
				}
			}
			for i := range children {
				child := &children[i]
				if !images.IsLayerType(child.MediaType) {
					continue
				}
				child.Annotations = map[string]string{
					"containerd.io/snapshot/cri.image-ref":       reference,
					"containerd.io/snapshot/cri.manifest-digest": desc.Digest.String(),
					"containerd.io/snapshot/cri.layer-digest":    child.Digest.String(),
					"containerd.io/snapshot/cri.image-layers":    some(layers),
				}
				layers = layers[1:]
			}
			return children, nil
		})
	}
}

// some joins as many layers as a label can hold.
func some(layers []string) string {
	const fit = 50 // 72 bytes each, in 4096 with the key
	if len(layers) > fit {
		layers = layers[:fit]
	}
	return strings.Join(layers, ",")
}
