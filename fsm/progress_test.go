package fsm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// resting returns a machine without a store's files: all that Wait needs.
func resting() *machine {
	s := &Store{}
	s.failed, s.fail = context.WithCancelCause(context.Background())
	s.done, s.stop = context.WithCancelCause(s.failed)
	m := &machine{store: s, shard: 1}
	m.advance(Position{})
	return m
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := resting()
		ctx := context.Background()
		if err := m.Wait(ctx, 0); err != nil {
			t.Errorf("waiting for the position it has: %v", err)
		}
		const waiters, last = 50, 5
		var woken [last + 1]int
		wake := make(chan uint64, waiters)
		for i := range waiters {
			index := uint64(i%last + 1)
			go func() {
				if err := m.Wait(ctx, index); err != nil {
					t.Error(err)
				}
				wake <- index
			}()
		}
		synctest.Wait()
		for _, to := range []uint64{2, 5} {
			m.advance(Position{Index: to})
			synctest.Wait()
			for n := len(wake); n > 0; n-- {
				woken[<-wake]++
			}
			for index := 1; index <= last; index++ {
				want := 0
				if uint64(index) <= to {
					want = waiters / last
				}
				if woken[index] != want {
					t.Errorf("at %d: %d waiters for %d came back, want %d", to, woken[index], index, want)
				}
			}
		}
		if n := m.waiting.Len(); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
	})
}

func TestWaitEnds(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		end  func(m *machine, cancel context.CancelFunc)
		want error
	}{
		{"with its context", func(_ *machine, cancel context.CancelFunc) { cancel() }, context.Canceled},
		{"with the store", func(m *machine, _ context.CancelFunc) { m.store.stop(ErrClosed) }, ErrClosed},
		{"with a failure", func(m *machine, _ context.CancelFunc) { m.store.fail(broken) }, broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := resting()
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				got := make(chan error)
				go func() { got <- m.Wait(ctx, 1) }()
				synctest.Wait()
				if n := m.waiting.Len(); n != 1 {
					t.Errorf("%d waiters, want 1", n)
				}
				c.end(m, cancel)
				if err := <-got; !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if n := m.waiting.Len(); n != 0 {
					t.Errorf("%d waiters are left", n)
				}
				m.advance(Position{Index: 1})
				if err := m.Wait(ctx, 1); err != nil {
					t.Errorf("a position that was reached: %v", err)
				}
			})
		})
	}
}
