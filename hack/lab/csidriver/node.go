package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// release is how long the kernel may take to let a device go once nothing has it mounted.
const release = 5 * time.Second

// nodePlugin mounts attached disks for kubelet: once for the node (stage), and bound to each pod's
// directory (publish).
type nodePlugin struct {
	csi.UnimplementedNodeServer
	node  string
	disks store
}

func (n *nodePlugin) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.node}, nil
}

func (n *nodePlugin) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	rpc := &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME}
	return &csi.NodeGetCapabilitiesResponse{
		Capabilities: []*csi.NodeServiceCapability{{Type: &csi.NodeServiceCapability_Rpc{Rpc: rpc}}},
	}, nil
}

func (n *nodePlugin) NodeStageVolume(_ context.Context, request *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	found, err := n.disks.find(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if holder, err := found.attached(); err != nil {
		return nil, err
	} else if holder != n.node {
		return nil, status.Errorf(codes.FailedPrecondition, "attached to %q, not to %s", holder, n.node)
	}
	if isMounted(request.StagingTargetPath) {
		return &csi.NodeStageVolumeResponse{}, nil
	}
	if device, err := n.held(found); err != nil {
		return nil, err
	} else if device != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "something on %s still has %s", n.node, device)
	}
	device, err := bindLoop(found.image())
	if err != nil {
		return nil, err
	}
	// The mount has it from here on; with the last of its mounts the device goes.
	defer device.Close()
	if err := found.note("mounted", device.Name()); err != nil {
		return nil, err
	}
	if err := unix.Mount(device.Name(), request.StagingTargetPath, "ext4", 0, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", device.Name(), err), found.forget("mounted"))
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// NodeUnstageVolume refuses while anything in the node still has the disk: a process in another
// mount namespace, or a mount that was copied somewhere. The disk would be written after it went to
// another node.
func (n *nodePlugin) NodeUnstageVolume(_ context.Context, request *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	found, err := n.disks.find(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if err := unmount(request.StagingTargetPath); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(release); ; time.Sleep(20 * time.Millisecond) {
		device, err := n.held(found)
		if err != nil || device == "" {
			return &csi.NodeUnstageVolumeResponse{}, err
		}
		if time.Now().After(deadline) {
			return nil, status.Errorf(codes.FailedPrecondition, "something on %s still has %s", n.node, device)
		}
	}
}

func (n *nodePlugin) NodePublishVolume(_ context.Context, request *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	target := request.TargetPath
	if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, err
	}
	if isMounted(target) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if err := unix.Mount(request.StagingTargetPath, target, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("bind to %s: %w", target, err)
	}
	if request.Readonly {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return nil, errors.Join(fmt.Errorf("make %s read-only: %w", target, err), unmount(target))
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (n *nodePlugin) NodeUnpublishVolume(_ context.Context, request *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unmount(request.TargetPath); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, os.RemoveAll(request.TargetPath)
}

// held returns the device by which this node still has a disk, and forgets one that is free.
func (n *nodePlugin) held(found disk) (string, error) {
	device, err := found.mounted()
	if err != nil || device == "" {
		return "", err
	}
	isBound, err := isLoopOf(device, found.image())
	if err != nil || isBound {
		return device, err
	}
	return "", found.forget("mounted")
}
