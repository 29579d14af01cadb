package main

import (
	"math"
	"strings"

	"github.com/spf13/cobra"
)

// asUsed checks a command's arguments against the names in its Use line: KEY...
// stands for one or more, [KEY=VALUE...] for any number.
func asUsed(cmd *cobra.Command, args []string) error {
	names := strings.Fields(cmd.Use)[1:]
	least, most := len(names), len(names)
	if most > 0 {
		last := names[most-1]
		if strings.HasPrefix(last, "[") {
			least--
		}
		if strings.Contains(last, "...") {
			most = math.MaxInt
		}
	}
	does := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
	switch {
	case len(args) < least:
		missing := names[len(args):least]
		verb := "are"
		if len(missing) == 1 {
			verb = "is"
		}
		return usagef("%s %s missing", enumerate(missing), verb)
	case len(args) > most && most == 0:
		return usagef("%s takes no arguments, got %q", does, args[0])
	case len(args) > most:
		return usagef("%s takes %s, got %d arguments", does, enumerate(names), len(args))
	default:
		return nil
	}
}

// enumerate is BUCKET, KEY and VALUE.
func enumerate(names []string) string {
	list := strings.ReplaceAll(strings.Join(names, ", "), "...", "")
	if i := strings.LastIndex(list, ", "); i >= 0 {
		list = list[:i] + " and " + list[i+len(", "):]
	}
	return list
}

// knownTopic checks the arguments of help, which cobra answers with exit code
// 0 whatever they are.
func knownTopic(cmd *cobra.Command, args []string) error {
	_, rest, err := cmd.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return usagef("there is no command %q", strings.Join(args, " "))
	}
	return nil
}
