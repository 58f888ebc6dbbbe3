// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// console is a terminal whose other end only listens.
type console struct {
	path          string // of the machine's end
	master, slave *os.File
	copied        chan struct{} // closed when there is nothing more to come

	mu      sync.Mutex
	written bytes.Buffer
}

func newConsole() (*console, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	c := &console{master: master, copied: make(chan struct{})}
	if err := c.open(); err != nil {
		return nil, errors.Join(err, master.Close())
	}
	go c.listen()
	return c, nil
}

func (c *console) open() error {
	number, err := unix.IoctlGetUint32(int(c.master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return fmt.Errorf("a console: %w", err)
	}
	if err := unix.IoctlSetPointerInt(int(c.master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("a console: %w", err)
	}
	c.path = fmt.Sprintf("/dev/pts/%d", number)
	// While this is open, reading goes on though no program of the machine has it open.
	c.slave, err = os.OpenFile(c.path, os.O_RDWR|unix.O_NOCTTY, 0)
	return err
}

func (c *console) listen() {
	defer close(c.copied)
	buffer := make([]byte, 4096)
	for {
		n, err := c.master.Read(buffer)
		c.mu.Lock()
		c.written.Write(buffer[:n])
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// text is all that was written, with the line ends of files.
func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(bytes.ReplaceAll(c.written.Bytes(), []byte("\r\n"), []byte("\n")))
}

// close ends the reading, which fails once nobody has the other end open.
func (c *console) close() error {
	err := c.slave.Close()
	<-c.copied
	return errors.Join(err, c.master.Close())
}
