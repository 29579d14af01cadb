//go:build race

package cluster

// raceDetector makes memory that is touched for the first time very slow on some
// virtual machines: four bytes of its own for each.
const raceDetector = true
