package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// store is the directory with one directory for each disk.
type store string

// disk is the directory of one.
type disk string

var named = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,100}$`)

// find fails with NotFound for a disk that is not there.
func (s store) find(name string) (disk, error) {
	found := disk(filepath.Join(string(s), name))
	if !named.MatchString(name) {
		return "", status.Errorf(codes.InvalidArgument, "not the name of a disk: %.100q", name)
	}
	if _, err := os.Stat(found.image()); err != nil {
		return "", status.Errorf(codes.NotFound, "no disk %s: %v", name, err)
	}
	return found, nil
}

func (d disk) image() string { return filepath.Join(string(d), "image") }

// attached returns the node that has the disk; none: empty.
func (d disk) attached() (string, error) { return d.read("attached") }

// mounted returns the block device by which a node has the disk; none: empty.
func (d disk) mounted() (string, error) { return d.read("mounted") }

func (d disk) read(note string) (string, error) {
	text, err := os.ReadFile(filepath.Join(string(d), note))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// note writes a note down that nobody else has written; fs.ErrExist.
func (d disk) note(note, text string) error {
	// Complete from the first moment on: a link either is there or is not.
	draft, err := os.CreateTemp(string(d), ".draft-")
	if err != nil {
		return err
	}
	defer os.Remove(draft.Name())
	if _, err := draft.WriteString(text); err != nil {
		return err
	}
	if err := draft.Close(); err != nil {
		return err
	}
	return os.Link(draft.Name(), filepath.Join(string(d), note))
}

func (d disk) forget(note string) error {
	err := os.Remove(filepath.Join(string(d), note))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

type call struct {
	At      time.Time `json:"at"`
	Call    string    `json:"call"`
	Node    string    `json:"node"`
	Refused string    `json:"refused,omitempty"`
}

// record writes down each call about a disk once it is answered. Calls that name no node are about
// this one.
func (s store) record(node string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		reply, err := handle(ctx, request)
		about, isAboutDisk := request.(interface{ GetVolumeId() string })
		if !isAboutDisk {
			return reply, err
		}
		found, absent := s.find(about.GetVolumeId())
		if absent != nil {
			return reply, err
		}
		made := call{At: time.Now().UTC(), Call: filepath.Base(info.FullMethod), Node: node}
		if names, ok := request.(interface{ GetNodeId() string }); ok {
			made.Node = names.GetNodeId()
		}
		if err != nil {
			made.Refused = err.Error()
		}
		if failed := found.append(made); failed != nil {
			log.Printf("a call is not written down: %v", failed)
		}
		return reply, err
	}
}

func (d disk) append(made call) error {
	line, err := json.Marshal(made)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(string(d), "calls"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Write(append(line, '\n'))
	return err
}
