//go:build mutants

package mutant

import (
	"fmt"
	"os"
)

// Enabled says whether this build can have a defect.
const Enabled = true

// variable names the defect that is on.
const variable = "MANYKV_MUTANT"

var on = named(Name(os.Getenv(variable)))

func named(name Name) Name {
	if _, known := All[name]; name != "" && !known {
		panic(fmt.Sprintf("mutant: %s=%q, which is none", variable, name))
	}
	return name
}

// On says whether a defect is on.
func On(name Name) bool { return name == on }
