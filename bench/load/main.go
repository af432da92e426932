// Command load is the benchmark's upstream and load generator in one small binary.
//
//	load serve                     a fixed answer: POST /bytes/N gets N bytes of JSON; prints its port
//	load run -url URL -size N ...  closed-loop load over N connections; prints one JSON object
//
// Both read and write HTTP/1.1 by hand over net.Conn: net/http would take several times the CPU, which on a small
// machine is CPU taken from what is measured.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const bufferSize = 128 << 10

// dashboard returns size bytes of JSON that look like a dashboard's definition.
func dashboard(size int) []byte {
	const head, tail = `{"title":"bench","layout_type":"ordered","widgets":[`, `],"description":"`
	const widget = `{"definition":{"type":"timeseries","title":"CPU of web-%06d","requests":[{"q":"avg:system.cpu.user{host:web-%06d} by {host}","display_type":"line"}]}}`
	var b bytes.Buffer
	b.WriteString(head)
	for n := 0; b.Len()+2*len(widget)+len(tail) < size; n++ {
		if n > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, widget, n, n)
	}
	b.WriteString(tail)
	for b.Len() < size-2 {
		b.WriteString("words and spaces "[:min(17, size-2-b.Len())])
	}
	b.WriteString(`"}`)
	return b.Bytes()
}

type head struct {
	first   string // the request line or the status line
	length  int
	chunked bool
	close   bool
}

func readHead(r *bufio.Reader) (head, error) {
	var h head
	for n := 0; ; n++ {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return h, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return h, nil
		}
		if n == 0 {
			h.first = string(line)
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case len(name) == 14 && bytes.EqualFold(name, []byte("content-length")):
			if h.length, err = strconv.Atoi(string(value)); err != nil {
				return h, err
			}
		case len(name) == 17 && bytes.EqualFold(name, []byte("transfer-encoding")):
			h.chunked = true
		case len(name) == 10 && bytes.EqualFold(name, []byte("connection")):
			h.close = bytes.EqualFold(value, []byte("close"))
		}
	}
}

// readBody discards the body and returns its length.
func readBody(r *bufio.Reader, h head) (int, error) {
	if !h.chunked {
		return r.Discard(h.length)
	}
	total := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return total, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 32)
		if err != nil {
			return total, err
		}
		if _, err = r.Discard(int(size) + 2); err != nil {
			return total, err
		}
		if size == 0 {
			return total, nil
		}
		total += int(size)
	}
}

func serve() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, bufferSize)
	answers := map[string][]byte{}
	for {
		h, err := readHead(r)
		if err != nil {
			return
		}
		if _, err = readBody(r, h); err != nil {
			return
		}
		out, known := answers[h.first]
		if !known {
			target := strings.Fields(h.first)[1]
			size, err := strconv.Atoi(target[strings.LastIndexByte(target, '/')+1:])
			if err != nil {
				return
			}
			body := dashboard(size)
			out = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", size, body)
			answers[h.first] = out
		}
		if _, err = conn.Write(out); err != nil {
			return
		}
	}
}

type headerFlags []string

func (h *headerFlags) String() string { return strings.Join(*h, ", ") }
func (h *headerFlags) Set(v string) error {
	*h = append(*h, v)
	return nil
}

type result struct {
	Requests   int            `json:"requests"` // in the measured time
	All        int            `json:"all"`      // with the warm-up
	Seconds    float64        `json:"seconds"`
	PerSecond  float64        `json:"requests_per_second"`
	P50        float64        `json:"p50_ms"`
	P99        float64        `json:"p99_ms"`
	Errors     map[string]int `json:"errors"`
	Connection int            `json:"connections"`
	Size       int            `json:"size"`
}

