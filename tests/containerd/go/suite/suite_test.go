// containerd's own suite for snapshotters, run against `plyfs snapshotter` as a process of its own.
//
// PLYFS is the program; mount.plyfs must be in PATH. See scripts/containerd-suite.
package suite

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	_ "github.com/containerd/containerd/pkg/testutil"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

func TestPlyfs(t *testing.T) {
	testsuite.SnapshotterSuite(t, "plyfs", start)
}

// start serves an empty store below root, and gives a client of it and what ends it.
func start(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	socket := filepath.Join(root, "s")
	// The thread that starts it may end before the test does, so its life is not tied to that.
	server := exec.Command(os.Getenv("PLYFS"), "--root", filepath.Join(root, "store"), "snapshotter", "--address", socket)
	server.Stdout, server.Stderr = os.Stderr, os.Stderr
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	ended := false
	end := func() error {
		if ended { // CloseTwice
			return nil
		}
		ended = true
		if err := server.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return server.Wait()
	}
	if err := await(socket); err != nil {
		return nil, nil, fmt.Errorf("%w, and ending: %v", err, end())
	}
	connection, err := grpc.Dial("unix://"+socket, grpc.WithInsecure())
	if err != nil {
		return nil, nil, fmt.Errorf("%w, and ending: %v", err, end())
	}
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(connection), "plyfs")
	return client, func() error {
		if !ended {
			connection.Close()
		}
		return end()
	}, nil
}

func await(socket string) error {
	var err error
	for i := 0; i < 600; i++ {
		var connection net.Conn
		if connection, err = net.Dial("unix", socket); err == nil {
			return connection.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
