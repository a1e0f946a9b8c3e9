// A relay as one would write it in Go: SO_REUSEPORT sockets, a goroutine a direction locked to its
// thread, preallocated buffers, no allocation a packet. For comparison with Edge's.
//
//	go_relay HOP_PORT FLOWS_FILE COUNT
//
// Arguments and output are those of reference_forwarder.c.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	headerBytes  = 38
	datagram     = 2048
	portAt       = 34
	soReusePort  = 15
	socketBuffer = 4 << 20
)

type table struct {
	sync.RWMutex
	hops map[netip.AddrPort]uint16
}

type worker struct {
	flows            *table
	public, internal *net.UDPConn
	template         [headerBytes]byte
	hop              netip.AddrPort
	packets, dropped *atomic.Uint64
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func listen(port int) *net.UDPConn {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReusePort, 1)
		})
	}}
	address := "127.0.0.1:" + strconv.Itoa(port)
	conn := must(config.ListenPacket(context.Background(), "udp4", address)).(*net.UDPConn)
	conn.SetReadBuffer(socketBuffer)
	conn.SetWriteBuffer(socketBuffer)
	return conn
}

func portOf(conn *net.UDPConn) int { return conn.LocalAddr().(*net.UDPAddr).Port }

func (t *table) fill(name string, count int) {
	data := must(os.ReadFile(name))
	for i := 0; i < count; i++ {
		record := data[6*i : 6*i+6]
		host := netip.AddrFrom4([4]byte(record[:4]))
		t.hops[netip.AddrPortFrom(host, binary.BigEndian.Uint16(record[4:]))] = 1
	}
}

func (t *table) knows(client netip.AddrPort) bool {
	t.RLock()
	_, known := t.hops[client]
	t.RUnlock()
	return known
}

func (w *worker) inwards() {
	runtime.LockOSThread()
	buffer := make([]byte, headerBytes+datagram)
	copy(buffer, w.template[:])
	for {
		n, client, err := w.public.ReadFromUDPAddrPort(buffer[headerBytes:])
		if err != nil || !w.flows.knows(client) {
			w.dropped.Add(1)
			continue
		}
		host := client.Addr().As4()
		copy(buffer[14:], host[:])
		binary.BigEndian.PutUint16(buffer[portAt:], client.Port())
		w.send(w.internal, buffer[:headerBytes+n], w.hop)
	}
}

func (w *worker) outwards() {
	runtime.LockOSThread()
	buffer := make([]byte, headerBytes+datagram)
	for {
		n, from, err := w.internal.ReadFromUDPAddrPort(buffer)
		if err != nil || n <= headerBytes || from != w.hop || buffer[0] != 0x56 || buffer[1] != 0xec {
			w.dropped.Add(1)
			continue
		}
		host := netip.AddrFrom4([4]byte(buffer[14:18]))
		client := netip.AddrPortFrom(host, binary.BigEndian.Uint16(buffer[portAt:]))
		if w.flows.knows(client) {
			w.send(w.public, buffer[headerBytes:n], client)
		} else {
			w.dropped.Add(1)
		}
	}
}

func (w *worker) send(conn *net.UDPConn, data []byte, to netip.AddrPort) {
	if _, err := conn.WriteToUDPAddrPort(data, to); err != nil {
		w.dropped.Add(1)
	} else {
		w.packets.Add(1)
	}
}

func residentBytes() int {
	runtime.GC()
	var total, resident int
	fmt.Sscan(string(must(os.ReadFile("/proc/self/statm"))), &total, &resident)
	return resident * os.Getpagesize()
}

func main() {
	hopPort, count := must(strconv.Atoi(os.Args[1])), must(strconv.Atoi(os.Args[3]))
	flows := &table{hops: map[netip.AddrPort]uint16{}}
	before := residentBytes()
	flows.fill(os.Args[2], count)
	perFlow := float64(residentBytes()-before) / float64(count)
	var packets, dropped atomic.Uint64
	publicPort, internalPort := 0, 0
	for i := 0; i < runtime.GOMAXPROCS(0); i++ {
		w := &worker{flows: flows, packets: &packets, dropped: &dropped,
			hop: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(hopPort))}
		w.public, w.internal = listen(publicPort), listen(internalPort)
		publicPort, internalPort = portOf(w.public), portOf(w.internal)
		copy(w.template[:], "\x56\xec")
		for _, at := range []int{12, 13, 28, 29} {
			w.template[at] = 0xff
		}
		copy(w.template[30:], []byte{127, 0, 0, 1})
		binary.BigEndian.PutUint16(w.template[36:], uint16(publicPort))
		go w.inwards()
		go w.outwards()
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	fmt.Printf("{\"public\": %d, \"internal\": %d, \"bytes_per_flow\": %.1f}\n",
		publicPort, internalPort, perFlow)
	for range asked {
		fmt.Printf("{\"packets\": %d, \"wakes\": 0, \"dropped\": %d}\n", packets.Load(), dropped.Load())
	}
}
