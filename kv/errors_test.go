package kv_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/manykv/manykv/kv"
)

// codes are the numbers on the wire, which must never change.
var codes = []struct {
	code kv.Code
	err  error
	text string
}{
	{0, nil, ""},
	{1, kv.ErrNoSuchStore, "no such store"},
	{2, kv.ErrExists, "already exists"},
	{3, kv.ErrAccessDenied, "access denied"},
	{4, kv.ErrInvalid, "invalid"},
	{5, kv.ErrTooLarge, "too large"},
	{6, kv.ErrBusy, "busy"},
	{7, kv.ErrUnavailable, "unavailable"},
	{8, kv.ErrUnknown, "outcome unknown"},
	{9, kv.ErrConflict, "conflict"},
}

func TestErrorsAndCodesMatchBothWays(t *testing.T) {
	for _, c := range codes {
		if got := kv.CodeOf(c.err); got != c.code {
			t.Errorf("the code of %v is %d, want %d", c.err, got, c.code)
		}
		if got := c.code.Err(""); got != c.err { // without detail it is the error itself
			t.Errorf("the error of code %d is %v, want %v", c.code, got, c.err)
		}
		if c.err == nil {
			if got := c.code.Err("detail"); got != nil {
				t.Errorf("the error of code 0 with detail is %v, want nil", got)
			}
			continue
		}
		wrapped := fmt.Errorf("shard 3: %w: detail", c.err)
		if got := kv.CodeOf(wrapped); got != c.code {
			t.Errorf("the code of %v is %d, want %d", wrapped, got, c.code)
		}
		got := c.code.Err("detail")
		if !errors.Is(got, c.err) || got.Error() != c.text+": detail" {
			t.Errorf("the error of code %d with detail is %v, want %s: detail", c.code, got, c.text)
		}
	}
}

// Nothing can be said about an error or a code from elsewhere.
func TestForeignErrorsAndCodesAreUnknown(t *testing.T) {
	for _, err := range []error{errors.New("disk on fire"), context.DeadlineExceeded, kv.ErrMalformed} {
		if got := kv.CodeOf(err); got != kv.CodeUnknown {
			t.Errorf("the code of %v is %d, want %d", err, got, kv.CodeUnknown)
		}
	}
	for _, code := range []kv.Code{10, 100, 255} {
		if err := code.Err("whatever"); !errors.Is(err, kv.ErrUnknown) || err.Error() != "outcome unknown: whatever" {
			t.Errorf("the error of code %d is %v, want an unknown outcome", code, err)
		}
	}
}

// A write that may have been applied must not cross the wire as one that was
// not, whatever made its outcome unknown.
func TestAnUnknownOutcomeHidesItsCause(t *testing.T) {
	for _, c := range codes[1:] {
		for _, err := range []error{
			fmt.Errorf("%w: %w", kv.ErrUnknown, c.err),
			fmt.Errorf("%w: %w", c.err, kv.ErrUnknown),
			errors.Join(c.err, kv.ErrUnknown),
		} {
			if got := kv.CodeOf(err); got != kv.CodeUnknown {
				t.Errorf("the code of %q is %d, want %d", err, got, kv.CodeUnknown)
			}
		}
	}
}

// An error reads the same after it crossed the network, twice if need be.
func TestErrorsDoNotRepeatTheirClass(t *testing.T) {
	limits := kv.Limits{KeyBytes: 1}.WithDefaults()
	_, command := limits.CheckWrite(nil)
	for _, err := range []error{
		kv.ErrBusy,
		fmt.Errorf("%w: 12 MiB in flight", kv.ErrBusy),
		limits.CheckKey("ab"),
		limits.CheckKey("\xff"),
		kv.Limits{}.Validate(),
		kv.CheckBucketName(""),
		kv.CheckBucketName("a:b"),
		command,
	} {
		if err == nil {
			t.Fatal("a check that must fail did not")
		}
		far := kv.CodeOf(err).Err(err.Error())
		far = kv.CodeOf(far).Err(far.Error())
		if far.Error() != err.Error() {
			t.Errorf("%q arrives as %q", err, far)
		}
	}
}

func TestDetail(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"busy: 3 waiting", "3 waiting"},
		{"busy: busy: 3 waiting", "busy: 3 waiting"},
		{"3 waiting", "3 waiting"},
		{"busybody: 3 waiting", "busybody: 3 waiting"},
		{"busy", "busy"},
		{"busy: ", "busy: "},
		{"", ""},
	} {
		if got := kv.Detail(kv.ErrBusy, c.text); got != c.want {
			t.Errorf("the detail of %q is %q, want %q", c.text, got, c.want)
		}
	}
}

func TestBatchErrorTellsEveryOutcome(t *testing.T) {
	cause := fmt.Errorf("%w: shard 2 has no leader", kv.ErrUnknown)
	for _, c := range []struct {
		name     string
		outcomes []kv.Outcome
		want     string
	}{
		{
			"mixed",
			[]kv.Outcome{kv.OutcomeApplied, kv.OutcomeUnknown, kv.OutcomeApplied, kv.OutcomeNotApplied, kv.OutcomeApplied, kv.OutcomeUnknown},
			"set-many of 6 keys: 3 applied, 1 not applied, 2 unknown: outcome unknown: shard 2 has no leader",
		},
		{
			"never filled in", make([]kv.Outcome, 2),
			"set-many of 2 keys: 0 applied, 0 not applied, 2 unknown: outcome unknown: shard 2 has no leader",
		},
		{
			"from a later version", []kv.Outcome{kv.OutcomeApplied, 3, 255},
			"set-many of 3 keys: 1 applied, 0 not applied, 2 unknown: outcome unknown: shard 2 has no leader",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := fmt.Errorf("import: %w", &kv.BatchError{Op: "set-many", Outcomes: c.outcomes, Err: cause})
			if got := err.Error(); got != "import: "+c.want {
				t.Errorf("got  %s\nwant import: %s", got, c.want)
			}
			if !errors.Is(err, kv.ErrUnknown) || errors.Is(err, kv.ErrBusy) || kv.CodeOf(err) != kv.CodeUnknown {
				t.Errorf("%v is not seen as its cause alone", err)
			}
			var batch *kv.BatchError
			if !errors.As(err, &batch) || len(batch.Outcomes) != len(c.outcomes) {
				t.Errorf("the outcomes cannot be had from %v", err)
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	for o, want := range map[kv.Outcome]string{0: "unknown", 1: "not applied", 2: "applied", 3: "outcome 3", 255: "outcome 255"} {
		if got := o.String(); got != want {
			t.Errorf("outcome %d is called %q, want %q", uint8(o), got, want)
		}
	}
}
