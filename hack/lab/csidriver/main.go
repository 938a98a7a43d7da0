// Command csidriver is the CSI driver of the development cluster: disks that are attached to one
// node at a time, as a cloud's are.
//
// A disk is a directory that every node sees, with an ext4 file system in the file "image". Who may
// use it is written beside it: "attached" names the node by the controller's word, "mounted" the
// block device by which that node has it. The driver refuses whatever would let two nodes have a
// disk, and it lets none go that anything in the node still holds. Each call of the interface is a
// line of JSON in "calls".
//
// With -controller it serves the attacher, without it kubelet.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	name := flag.String("name", "", "name of the driver, as its CSIDriver object has it")
	node := flag.String("node", "", "name of this node")
	disks := flag.String("disks", "", "directory with one directory for each disk")
	socket := flag.String("socket", "", "where the interface is served; kubelet must see the same path")
	registry := flag.String("registry", "", "directory where kubelet looks for plugins")
	isController := flag.Bool("controller", false, "serve the attacher")
	flag.Parse()
	if err := run(*name, *node, store(*disks), *socket, *registry, *isController); err != nil {
		log.Fatal(err)
	}
}

func run(name, node string, disks store, socket, registry string, isController bool) error {
	server := grpc.NewServer(grpc.UnaryInterceptor(disks.record(node)))
	csi.RegisterIdentityServer(server, &identity{name: name})
	if isController {
		csi.RegisterControllerServer(server, &controller{disks: disks})
		return serve(map[string]*grpc.Server{socket: server})
	}
	csi.RegisterNodeServer(server, &nodePlugin{node: node, disks: disks})
	registrar := grpc.NewServer()
	registration.RegisterRegistrationServer(registrar, &registrant{name: name, socket: socket})
	return serve(map[string]*grpc.Server{
		socket: server,
		filepath.Join(registry, name+"-reg.sock"): registrar,
	})
}

// serve returns after SIGTERM, or when one of the servers fails. Its sockets are gone then, which
// tells kubelet that the plugin is.
func serve(servers map[string]*grpc.Server) error {
	ended := make(chan error, len(servers))
	for path, server := range servers {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		listener, err := net.Listen("unix", path)
		if err != nil {
			return err
		}
		go func() { ended <- server.Serve(listener) }()
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-signals:
		for _, server := range servers {
			server.GracefulStop()
		}
		return nil
	}
}

type identity struct {
	csi.UnimplementedIdentityServer
	name string
}

func (i *identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.name, VendorVersion: "1"}, nil
}

func (i *identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}
	return &csi.GetPluginCapabilitiesResponse{
		Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{Service: service}}},
	}, nil
}

func (i *identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// registrant is what kubelet asks first.
type registrant struct {
	registration.UnimplementedRegistrationServer
	name, socket string
}

func (r *registrant) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: r.name, Endpoint: r.socket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registrant) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatalf("kubelet does not take %s: %s", r.name, status.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}
