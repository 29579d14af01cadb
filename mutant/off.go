//go:build !mutants

package mutant

// Enabled says whether this build can have a defect.
const Enabled = false

// On is false in this build.
func On(Name) bool { return false }
