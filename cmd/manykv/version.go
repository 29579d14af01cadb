package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, and what it was built with and for",
		Args:  asUsed,
		Run: func(*cobra.Command, []string) {
			info, _ := debug.ReadBuildInfo()
			p.stdout.printf("%s\n", describeBuild(info))
		},
	}
}

// version is the module's, as the Go toolchain stamped it.
func version() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(info)
}

// versionOf is "(devel)" where nothing was stamped; info may be nil.
func versionOf(info *debug.BuildInfo) string {
	if info == nil || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// describeBuild is the line that a report of a fault should begin with.
func describeBuild(info *debug.BuildInfo) string {
	commit := ""
	if info != nil {
		stamped := make(map[string]string)
		for _, s := range info.Settings {
			stamped[s.Key] = s.Value
		}
		if revision := stamped["vcs.revision"]; revision != "" {
			commit = " (commit " + revision
			if stamped["vcs.modified"] == "true" {
				commit += ", modified"
			}
			commit += ")"
		}
	}
	return fmt.Sprintf("manykv %s%s %s %s/%s", versionOf(info), commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
