package main

import (
	"math"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// A negative number is an argument like any other, but looks like a flag: it is
// marked before the flags are parsed. No argument of a process holds a NUL.
const minusMark = "\x00"

var negativeNumber = regexp.MustCompile(`^-[0-9]+$`)

// markNegatives marks the negative numbers among args that are not the values of
// flags.
func markNegatives(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	out := append([]string{}, args...) // not nil: that would mean os.Args
	if err != nil || cmd.HasSubCommands() {
		return out
	}
	for i, arg := range out {
		if negativeNumber.MatchString(arg) && (i == 0 || !takesNext(cmd, out[i-1])) {
			out[i] = minusMark + arg
		}
	}
	return out
}

// takesNext says whether arg is a flag whose value is the next argument.
func takesNext(cmd *cobra.Command, arg string) bool {
	name, ok := strings.CutPrefix(arg, "--")
	if !ok {
		return false
	}
	flag := cmd.Flags().Lookup(name)
	return flag != nil && flag.NoOptDefVal == ""
}

// unmark takes the marks off again.
func unmark(args []string) {
	for i := range args {
		args[i] = strings.TrimPrefix(args[i], minusMark)
	}
}

// asUsed checks a command's arguments against the names in its Use line: KEY...
// stands for one or more, [KEY=VALUE...] for any number.
func asUsed(cmd *cobra.Command, args []string) error {
	unmark(args)
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
	list := strings.NewReplacer("...", "", "[", "", "]", "").Replace(strings.Join(names, ", "))
	if i := strings.LastIndex(list, ", "); i >= 0 {
		list = list[:i] + " and " + list[i+len(", "):]
	}
	return list
}

// knownTopic checks the arguments of help, which cobra answers with exit code
// 0 whatever they are.
func knownTopic(cmd *cobra.Command, args []string) error {
	unmark(args)
	_, rest, err := cmd.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return usagef("there is no command %q", strings.Join(args, " "))
	}
	return nil
}