func run(args []string) error {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	target := flags.String("url", "", "base URL")
	size := flags.Int("size", 1024, "bytes of the request's and of the answer's body")
	connections := flags.Int("connections", 1, "")
	warmup := flags.Duration("warmup", time.Second, "")
	duration := flags.Duration("duration", 5*time.Second, "")
	var headers headerFlags
	flags.Var(&headers, "header", "NAME: VALUE")
	if err := flags.Parse(args); err != nil {
		return err
	}
	u, err := url.Parse(*target)
	if err != nil {
		return err
	}
	body := dashboard(*size)
	var request bytes.Buffer
	fmt.Fprintf(&request, "POST /bytes/%d HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n", *size, u.Host, len(body))
	for _, h := range headers {
		fmt.Fprintf(&request, "%s\r\n", h)
	}
	request.WriteString("\r\n")
	request.Write(body)

	var mutex sync.Mutex
	var group sync.WaitGroup
	out := result{Errors: map[string]int{}, Connection: *connections, Size: *size}
	var latencies []time.Duration
	begin := time.Now().Add(*warmup)
	end := begin.Add(*duration)
	for range *connections {
		group.Add(1)
		go func() {
			defer group.Done()
			mine, all, faults := drive(u.Host, request.Bytes(), *size, begin, end)
			mutex.Lock()
			defer mutex.Unlock()
			latencies = append(latencies, mine...)
			out.All += all
			for fault, n := range faults {
				out.Errors[fault] += n
			}
		}()
	}
	group.Wait()
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	out.Requests = len(latencies)
	out.Seconds = duration.Seconds()
	out.PerSecond = float64(out.Requests) / out.Seconds
	if len(latencies) > 0 {
		out.P50 = float64(latencies[len(latencies)/2]) / 1e6
		out.P99 = float64(latencies[len(latencies)*99/100]) / 1e6
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// drive sends one request after the other on one connection, and again on a new one after a fault.
func drive(host string, request []byte, size int, begin, end time.Time) ([]time.Duration, int, map[string]int) {
	latencies := make([]time.Duration, 0, 1<<16)
	faults := map[string]int{}
	all := 0
	var conn net.Conn
	var r *bufio.Reader
	for time.Now().Before(end) {
		if conn == nil {
			var err error
			if conn, err = net.DialTimeout("tcp", host, 5*time.Second); err != nil {
				faults["connect: "+err.Error()]++
				conn = nil
				time.Sleep(10 * time.Millisecond)
				continue
			}
			r = bufio.NewReaderSize(conn, bufferSize)
		}
		start := time.Now()
		_ = conn.SetDeadline(start.Add(20 * time.Second))
		again, err := one(conn, r, request, size)
		took := time.Since(start)
		if err != nil {
			faults[err.Error()]++
		} else {
			all++
			if !start.Before(begin) && start.Add(took).Before(end) {
				latencies = append(latencies, took)
			}
		}
		if err != nil || !again {
			conn.Close()
			conn = nil
		}
	}
	if conn != nil {
		conn.Close()
	}
	return latencies, all, faults
}

func one(conn net.Conn, r *bufio.Reader, request []byte, size int) (bool, error) {
	if _, err := conn.Write(request); err != nil {
		return false, errors.New("write failed")
	}
	h, err := readHead(r)
	if err != nil {
		return false, errors.New("no answer")
	}
	if !strings.HasPrefix(h.first, "HTTP/1.1 200") {
		content := make([]byte, min(h.length, 200))
		_, _ = io.ReadFull(r, content)
		return false, errors.New(h.first + " " + string(content))
	}
	n, err := readBody(r, h)
	if err != nil || n != size {
		return false, fmt.Errorf("the answer has %d bytes", n)
	}
	return !h.close, nil
}

func main() {
	err := errors.New("usage: load serve | load run -url URL [-size N] [-connections N] [-warmup 1s] [-duration 5s] [-header 'NAME: VALUE']")
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		err = serve()
	} else if len(os.Args) > 1 && os.Args[1] == "run" {
		err = run(os.Args[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
