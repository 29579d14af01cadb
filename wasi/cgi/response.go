package cgi

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
)

// response takes what a guest writes on standard output: a head of lines, an empty
// line, a body. The body is passed on as it comes.
type response struct {
	w http.ResponseWriter

	// mu is held while a guest that was ended may still be writing.
	mu    sync.Mutex
	head  bytes.Buffer // until it is whole
	line  int          // where its last line begins, which is not whole
	begun bool         // the head was sent
	err   error        // the first one; nothing is taken after it
}

var errEnded = errors.New("the request has ended")

// end takes nothing more, and returns the error there was. It waits for a write under
// way, which the connection's deadline ends.
func (o *response) end() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.err
	o.err = cmp.Or(err, errEnded)
	return err
}

// Write takes the next bytes.
func (o *response) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.write(b)
	o.err = err
	return n, err
}

func (o *response) write(b []byte) (int, error) {
	if o.begun {
		return o.pass(b)
	}
	taken := min(len(b), maxHeaderBytes-o.head.Len())
	o.head.Write(b[:taken])
	end := o.headEnd()
	switch {
	case end < 0 && taken < len(b):
		return 0, fmt.Errorf("the head of the response is larger than %d bytes", maxHeaderBytes)
	case end < 0:
		return len(b), nil
	}
	if err := o.begin(o.head.Bytes()[:end]); err != nil {
		return 0, err
	}
	if _, err := o.pass(o.head.Bytes()[end:]); err != nil {
		return 0, err
	}
	if _, err := o.pass(b[taken:]); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (o *response) pass(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := o.w.Write(b)
	if errors.Is(err, http.ErrBodyNotAllowed) { // to a HEAD, say: as if it was sent
		return len(b), nil
	}
	return n, err
}

// headEnd returns where the body begins; -1 if the head is not whole.
func (o *response) headEnd() int {
	for {
		rest := o.head.Bytes()[o.line:]
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			return -1
		}
		o.line += n + 1
		if n == 0 || n == 1 && rest[0] == '\r' {
			return o.line
		}
	}
}

// hopByHop are headers about the connection, which is ours, and so is the length.
var hopByHop = []string{"Connection", "Content-Length", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// begin sends the head.
func (o *response) begin(head []byte) error {
	h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(head))).ReadMIMEHeader()
	if err != nil {
		return fmt.Errorf("the head of the response: %w", err)
	}
	status, err := statusOf(h)
	if err != nil {
		return err
	}
	h.Del("Status")
	for _, name := range hopByHop {
		h.Del(name)
	}
	for name, values := range h {
		o.w.Header()[name] = values
	}
	o.begun = true
	o.w.WriteHeader(status)
	return nil
}

// statusOf returns the status that a head means.
func statusOf(h textproto.MIMEHeader) (int, error) {
	text := h.Get("Status")
	switch {
	case text != "":
		code, _, _ := strings.Cut(text, " ")
		n, err := strconv.Atoi(code)
		if err != nil || n < 200 || n > 599 {
			return 0, fmt.Errorf("the response has status %q, want 200 to 599", text)
		}
		return n, nil
	case h.Get("Location") != "":
		return http.StatusFound, nil
	case h.Get("Content-Type") == "":
		return 0, errors.New("the response has neither Content-Type, Status nor Location")
	}
	return http.StatusOK, nil
}

// lines logs what is written, line by line, and the rest at the end.
type lines struct {
	log func(line string)

	mu     sync.Mutex // as a response's
	rest   []byte
	logged int // lines
}

// maxLine is what of a line is logged, and maxLines how many of a request.
const (
	maxLine  = 4 << 10
	maxLines = 100
)

// Write takes the next bytes.
func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		l.rest = append(l.rest, line[:min(len(line), maxLine-len(l.rest))]...)
		if ended {
			l.flush()
		}
		rest = after
	}
	return len(b), nil
}

func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
}

func (l *lines) flush() {
	if len(l.rest) == 0 {
		return
	}
	switch l.logged++; {
	case l.logged < maxLines:
		l.log(string(l.rest))
	case l.logged == maxLines:
		l.log("more lines, which are left out")
	}
	l.rest = l.rest[:0]
}
