package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bindLoop returns a block device with the content of a file. It is free again once it is neither
// open nor mounted.
func bindLoop(image string) (*os.File, error) {
	content, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(content.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was quicker
			return nil, fmt.Errorf("%s for %s: %w", device.Name(), image, err)
		}
	}
}

// isLoopOf tells whether a block device has the content of a file.
func isLoopOf(device, image string) (bool, error) {
	var content unix.Stat_t
	if err := unix.Stat(image, &content); err != nil {
		return false, err
	}
	opened, err := os.Open(device)
	if err != nil {
		return false, err
	}
	defer opened.Close()
	found, err := unix.IoctlLoopGetStatus64(int(opened.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	return err == nil && found.Inode == content.Ino, err
}

// isMounted tells whether a directory has another file system than the one above it, or is not the
// directory that lies there.
func isMounted(directory string) bool {
	var here, above unix.Stat_t
	if unix.Stat(directory, &here) != nil || unix.Stat(filepath.Dir(directory), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

// unmount does nothing where nothing is mounted.
func unmount(directory string) error {
	err := unix.Unmount(directory, unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", directory, err)
}
