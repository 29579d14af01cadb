//go:build race

package wasi

// raceDetector makes compiling a guest, and a cluster, ten times slower.
const raceDetector = true
