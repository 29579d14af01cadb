package transport

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// pipe makes a bulk connection of one end of a pipe; nothing passes its other end unless the test reads or writes there.
func pipe(pace *rate.Limiter) (*bulkConn, net.Conn) {
	ours, theirs := net.Pipe()
	return newBulkConn(context.Background(), &Transport{pace: pace}, ours, func() {}), theirs
}

func TestBulkRateIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond = 1 << 20
		pace := rate.NewLimiter(perSecond, bulkBurst)
		const streams, each = 3, 4 << 20
		var group sync.WaitGroup
		began := time.Now()
		for range streams {
			conn, theirs := pipe(pace)
			group.Go(func() {
				if n, err := conn.Write(fill(each)); n != each || err != nil {
					t.Errorf("wrote %d bytes, %v, want %d", n, err, each)
				}
				must(t, conn.Close())
			})
			group.Go(func() {
				if got, err := io.ReadAll(theirs); err != nil || !bytes.Equal(got, fill(each)) {
					t.Errorf("read %d bytes, %v, want what was written", len(got), err)
				}
			})
		}
		group.Wait()
		want := time.Duration(streams*each-bulkBurst) * time.Second / perSecond
		if took := time.Since(began); took < want || took > want+time.Millisecond {
			t.Errorf("%d bytes took %s at %d a second, want %s", streams*each, took, perSecond, want)
		}
	})
}

func TestBulkWithoutProgressFails(t *testing.T) {
	buf := make([]byte, 1)
	for _, test := range []struct {
		what string
		use  func(c *bulkConn) error
		want time.Duration
	}{
		{"read", func(c *bulkConn) error { _, err := c.Read(buf); return err }, bulkWait},
		{"write", func(c *bulkConn) error { _, err := c.Write(buf); return err }, bulkWait},
		{"read with a deadline", func(c *bulkConn) error {
			must(t, c.SetReadDeadline(time.Now().Add(10*time.Minute)))
			_, err := c.Read(buf)
			return err
		}, 10 * time.Minute},
		{"write with a deadline", func(c *bulkConn) error {
			must(t, c.SetDeadline(time.Now().Add(time.Second)))
			_, err := c.Write(buf)
			return err
		}, time.Second},
		{"read with a deadline taken back", func(c *bulkConn) error {
			must(t, c.SetDeadline(time.Now().Add(time.Second)))
			must(t, c.SetDeadline(time.Time{}))
			_, err := c.Read(buf)
			return err
		}, bulkWait},
		{"deadline taken back meanwhile", func(c *bulkConn) error {
			must(t, c.SetDeadline(time.Now().Add(time.Hour)))
			time.AfterFunc(time.Minute, func() { must(t, c.SetReadDeadline(time.Time{})) })
			_, err := c.Read(buf)
			return err
		}, time.Minute + bulkWait},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, _ := pipe(rate.NewLimiter(rate.Inf, bulkBurst))
				began := time.Now()
				err := test.use(conn)
				if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
					t.Errorf("got %v, want a time-out", err)
				}
				if took := time.Since(began); took != test.want {
					t.Errorf("failed after %s, want %s", took, test.want)
				}
				must(t, conn.Close())
			})
		})
	}
}

// A stream that goes on, however slowly, is not cut off.
func TestSlowBulkGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, theirs := pipe(rate.NewLimiter(minBulkRate, bulkBurst))
		const pieces = 100
		var group sync.WaitGroup
		group.Go(func() {
			if _, err := conn.Write(fill(pieces * bulkPiece)); err != nil {
				t.Error(err)
			}
			must(t, conn.Close())
		})
		piece := make([]byte, bulkPiece)
		for i := range pieces {
			if _, err := io.ReadFull(theirs, piece); err != nil {
				t.Fatalf("piece %d: %v", i, err)
			}
			time.Sleep(bulkWait - time.Second) // of the bubble's clock
		}
		group.Wait()
	})
}

func TestBulkCloseEndsWhatIsUnderWay(t *testing.T) {
	for _, test := range []struct {
		what string
		pace *rate.Limiter
		use  func(c *bulkConn) error
	}{
		{"read", rate.NewLimiter(rate.Inf, bulkBurst), func(c *bulkConn) error { _, err := c.Read(make([]byte, 1)); return err }},
		{"write", rate.NewLimiter(rate.Inf, bulkBurst), func(c *bulkConn) error { _, err := c.Write(fill(1)); return err }},
		{"write that waits for the rate", rate.NewLimiter(1, bulkBurst), func(c *bulkConn) error {
			c.pace.AllowN(time.Now(), bulkBurst)
			_, err := c.Write(fill(bulkPiece))
			return err
		}},
	} {
		t.Run(test.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, _ := pipe(test.pace)
				failed := make(chan error, 1)
				go func() { failed <- test.use(conn) }()
				synctest.Wait()
				began := time.Now()
				must(t, conn.Close())
				if err := <-failed; err == nil {
					t.Error("got no error, want one")
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("ended after %s, want at once", took)
				}
			})
		})
	}
}
