package main

import (
	"context"
	"errors"
	"io/fs"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// controller gives disks to nodes.
type controller struct {
	csi.UnimplementedControllerServer
	disks store
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	rpc := &csi.ControllerServiceCapability_RPC{Type: csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME}
	return &csi.ControllerGetCapabilitiesResponse{
		Capabilities: []*csi.ControllerServiceCapability{{Type: &csi.ControllerServiceCapability_Rpc{Rpc: rpc}}},
	}, nil
}

func (c *controller) ControllerPublishVolume(_ context.Context, request *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	found, err := c.disks.find(request.VolumeId)
	if err != nil {
		return nil, err
	}
	err = found.note("attached", request.NodeId)
	if errors.Is(err, fs.ErrExist) {
		var holder string
		if holder, err = found.attached(); err == nil && holder != request.NodeId {
			return nil, status.Errorf(codes.FailedPrecondition, "attached to %s", holder)
		}
	}
	return &csi.ControllerPublishVolumeResponse{}, err
}

func (c *controller) ControllerUnpublishVolume(_ context.Context, request *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	found, err := c.disks.find(request.VolumeId)
	if status.Code(err) == codes.NotFound {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	} else if err != nil {
		return nil, err
	}
	holder, err := found.attached()
	if err != nil || holder != request.NodeId {
		return &csi.ControllerUnpublishVolumeResponse{}, err
	}
	if device, err := found.mounted(); err != nil {
		return nil, err
	} else if device != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "%s has it at %s", holder, device)
	}
	return &csi.ControllerUnpublishVolumeResponse{}, found.forget("attached")
}
