package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
)

// errDeclined is a question that was not answered with the word.
var errDeclined = errors.New("not confirmed: nothing was done")

// confirm says what will happen and asks a person to type a word; where nobody
// can be asked it says how to agree beforehand.
func (p *program) confirm(ctx context.Context, what, word string) error {
	if !p.asking {
		return usagef("%s --yes is needed, because there is no terminal to ask on", what)
	}
	p.stderr.printf("%s\nType %s to confirm: ", what, word)
	answer := make(chan error, 1)
	go func() { // outlives an interrupt: a terminal cannot be read from with a context
		line, err := bufio.NewReader(p.stdin).ReadString('\n')
		switch {
		case strings.TrimSpace(line) == word:
			answer <- nil
		case err != nil:
			answer <- fmt.Errorf("%w (%w)", errDeclined, err)
		default:
			answer <- errDeclined
		}
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", errDeclined, context.Cause(ctx))
	}
}
